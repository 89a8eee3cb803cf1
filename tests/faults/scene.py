"""A session under way, and somebody who watches its output, for tests that then break things."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from bench.trickle_processes import memory_mb
from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import (
    SeenFrame,
    Stack,
    Viewer,
    in_background,
    left_out_before_server,
    running_stack,
)
from tests.standin_process import StandIn

FPS = 20
QUICK: dict[str, Any] = {
    "media_timeout_s": 1.0,
    "reconnect_first_wait_s": 0.2,
    "reconnect_longest_wait_s": 0.4,
    "quarantine_s": 3.0,
    "segment_seconds": 0.5,
}
"""Settings with which a test has little to wait for."""
FREEZE_S = 4.0
"""No picture may stand for longer: the grace of a second, and much for a machine under load, where
relay, source and viewer of a test share one process."""
NOTICE_S = 6.0
"""The same for what has to be noticed within one or two seconds."""
STANDS_S = 0.3
"""A gap between two pictures that is longer is a standstill: six frames."""
QUEUED_MOST = FPS
"""What may wait in a queue once all is well: a second's frames, on a machine under load."""
MOST_GROWTH_MB = 64
"""What a first session and its viewer load once, and their codecs, are some 40 MB."""
SHORT_CONSENT = ("--consent-interval", "0.25", "--consent-failures", "3")
"""A stand-in that misses a vanished client after about a second."""


