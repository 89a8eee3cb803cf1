"""The control channel's client: replies found by type, one request of a type at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relay.comfystream.control import REPLIES, ControlClient
from relay.comfystream.running_workflow import check_running
from relay.errors import ProcessingError
from tests.peers.waiting import until


class Channel:
    """What a client sent, and a way to answer."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.client = ControlClient(lambda text: self.sent.append(json.loads(text)))
        self.client.opened()

    async def request(self, kind: str, **fields: Any) -> asyncio.Task[dict[str, Any]]:
        """A request that is on its way."""
        count = len(self.sent)
        task = asyncio.create_task(self.client.request(kind, **fields))
        await until(lambda: len(self.sent) > count)
        return task

    def answer(self, **reply: Any) -> None:
        self.client.receive(json.dumps(reply))


@pytest.mark.parametrize(("kind", "expected"), REPLIES.items())
async def test_each_request_has_its_reply(kind: str, expected: str) -> None:
    """Found by type, whatever else comes first."""
    channel = Channel()
    task = await channel.request(kind, x=1)
    for noise in ("", "{", "[]", "7", '"text"', '{"type": 7}', '{"type": "other"}', b"\xff"):
        channel.client.receive(noise)
    channel.answer(type=expected, success=True)
    assert (await task)["type"] == expected
    assert channel.sent == [{"type": kind, "x": 1}]


async def test_two_requests_of_a_type_take_turns() -> None:
    """The second is sent when the first has its reply; other types don't wait."""
    channel = Channel()
    first = await channel.request("pause_prompts")
    second = asyncio.create_task(channel.client.request("pause_prompts"))
    other = await channel.request("get_nodes")
    assert [message["type"] for message in channel.sent] == ["pause_prompts", "get_nodes"]
    channel.answer(type="prompts_paused", success=True)
    await first
    await until(lambda: len(channel.sent) == 3)
    channel.answer(type="prompts_paused", success=True)
    channel.answer(type="nodes_info", nodes={})
    await asyncio.gather(second, other)


async def test_a_refusal_holds_the_server_s_words() -> None:
    """As `control_failed`."""
    channel = Channel()
    task = await channel.request("update_prompts", prompts=[])
    channel.answer(type="prompts_updated", success=False, error="Missing 'prompts'")
    with pytest.raises(ProcessingError, match="Missing 'prompts'") as caught:
        await task
    assert caught.value.code == "control_failed"


async def test_silence_is_an_error_and_the_next_request_goes_on() -> None:
    """What the server does not understand it does not answer."""
    channel = Channel()
    with pytest.raises(ProcessingError) as caught:
        await channel.client.request("get_nodes", timeout_s=0.01)
    assert caught.value.code == "control_timeout"
    task = await channel.request("get_nodes")
    channel.answer(type="nodes_info", nodes={})
    await task


async def test_a_channel_that_never_opens_is_a_time_out_too() -> None:
    """The limit counts from the turn, not from the opening."""
    client = ControlClient(lambda _: None)
    with pytest.raises(ProcessingError) as caught:
        await client.request("get_nodes", timeout_s=0.01)
    assert caught.value.code == "control_timeout"


async def test_whoever_asks_anything_does_not_wait_for_ever_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor do those behind him."""
    monkeypatch.setattr("relay.comfystream.control.TIMEOUT_S", 0.01)
    client = ControlClient(lambda _: None)
    for _ in range(2):
        with pytest.raises(ProcessingError) as caught:
            await client.ask({"type": "something_new"})
        assert caught.value.code == "control_timeout"


async def test_bounds_that_are_none_are_null() -> None:
    """Python's JSON writes them as no JSON; who asked over HTTP is answered in JSON."""
    channel = Channel()
    task = asyncio.create_task(channel.client.get_nodes())
    await until(lambda: channel.sent)
    channel.client.receive(
        '{"type": "nodes_info", "nodes": {"0": {"max": Infinity, "min": -1e999, "value": NaN}}}'
    )
    assert await task == [{"max": None, "min": None, "value": None}]


async def test_closing_tells_all_who_wait() -> None:
    """At once, and whoever asks later."""
    channel = Channel()
    tasks = [await channel.request("get_nodes"), await channel.request("stop_prompts")]
    channel.client.close()
    for task in [*tasks, channel.client.request("get_nodes")]:
        with pytest.raises(ProcessingError) as caught:
            await task
        assert caught.value.code == "control_closed"


@pytest.mark.parametrize("nodes", [None, [], "x", {"0": 7}])
async def test_nodes_of_another_shape_are_refused(nodes: Any) -> None:
    """Not handed on to whoever reads them."""
    channel = Channel()
    task = asyncio.create_task(channel.client.get_nodes())
    await until(lambda: channel.sent)
    channel.answer(type="nodes_info", nodes=nodes)
    with pytest.raises(ProcessingError) as caught:
        await task
    assert caught.value.code == "control_failed"


def flow(*classes: str) -> dict[str, Any]:
    return {str(number): {"class_type": name} for number, name in enumerate(classes)}


INVERT = flow("LoadTensor", "ImageInvert", "SaveTensor")
DEFAULT = flow("LoadTensor", "SaveTensor")


@pytest.mark.parametrize(
    ("requested", "running", "well"),
    [
        ([INVERT], [INVERT], True),
        ([INVERT], [DEFAULT], False),
        ([INVERT], [], False),
        ([INVERT, DEFAULT], [INVERT, DEFAULT], True),
        ([INVERT, DEFAULT], [DEFAULT], False),
        ([DEFAULT], [DEFAULT], True),
        ([flow("LoadImage", "Blur", "PreviewImage")], [flow("LoadTensor", "Blur")], True),
        ([flow("LoadImage", "PreviewImage")], [DEFAULT], True),
        ([INVERT], [{"0": 7}], False),
    ],
)
def test_the_silent_switch_is_seen(
    requested: list[dict[str, Any]], running: list[dict[str, Any]], well: bool
) -> None:
    """None of the classes that were asked for runs, though the server's own workflow does."""
    problem = check_running(requested, running)
    assert (problem is None) is well
    assert problem is None or problem.code == "workflow_not_running"
