"""The stand-in's data channels: replies, silences, error texts, freezing and recovery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from demo.standin import ComfyStreamStandIn, Faults
from tests.integration.standin_client import (
    AUDIO,
    INVERT,
    PASS,
    STEP,
    Client,
    connect,
    post,
    until,
)

CHANNELS = ["control", "data"]
BROKEN = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "SaveTensor", "inputs": {"images": ["7", 0]}},
}
NO_INPUT = {
    "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500, "timeout_seconds": 0.2}},
    "2": AUDIO["2"],
}
TEXT = {
    **PASS,
    "3": {"class_type": "SaveTextTensor", "inputs": {"data": "two\nlines"}},
}


@pytest.fixture
async def standin() -> AsyncIterator[ComfyStreamStandIn]:
    async with ComfyStreamStandIn() as server:
        yield server


@pytest.fixture
async def peer(standin: ComfyStreamStandIn) -> AsyncIterator[Client]:
    """A client in prompt mode, with both channels, streaming all the time."""
    async with connect(standin.url, [INVERT], channels=CHANNELS) as connected:
        connected.start(connected.stream(range(2000)))
        await connected.wait_pictures(3)
        yield connected


async def pictures_after(peer: Client, count: int) -> list[Any]:
    """The last of `count` further pictures."""
    await peer.wait_pictures(len(peer.pictures) + count)
    return peer.pictures[-2:]


async def frozen(standin: ComfyStreamStandIn, peer: Client) -> bool:
    """Frames go on coming in and none goes out, apart from what was on its way."""
    for _ in range(3):
        before, received = len(peer.pictures), standin.state()["frames"]["received"]
        await until(standin, lambda state, r=received: state["frames"]["received"] > r + 5)
        if len(peer.pictures) == before:
            return True
    return False


async def test_get_nodes_shows_the_workflow_with_its_types(peer: Client) -> None:
    """Nodes come by position and id, with values and declared types."""
    reply = await peer.ask("get_nodes")
    assert set(reply) == {"type", "nodes"}
    assert reply["type"] == "nodes_info"
    node = reply["nodes"]["0"]["2"]
    assert node["class_type"] == "ImageInvert"
    assert node["inputs"]["image"] == {
        "value": ["1", 0],
        "type": "IMAGE",
        "min": None,
        "max": None,
        "widget": None,
    }


async def test_get_nodes_of_a_fresh_server_is_empty(standin: ComfyStreamStandIn) -> None:
    """Before any workflow there is nothing to show."""
    async with connect(standin.url, channels=CHANNELS) as noop:
        assert await noop.ask("get_nodes") == {"type": "nodes_info", "nodes": {}}


async def test_get_nodes_outlives_the_workflow_s_owner(standin: ComfyStreamStandIn) -> None:
    """The workflow is the server's: another client still sees it after its owner left."""
    async with connect(standin.url, [INVERT]):
        pass
    await until(standin, lambda state: state["pipeline"]["state"] == "UNINITIALIZED")
    async with connect(standin.url, channels=CHANNELS) as noop:
        assert len((await noop.ask("get_nodes"))["nodes"]["0"]) == 3


async def test_an_update_changes_the_picture(peer: Client) -> None:
    """update_prompts takes a dict or a list and takes effect while streaming."""
    assert await peer.ask("update_prompts", prompts=PASS) == {
        "type": "prompts_updated",
        "success": True,
    }
    assert not any(p.inverted for p in await pictures_after(peer, 8))
    assert (await peer.ask("update_prompts", prompts=[INVERT]))["success"] is True
    assert all(p.inverted for p in await pictures_after(peer, 8))


async def test_update_resolution_changes_nothing_in_the_stream(
    standin: ComfyStreamStandIn, peer: Client
) -> None:
    """It is acknowledged, remembered for warm-ups, and has no effect on pictures."""
    reply = await peer.ask("update_resolution", width=64, height=0)
    assert reply == {"type": "resolution_updated", "success": True}
    size = (await pictures_after(peer, 5))[-1].size
    assert size == peer.pictures[0].size
    assert standin.state()["pipeline"]["height"] == 0
    for fields in ({"width": 64}, {"width": None, "height": 64}):
        assert await peer.ask("update_resolution", **fields) == {
            "type": "resolution_updated",
            "success": False,
            "error": "Missing 'width' or 'height' in control message",
        }


