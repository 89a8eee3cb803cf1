"""Each hop stands still for three seconds, as a whole process; then the delay is what it was."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from fractions import Fraction
from itertools import pairwise
from statistics import median

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import SeenFrame, Viewer, in_background, running_stack
from tests.faults.scene import QUICK
from tests.peers.trickle_process import trickle_process

STALL_S = 3.0
BACK_WITHIN_S = 1.0
NOISE_S = 0.25
"""Of a machine that runs other tests as well, on the median of a second and a half."""


def delay_s(frames: list[SeenFrame], start: float, end: float) -> float:
    """The middle delay of what was seen then, from an origin that is the same for all."""
    delays = [
        frame.seen_at - frame.pts / 90_000 for frame in frames if start <= frame.seen_at < end
    ]
    assert len(delays) > 5, "next to nothing was seen"
    return median(delays)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("hop", ["input", "comfystream", "output"])
async def test_a_hop_that_stands_for_three_seconds_costs_its_time_and_no_more(hop: str) -> None:
    """A second after it goes on the delay is back, time only rises, no frame comes twice, and
    every one that is missing is counted."""
    options = PatternOptions(width=256, height=256, fps=Fraction(20), plain=True, audio=False)
    viewer = Viewer()
    async with AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        stack = await enter(running_stack(**{**QUICK, "media_timeout_s": 10.0}))
        other, pid = await enter(trickle_process())
        source = f"{other}/camera" if hop == "input" else stack.channel("camera")
        output = f"{other}/out" if hop == "output" else stack.channel("out")
        pids = {"input": pid, "output": pid, "comfystream": stack.comfystream.pid}
        await enter(in_background(publish_live(source, generate(options))))
        session = await stack.start(
            "camera",
            input_stream_url=source,
            output_stream_url=output,
            width=256,
            height=256,
            fallback="none",
        )
        await enter(in_background(viewer.watch(output)))
        await viewer.wait_for(lambda v: len(v.frames) > 40, 30)
        before = delay_s(viewer.frames, time.monotonic() - 1.5, time.monotonic())
        os.kill(pids[hop], signal.SIGSTOP)
        try:
            await asyncio.sleep(STALL_S)
        finally:
            os.kill(pids[hop], signal.SIGCONT)
        resumed = time.monotonic()
        await viewer.wait_for(lambda v: v.frames[-1].seen_at > resumed + BACK_WITHIN_S + 1.5, 20)
        after = delay_s(viewer.frames, resumed + BACK_WITHIN_S, resumed + BACK_WITHIN_S + 1.5)
        status = await stack.status(session)
        await stack.call("DELETE", f"/session/{session}")
    assert after - before < NOISE_S
    assert status["processing"]["reconnects"] == 0
    assert all(earlier.pts < later.pts for earlier, later in pairwise(viewer.frames))
    numbers = [frame.number for frame in viewer.frames if frame.number is not None]
    assert len(set(numbers)) == len(viewer.frames)
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    counted = sum(sum(reasons.values()) for reasons in status["frames_dropped"].values())
    accounted = counted + status["processing"]["frames_abandoned"] + 2
    segments = status["output"]["segments_lost"] + status["input"]["segments_skipped"]
    assert missing <= accounted or segments > 0, (missing, status["frames_dropped"])
