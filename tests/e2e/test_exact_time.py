"""Whatever the source's clock does, each frame is on the output once, under its own time."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import (
    Viewer,
    assert_every_frame_once_with_its_time,
    in_background,
    running_stack,
)

WRAP = 1 << 33
SMALL: dict[str, Any] = {"width": 128, "height": 128, "plain": True, "audio": False}
CASES = {
    "33 bits wrap": (PatternOptions(frames=60, start_pts=WRAP - 90_000, **SMALL), ()),
    "32 bits of RTP wrap": (PatternOptions(frames=60, **SMALL), ("--rtp-origin", "4294877296")),
    "B-frames": (PatternOptions(frames=60, b_frames=2, profile="main", **SMALL), ()),
    "1 fps": (PatternOptions(frames=8, fps=Fraction(1), **SMALL), ()),
    "3 fps": (PatternOptions(frames=15, fps=Fraction(3), **SMALL), ()),
    "60 fps": (PatternOptions(frames=120, fps=Fraction(60), **SMALL), ()),
    "a rate that varies": (
        PatternOptions(frames=60, steps=(1501, 4499, 3000, 9000, 2007, 3000, 3001), **SMALL),
        (),
    ),
    "gaps": (PatternOptions(frames=60, steps=(3000,) * 9 + (40_000,), **SMALL), ()),
    "29.97 fps": (PatternOptions(frames=60, fps=Fraction(30_000, 1001), **SMALL), ()),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES)
async def test_every_frame_has_its_own_time_to_the_tick(case: str) -> None:
    """None lost, none twice, none under another's time, whichever clock wraps and at any rate."""
    options, faults = CASES[case]
    viewer = Viewer()
    async with running_stack(*faults) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))) as (
            source,
        ):
            session = await stack.start("camera", width=128, height=128)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    processed = [frame for frame in viewer.frames if frame.inverted]
    assert len(processed) >= len(viewer.frames) // 2
    unwrapped, turns = [], 0
    for frame in viewer.frames:
        # The viewer's own demuxer unwraps from where it began.
        turns = round((options.start_pts - frame.pts) / WRAP) if not unwrapped else turns
        unwrapped.append(frame.pts + turns * WRAP)
    for frame, pts in zip(viewer.frames, unwrapped, strict=True):
        frame_number = frame.number
        assert frame_number is not None
        assert server["frames"]["replaced"] or pts == options.pts(frame_number)
    last = viewer.frames[-1].number
    assert last is not None
    # A loaded machine may not bring back all that is under way when the source ends (0.3 s).
    assert last >= (options.frames or 0) * 3 // 4
    offset = viewer.frames[0].pts - unwrapped[0]
    assert_every_frame_once_with_its_time(
        viewer, lambda number: options.pts(number) + offset, last, status, server
    )
