"""Numbered frames through the real path: trickle, relay, WebRTC, stand-in, and back."""

from __future__ import annotations

import asyncio

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import (
    Stack,
    Viewer,
    assert_every_frame_once_with_its_time,
    in_background,
    running_stack,
)

FRAMES = 150


def live_pattern(stack: Stack, channel: str, options: PatternOptions) -> object:
    return publish_live(stack.channel(channel), generate(options))


@pytest.mark.timeout(60)
async def test_every_frame_arrives_once_inverted_with_its_time() -> None:
    """The default workflow: each frame once, in order, inverted, its source pts exact, and the
    end of the input ends session and output."""
    options = PatternOptions(frames=FRAMES, plain=True)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(live_pattern(stack, "camera", options)) as (source,):
            session = await stack.start("camera")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    assert_every_frame_once_with_its_time(viewer, options.pts, FRAMES - 1, status, server)
    assert len(viewer.frames) >= 30
    assert all(frame.inverted for frame in viewer.frames)
    assert (status["status"], status["end_reason"]) == ("stopped", "input_ended")
    assert status["error"] is None


@pytest.mark.timeout(60)
async def test_audio_goes_along_untouched() -> None:
    """Each audio packet of the shared time is on the output once, byte for byte, in time."""
    options = PatternOptions(frames=FRAMES, plain=True)
    source_viewer, viewer = Viewer(), Viewer()
    async with running_stack() as stack:
        async with in_background(live_pattern(stack, "camera", options)) as (source,):
            session = await stack.start("camera", prompts=[])
            async with in_background(
                source_viewer.watch(stack.channel("camera")),
                viewer.watch(stack.channel("camera-processed")),
            ):
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    sent = {unit.pts: unit.data for unit in source_viewer.audio}
    got = [(unit.pts, unit.data) for unit in viewer.audio]
    assert len(got) > 10
    first = got[0][0]
    assert got == [(pts, data) for pts, data in sorted(sent.items()) if pts >= first]
    assert_every_frame_once_with_its_time(viewer, options.pts, FRAMES - 1, status, server)
    assert not any(frame.inverted for frame in viewer.frames)


@pytest.mark.timeout(60)
async def test_delete_ends_everything_in_good_order() -> None:
    """DELETE answers within its two seconds, the output channel ends, the server was told."""
    options = PatternOptions(frames=600, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(
            live_pattern(stack, "camera", options),
        ):
            session = await stack.start("camera")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: len(v.frames) > 20)
                status = await stack.status(session)
                assert (status["status"], status["webrtc_state"]) == ("active", "connected")
                assert set(status["queue_sizes"]) == {
                    "coded_frames",
                    "decoded_frames",
                    "processed_frames",
                    "output_segments",
                }
                async with asyncio.timeout(2.0):
                    answer = await stack.call("DELETE", f"/session/{session}")
                assert answer == (
                    200,
                    {"success": True, "message": f"Session {session} stopped"},
                )
                await viewer.wait_for(lambda v: v.ended)
                assert (await stack.call("DELETE", f"/session/{session}"))[0] == 404
                status = await stack.status(session)
                assert (status["status"], status["end_reason"]) == ("stopped", "requested")
                _, ended = await stack.call("GET", "/sessions?ended=true")
                assert [entry["session_id"] for entry in ended["sessions"]] == [session]
                state = await stack.comfystream.state()
                # It forgets a closed connection a few milliseconds later.
                for connection in state["connections"]:
                    assert (connection["state"], connection["lost"]) == ("closed", False)
    last = viewer.frames[-1].number
    assert last is not None
    assert_every_frame_once_with_its_time(viewer, options.pts, last, status, state)
