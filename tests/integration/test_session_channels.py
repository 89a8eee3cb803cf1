"""Control and data channels against a real trickle server."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from relay.channels.channels import SessionChannels
from relay.channels.events_channel import EventsChannel
from relay.channels.line_publisher import (
    MOST_BYTES_WAITING,
    MOST_LINE_BYTES,
    MOST_LINES_WAITING,
    LinePublisher,
)
from relay.channels.stream_events import StreamReporter, StreamView
from relay.session_config import SessionConfig
from relay.session_health import Health
from relay.session_state import SessionState
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import CreatePolicy
from relay.trickle.server import TrickleServer
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from tests.peers.waiting import until


@pytest.fixture
async def trickle() -> AsyncIterator[TrickleServer]:
    async with TrickleServer(host="127.0.0.1", port=0) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Heard:
    """A session's channels, and what came on them."""

    def __init__(
        self, http: aiohttp.ClientSession, *, wait_for_channel_s: float = 5.0, **urls: str
    ) -> None:
        self.messages: list[dict[str, Any]] = []
        self.on_message: Callable[[], object] = lambda: None
        self.control_ended = asyncio.Event()
        config = SessionConfig("http://h/in", "http://h/out", "http://h", **urls)
        self.channels = SessionChannels(
            config,
            http,
            self._take,
            self.control_ended.set,
            wait_for_channel_s=wait_for_channel_s,
        )

    async def _take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.on_message()

    async def __aenter__(self) -> Heard:
        self.channels.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channels.aclose()


async def publish(publisher: TricklePublisher, data: bytes) -> None:
    segment = await publisher.next_segment()
    await segment.write(data)
    await segment.close()


async def test_control_messages_come_in_order_and_bad_ones_are_counted(
    trickle: TrickleServer, http: aiohttp.ClientSession
) -> None:
    """One object a segment, lines, keepalives between, and rubbish: nothing is lost or fatal."""
    url = f"{trickle.url.rstrip('/')}/control"
    async with Heard(http, control_url=url) as heard:
        async with TricklePublisher(url, content_type="application/json") as publisher:
            await publish(publisher, b'{"width": 640}')
            await until(lambda: heard.messages)
            await publish(publisher, b'{"keep":"alive"}')
            await publish(publisher, b"not json")
            await publish(publisher, b'[1]\n{"prompts": "' + b"x" * 300_000 + b'"}\n{"n": 3}\n')
            await until(lambda: len(heard.messages) == 3)
        async with asyncio.timeout(5):
            await heard.control_ended.wait()
        assert heard.messages[0] == {"width": 640}
        assert len(heard.messages[1]["prompts"]) == 300_000
        assert heard.messages[2] == {"n": 3}
        status = heard.channels.status()["control"]
        assert (status["messages"], status["bad"]) == (3, 2)
        assert "no JSON object" in status["last_problem"]


async def test_a_control_channel_may_be_made_by_its_first_message_however_late(
    trickle: TrickleServer, http: aiohttp.ClientSession
) -> None:
    """That it is not there yet is told, and is no end: it is read as soon as it is."""
    url = f"{trickle.url.rstrip('/')}/control"
    async with Heard(http, control_url=url, wait_for_channel_s=0.05) as heard:
        status = lambda: heard.channels.status()["control"]  # noqa: E731
        await until(lambda: status()["error"])
        assert "does not exist yet" in status()["error"]
        async with TricklePublisher(url, content_type="application/json") as publisher:
            await publish(publisher, b'{"width": 640}')
            await until(lambda: heard.messages)
            assert status()["error"] is None
        async with asyncio.timeout(5):
            await heard.control_ended.wait()


async def test_a_flood_in_one_segment_lets_others_have_their_turns(
    trickle: TrickleServer, http: aiohttp.ClientSession
) -> None:
    """F53: the loop that reads the messages is the loop that media runs on."""
    url = f"{trickle.url.rstrip('/')}/control"
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turn_of: list[int] = []
    async with Heard(http, control_url=url) as heard, TricklePublisher(url) as publisher:
        heard.on_message = lambda: turn_of.append(turns)
        working = asyncio.ensure_future(others())
        try:
            await publish(publisher, b'{"n": 1}\n' * 500)
            await until(lambda: len(heard.messages) == 500)
        finally:
            working.cancel()
    assert len(set(turn_of)) == 500