@dataclass
class Scene:
    """The session, its surroundings, and what was seen of it."""

    stack: Stack
    session_id: str
    viewer: Viewer
    options: PatternOptions
    log: list[dict[str, Any]] = field(default_factory=list)
    server: StandIn | None = None
    """Which ComfyStream the processed pictures come from, if not the stack's."""
    inverts: bool = True
    """Whether its pictures can be told from the source's."""
    memory_before_mb: float = field(default_factory=lambda: memory_mb(os.getpid()))
    """Before anything went wrong, of the process that the relay shares with its viewer."""

    async def status(self) -> dict[str, Any]:
        return await self.stack.status(self.session_id)

    async def wait_status(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        return await self.stack.wait_for_status(self.session_id, lambda s: bool(condition(s)))

    async def wait_processing(self, condition: Callable[[dict[str, Any]], object]) -> None:
        await self.wait_status(lambda s: condition(s["processing"]))

    async def wait_processed(self, count: int = 10) -> None:
        """Return when so many more processed frames were seen from now on, in a row."""
        start = len(self.viewer.frames)
        await self.viewer.wait_for(
            lambda v: len(v.frames) >= start + count and all(f.inverted for f in v.frames[-count:])
        )

    async def wait_unprocessed(self, count: int = 5) -> None:
        """Return when so many more frames were seen as the source sent them, in a row."""
        start = len(self.viewer.frames)
        await self.viewer.wait_for(
            lambda v: (
                len(v.frames) >= start + count and not any(f.inverted for f in v.frames[-count:])
            )
        )

    async def skipped(self) -> int:
        """Frames that a machine without time for them cost so far: before the server, or in it."""
        return left_out_before_server(await self.status()) + await self.replaced()

    async def replaced(self) -> int:
        """Frames that ComfyStream dropped so far."""
        state = await (self.server or self.stack.comfystream).state()
        return int(state["frames"]["replaced"])

    def frames_since(self, moment: float) -> list[SeenFrame]:
        return [frame for frame in self.viewer.frames if frame.seen_at >= moment]

    def longest_freeze_s(self, since: float) -> float:
        """The longest time for which the viewer's picture stood."""
        return max(self.gaps_s(since))

    async def assert_time_rises(self) -> None:
        """Every frame once, each later than the one before, with its own time. Of processed ones
        a few may have that of a frame before: what a server drops shifts its labels until the
        relay has noticed. A busy machine's server drops again and again, and counts it."""
        numbers = [frame.number for frame in self.viewer.frames]
        assert None not in numbers, "a picture can't be read"
        pts = [frame.pts for frame in self.viewer.frames]
        assert all(earlier < later for earlier, later in pairwise(pts))
        wrong = [
            (frame.number, frame.inverted, frame.pts - self.options.pts(frame.number))
            for frame in self.viewer.frames
            if frame.number is not None and frame.pts != self.options.pts(frame.number)
        ]
        if self.inverts:
            strangers = [one for one in wrong if not one[1]]
            assert strangers == [], "source frames with a time that is not theirs"
        processed = sum(frame.inverted or not self.inverts for frame in self.viewer.frames)
        if len(wrong) > 0.2 * processed:
            assert await self.replaced(), f"a time not theirs, and nothing dropped: {wrong}"

    def gaps_s(self, since: float) -> list[float]:
        """Between the pictures that were seen, and to now."""
        seen = [since, *(frame.seen_at for frame in self.frames_since(since)), time.monotonic()]
        return [later - earlier for earlier, later in pairwise(seen)]

    async def assert_unharmed(self, since: float | None = None, *, own_times: bool = True) -> None:
        """What every fault has to leave behind: no picture stood for long, time only rose, each
        frame that is missing is of a moment when the picture stood, and nothing piles up.

        Args:
            since: by the monotonic clock; the first picture by default.
            own_times: each picture has its own time; what a fallback repeats has not.
        """
        frames = self.viewer.frames
        began = frames[0].seen_at if since is None else since
        gaps = self.gaps_s(began)
        assert max(gaps) < FREEZE_S, "the picture stood too long"
        assert all(a.pts < b.pts for a, b in pairwise(frames))
        stood_s = sum(gap for gap in gaps if gap > STANDS_S)
        if own_times:
            await self.assert_time_rises()
            numbers = [frame.number or 0 for frame in frames if frame.seen_at >= began]
            missing = numbers[-1] - numbers[0] + 1 - len(numbers)
            allowed = (stood_s + 1) * FPS
            if missing > allowed:
                allowed += await self.skipped()
            assert missing <= allowed, f"{missing} missing, {stood_s:.1f} s stood"
        waiting = (await self.status())["queue_sizes"]
        assert max(waiting.values()) <= QUEUED_MOST, waiting
        grown_mb = memory_mb(os.getpid()) - self.memory_before_mb
        assert grown_mb < MOST_GROWTH_MB, f"{grown_mb:.0f} MB more than before"

    def assert_sound_is_whole(self) -> None:
        """The sound goes on without a gap or a repeat, whatever the pictures did."""
        steps = {later.pts - earlier.pts for earlier, later in pairwise(self.viewer.audio)}
        assert len(self.viewer.audio) > 20
        # An AAC frame is 1024 samples: 1920 ticks at 48 kHz, rounded either way.
        assert steps <= {1919, 1920, 1921}, sorted(steps)


@asynccontextmanager
async def scene(
    *standin: str,
    request: dict[str, Any] | None = None,
    audio: bool = False,
    warm: bool = True,
    watched: bool = True,
    **settings: Any,
) -> AsyncIterator[Scene]:
    """A session with the inverting workflow on a live source of 20 frames a second.

    Args:
        standin: the stand-in's arguments.
        request: more of the start request.
        warm: wait until processed frames are seen.
        watched: whether the viewer watches the usual output channel from the start.
        settings: the relay's, over `QUICK`.
    """
    options = PatternOptions(width=256, height=256, fps=Fraction(FPS), plain=True, audio=audio)
    async with AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        stack = await enter(running_stack(*standin, **{**QUICK, **settings}))
        await enter(in_background(publish_live(stack.channel("camera"), generate(options))))
        size = {"width": 256, "height": 256}
        session_id = await stack.start("camera", **{**size, **(request or {})})
        viewer = Viewer()
        if watched:
            await enter(in_background(viewer.watch(stack.channel("camera-processed"))))
        found = Scene(stack, session_id, viewer, options)
        if warm:
            await found.wait_processed()
        yield found
        await stack.call("DELETE", f"/session/{session_id}")


async def for_a_while(seconds: float) -> None:
    """Let live media flow: what a test is about may take time to show, or not to."""
    await asyncio.sleep(seconds)