@pytest.mark.parametrize(("verb", "past"), [("pause", "paused"), ("stop", "stopped")])
async def test_pause_and_stop_freeze_until_resume(
    standin: ComfyStreamStandIn, peer: Client, verb: str, past: str
) -> None:
    """Nothing returns meanwhile, labels pile up, and pts are wrong from then on."""
    assert await peer.ask(f"{verb}_prompts") == {"type": f"prompts_{past}", "success": True}
    assert await frozen(standin, peer)
    assert standin.state()["queues"]["video_labels"] >= 5
    assert await peer.ask("resume_prompts") == {"type": "prompts_resumed", "success": True}
    last = (await pictures_after(peer, 8))[-1]
    assert last.number is not None
    assert last.number > last.pts // STEP + 3


async def test_what_is_not_understood_is_not_answered(peer: Client) -> None:
    """Unknown or missing types, lists and text that is no JSON get no reply at all."""
    for text in ('{"type": "dance"}', "{}", "[]", "7", "not json"):
        await peer.tell(text)
    assert (await peer.ask("get_nodes"))["type"] == "nodes_info"
    assert peer.replies.empty()


async def test_a_missing_prompts_field_does_no_harm(
    standin: ComfyStreamStandIn, peer: Client
) -> None:
    """It is an error reply, and the stream goes on."""
    assert await peer.ask("update_prompts") == {
        "type": "prompts_updated",
        "success": False,
        "error": "Missing 'prompts' in control message",
    }
    await pictures_after(peer, 5)
    assert standin.state()["pipeline"]["state"] == "STREAMING"


async def test_a_failed_update_freezes_until_stop_and_resume(
    standin: ComfyStreamStandIn, peer: Client
) -> None:
    """ERROR: no frames, a good update does not help, resume is refused, stop then resume is not."""
    assert (await peer.ask("update_prompts", prompts=BROKEN))["success"] is False
    assert standin.state()["pipeline"]["state"] == "ERROR"
    assert await frozen(standin, peer)
    assert await peer.ask("resume_prompts") == {
        "type": "prompts_resumed",
        "success": False,
        "error": "Cannot start streaming in state: ERROR",
    }
    assert (await peer.ask("update_prompts", prompts=PASS))["success"] is True
    assert standin.state()["pipeline"]["state"] == "ERROR"
    assert await frozen(standin, peer)
    assert (await peer.ask("stop_prompts"))["success"] is True
    assert (await peer.ask("resume_prompts"))["success"] is True
    await pictures_after(peer, 3)


async def test_every_bad_update_says_why_and_sets_error(
    standin: ComfyStreamStandIn, peer: Client
) -> None:
    """The texts of the error replies; each is recovered from by stop and resume."""
    for prompts, error in (
        ([PASS, PASS], "Number of updated prompts must match the number of currently running"),
        ([], "Number of updated prompts must match the number of currently running prompts."),
        (BROKEN, "Prompt update failed: "),
        (NO_INPUT, "Prompt update failed: No audio frames available after 0.2s timeout"),
        ("text", "Invalid inputs"),
        (None, "Invalid inputs"),
    ):
        reply = await peer.ask("update_prompts", prompts=prompts)
        assert (reply["type"], reply["success"]) == ("prompts_updated", False)
        assert reply["error"].startswith(error)
        assert standin.state()["pipeline"]["state"] == "ERROR"
        assert (await peer.ask("stop_prompts"))["success"] is True
        assert (await peer.ask("resume_prompts"))["success"] is True
    await pictures_after(peer, 3)