async def test_lines_of_text_come_once_whole_and_in_batches(
    trickle: TrickleServer, http: aiohttp.ClientSession
) -> None:
    """64 KB lines and UTF-8 among them; each segment is closed; the channel ends with us."""
    url = f"{trickle.url.rstrip('/')}/data"
    texts = [f"日本 {number} " + "é" * (number * 997 % 29000) for number in range(60)]
    async with Heard(http, data_url=url) as heard:
        assert heard.channels.data is not None
        for number, text in enumerate(texts):
            assert heard.channels.data.send({"n": number, "data": text})
        seen: list[dict[str, Any]] = []
        options = SubscriberOptions(wait_for_channel_s=5.0)
        async with TrickleSubscriber(url, start=0, options=options) as subscriber:
            async for segment in subscriber:
                data = await segment.read()
                assert data.endswith(b"\n")
                seen += [json.loads(line) for line in data.splitlines()]
                if len(seen) == len(texts):
                    break
    assert [(line["n"], line["data"]) for line in seen] == list(enumerate(texts))


async def test_an_idle_channel_gets_keepalives(
    trickle: TrickleServer, http: aiohttp.ClientSession
) -> None:
    """Each in a segment of its own, as a line."""
    url = f"{trickle.url.rstrip('/')}/data"
    publisher = LinePublisher(url, http, name="data", keepalive_s=0.05)
    publisher.start()
    try:
        options = SubscriberOptions(wait_for_channel_s=5.0)
        async with TrickleSubscriber(url, start=0, options=options) as subscriber:
            async for segment in subscriber:
                assert await segment.read() == b'{"keep":"alive"}\n'
                if segment.seq >= 2:
                    break
    finally:
        await publisher.aclose()
    assert publisher.lines_sent == 0


async def test_events_come_though_nothing_happens(
    trickle: TrickleServer, http: aiohttp.ClientSession
) -> None:
    """A status every 10 s of a clock that runs quickly; nobody announces it."""
    url = f"{trickle.url.rstrip('/')}/events"
    view = StreamView(SessionState.ACTIVE, Health.OK, 512, 512)
    seconds = itertools.count()
    events = EventsChannel(
        url,
        http,
        StreamReporter(None, "session", 0),
        lambda: view,
        create=CreatePolicy.IF_MISSING,
        look_interval_s=0.01,
        clock=lambda: float(next(seconds)),
    )
    events.start()
    statuses = 0
    try:
        options = SubscriberOptions(wait_for_channel_s=5.0)
        async with asyncio.timeout(10), TrickleSubscriber(url, options=options) as subscriber:
            async for segment in subscriber:
                message = json.loads(await segment.read())
                statuses += message["event"]["type"] == "status"
                if statuses == 4:
                    break
    finally:
        await events.aclose()


async def test_what_can_not_be_published_is_dropped_and_counted(
    http: aiohttp.ClientSession,
) -> None:
    """Nobody waits, and nothing grows, while the server is not there."""
    publisher = LinePublisher("http://127.0.0.1:9/data", http, name="data")
    assert not publisher.send({"data": "x" * MOST_LINE_BYTES})
    for number in range(MOST_LINES_WAITING + 5):
        assert publisher.send({"n": number})
    assert publisher.lines_dropped == 6
    line = "x" * (MOST_LINE_BYTES - 100)
    for _ in range(200):
        assert publisher.send({"data": line})
    waiting = 1000 + 5 + 200 + 1 - publisher.lines_dropped
    assert 0.9 * MOST_BYTES_WAITING < waiting * len(line) <= MOST_BYTES_WAITING
    publisher.start()
    await publisher.aclose()


async def test_an_address_that_is_none_shows_as_the_channel_s_error(
    http: aiohttp.ClientSession,
) -> None:
    """What can never be written keeps nothing waiting: it is counted as dropped."""
    publisher = LinePublisher("http://127.0.0.1:9/data//", http, name="data")
    assert publisher.send({"n": 1})
    publisher.start()
    try:
        await until(lambda: publisher.error)
        assert "is not a trickle channel" in publisher.status()["error"]
        assert publisher.send({"n": 2})
        assert publisher.lines_dropped == 2
    finally:
        await publisher.aclose()
