"""Lines for a channel that comes and goes: which are sent, which wait, which are counted."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

import aiohttp
import pytest

from relay.channels import line_publisher
from relay.channels.line_publisher import MOST_LINES_WAITING, LinePublisher
from relay.trickle.errors import ChannelClosedError, TrickleError, UnavailableError
from tests.peers.waiting import until


class Channel:
    """Takes the place of publisher and segment both, and fails as it is told."""

    def __init__(self) -> None:
        self.error: TrickleError | None = None
        self.written: list[bytes] = []
        self.asked = 0

    def __call__(self, url: str, **_: Any) -> Channel:
        return self

    async def start(self) -> None: ...

    async def next_segment(self) -> Channel:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def finish(self) -> None: ...

    async def aclose(self, *, delete: bool) -> None: ...


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    channel = Channel()
    monkeypatch.setattr(line_publisher, "TricklePublisher", channel)
    monkeypatch.setattr(line_publisher, "backoff_delays", lambda *_: itertools.repeat(0.001))
    return channel


def line_to_nowhere() -> LinePublisher:
    http = cast(aiohttp.ClientSession, None)
    return LinePublisher("http://h/data", http, name="data", linger_s=0.0)


async def test_the_line_in_hand_waits_for_the_channel_to_come_back(channel: Channel) -> None:
    """It goes out once, before those that followed."""
    publisher = line_to_nowhere()
    channel.error = UnavailableError("out of reach")
    publisher.send({"n": 1})
    publisher.start()
    await until(lambda: channel.asked > 2)
    assert publisher.status()["error"] == "out of reach"
    publisher.send({"n": 2})
    channel.error = None
    await until(lambda: publisher.lines_sent == 2)
    await publisher.aclose()
    assert b"".join(channel.written) == b'{"n":1}\n{"n":2}\n'
    assert publisher.lines_dropped == 0


async def test_in_an_outage_the_newest_lines_wait(channel: Channel) -> None:
    """No more than there is room for, those in hand among them."""
    publisher = line_to_nowhere()
    channel.error = UnavailableError("out of reach")
    for number in range(MOST_LINES_WAITING + 7):
        publisher.send({"n": number})
    publisher.start()
    await until(lambda: channel.asked > 1)
    publisher.send({"n": "last"})
    await publisher.aclose()
    assert publisher.lines_dropped == MOST_LINES_WAITING + 8


@pytest.mark.parametrize("error", [UnavailableError("away"), ChannelClosedError("closed")])
async def test_what_could_not_be_sent_to_the_end_is_counted(
    channel: Channel, error: TrickleError
) -> None:
    """Those that waited, and those that come when there is nothing to wait for any more."""
    publisher = line_to_nowhere()
    channel.error = error
    publisher.send({"n": 1})
    publisher.start()
    await until(lambda: publisher.error)
    publisher.send({"n": 2})
    await publisher.aclose()
    publisher.send({"n": 3})
    assert (publisher.lines_sent, publisher.lines_dropped) == (0, 3)


async def test_a_line_that_is_cut_off_in_mid_wait_is_counted(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end does not wait for a server that hangs."""
    monkeypatch.setattr(line_publisher, "CLOSE_TIMEOUT_S", 0.01)
    hanging = asyncio.Event()

    async def hang() -> Channel:
        hanging.set()
        await asyncio.Event().wait()
        return channel

    monkeypatch.setattr(channel, "next_segment", hang)
    publisher = line_to_nowhere()
    publisher.send({"n": 1})
    publisher.start()
    await hanging.wait()
    await publisher.aclose()
    assert publisher.lines_dropped == 1
