"""A workflow slower than its input, end to end, and then fast again."""

from __future__ import annotations

import asyncio

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import Viewer, in_background, running_stack


@pytest.mark.timeout(60)
async def test_a_slow_workflow_is_fed_at_its_rate_and_followed_when_it_is_fast() -> None:
    """10 fps for 8 s of a 30 fps source: nothing piles up in the server, each picture is under its
    own time or at most one workflow frame off, time only rises, nothing is counted but what was
    skipped; then the full rate comes back."""
    options = PatternOptions(frames=900, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack("--process-ms", "100") as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: len(v.frames) >= 50, 30)
                state = await stack.comfystream.state()
                slow = len(viewer.frames)
                assert state["queues"]["video_labels"] <= 2 + state["frames"]["replaced"]
                assert state["frames"]["replaced"] <= 1
                await stack.comfystream.set_faults(process_ms=0)
                async with asyncio.timeout(10):
                    await viewer.wait_for(lambda v: full_rate(v))
                status = await stack.status(session)
                replaced = (await stack.comfystream.state())["frames"]["replaced"]
    skipped = status["frames_dropped"]["decoded_frames"]
    assert skipped["server_busy"] > slow
    assert set(skipped) <= {"server_busy", "not_connected", "before_connection"}
    errors = []
    for before, after in zip(viewer.frames, viewer.frames[1:], strict=False):
        assert after.pts > before.pts
        assert after.number is not None
        errors.append(abs(after.pts - options.pts(after.number)))
    assert max(errors) <= 2 * 9000
    assert replaced or not any(errors)


def full_rate(viewer: Viewer) -> bool:
    """Whether the last pictures are twice as many as the slow workflow could have made, at least.
    A machine that is busy itself may skip some."""
    numbers = [frame.number for frame in viewer.frames[-15:]]
    return None not in numbers and (numbers[-1] or 0) - (numbers[0] or 0) < 1.5 * len(numbers)