async def test_a_bad_post_prompt_freezes_and_a_good_one_needs_resume(
    standin: ComfyStreamStandIn, peer: Client
) -> None:
    """POST /prompt with a live client: a 500 sets ERROR, a 200 then leaves it READY."""
    assert (await post(standin.url, "/prompt", {"text": "x"}))[0] == 500
    assert standin.state()["pipeline"]["state"] == "ERROR"
    assert (await post(standin.url, "/prompt", PASS))[0] == 200
    assert standin.state()["pipeline"]["state"] == "READY"
    assert await frozen(standin, peer)
    assert (await peer.ask("resume_prompts"))["success"] is True
    await pictures_after(peer, 3)


async def test_a_noop_client_gets_success_for_nothing_and_can_edit_prompts(
    standin: ComfyStreamStandIn, peer: Client
) -> None:
    """Only update_prompts reaches the workflow, which belongs to another client."""
    async with connect(standin.url, channels=CHANNELS) as noop:
        for verb in ("pause_prompts", "stop_prompts", "resume_prompts"):
            assert (await noop.ask(verb))["success"] is True
        assert (await noop.ask("update_resolution", width="1", height="1"))["success"] is True
        assert standin.state()["pipeline"]["state"] == "STREAMING"
        assert standin.state()["pipeline"]["width"] == 512
        assert (await noop.ask("update_prompts", prompts=PASS))["success"] is True
    assert not any(p.inverted for p in await pictures_after(peer, 8))


async def test_a_silent_fallback_shows_in_get_nodes(standin: ComfyStreamStandIn) -> None:
    """A node that fails in mid-stream leaves the picture unprocessed and get_nodes tells."""
    standin.set_faults(fail_after_runs=6)
    async with connect(standin.url, [INVERT], channels=CHANNELS) as peer:
        peer.start(peer.stream(range(200)))
        await peer.wait_pictures(3)
        assert peer.pictures[0].inverted
        await until(standin, lambda state: state["pipeline"]["fell_back"])
        assert not any(p.inverted for p in await pictures_after(peer, 6))
        nodes = (await peer.ask("get_nodes"))["nodes"]["0"]
        assert {n["class_type"] for n in nodes.values()} == {"LoadTensor", "SaveTensor"}


async def test_text_comes_on_the_data_channel(standin: ComfyStreamStandIn) -> None:
    """Every run's text is sent, without line breaks."""
    async with connect(standin.url, TEXT, channels=CHANNELS) as peer:
        peer.start(peer.stream(range(200)))
        await peer.wait_pictures(10)
        await peer.wait_texts(5)
    assert peer.texts[0] == {"type": "text", "data": "twolines"}


async def test_any_peer_s_close_ends_text_for_all(standin: ComfyStreamStandIn) -> None:
    """A client that leaves takes the text of the others with it."""
    async with connect(standin.url, TEXT, channels=CHANNELS) as peer:
        peer.start(peer.stream(range(500)))
        await peer.wait_pictures(3)
        async with connect(standin.url, channels=CHANNELS):
            pass
        await until(standin, lambda state: len(state["ended"]) == 1)
        await asyncio.sleep(0)
        before = len(peer.texts)
        await pictures_after(peer, 12)
        assert len(peer.texts) <= before + 1
        assert standin.state()["queues"]["text_outputs"] > 5


async def test_a_data_channel_in_noop_stays_silent(standin: ComfyStreamStandIn) -> None:
    """Without prompts nothing comes on it, whatever workflow the server holds."""
    assert (await post(standin.url, "/prompt", TEXT))[0] == 200
    async with connect(standin.url, channels=CHANNELS) as peer:
        await peer.ask("get_nodes")
        assert standin.state()["connections"][0]["channels"] == CHANNELS
        assert peer.texts == []


async def test_the_control_channel_can_be_silent_or_late() -> None:
    """Faults: no replies at all, or replies after a delay."""
    faults = Faults(control_silent=True)
    async with (
        ComfyStreamStandIn(faults=faults) as standin,
        connect(standin.url, channels=CHANNELS) as peer,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await peer.ask("get_nodes")
        standin.set_faults(control_silent=False, control_delay_s=0.3)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        await peer.ask("get_nodes")
        assert loop.time() - asked_at >= 0.3
        assert json.dumps(standin.state())
