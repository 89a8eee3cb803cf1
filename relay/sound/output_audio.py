"""The output's sound: in time with the pictures, and alone where there are none.

Sound waits for the picture it belongs to, but not for ever, and no picture waits for sound. An
output begins with a picture if one can be expected. If the programme lists no video it begins
with the first sound; if video is listed but does not come (a server that loads its models for a
minute), sound goes on alone after `video_wait_s`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from relay.media.access_unit import AccessUnit
from relay.media.interleaver import AudioInterleaver

VIDEO_WAIT_S = 2.0
"""How long an output that should begin with a picture waits for it."""
END_WAIT_S = 1.0
"""How long the end of the pictures waits for the end of the sound."""


class OutputAudio:
    """Audio units on their way to the muxer. All methods belong to the event loop.

    Args:
        write: muxes units, in the order given.
        begin: called when the output has to begin without a picture; says whether it has.
        video_listed: tells whether the input's programme has video now.
        video_wait_s: after so long without a picture, counted from the first sound, the output
            begins without one.
    """

    def __init__(
        self,
        write: Callable[[list[AccessUnit]], None],
        begin: Callable[[], bool],
        video_listed: Callable[[], bool],
        *,
        video_wait_s: float = VIDEO_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.units = 0
        """Units written."""
        self.dropped: Counter[str] = Counter()
        """Units that are not on the output, by reason."""
        self._write_units = write
        self._begin = begin
        self._video_listed = video_listed
        self._video_wait_s = video_wait_s
        self._clock = clock
        self._interleaver = AudioInterleaver()
        self._begun = False
        self._closed = False
        self._alone_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    def add(self, unit: AccessUnit) -> None:
        """Take the next audio unit; it is written now or when its picture is."""
        if self._closed:
            return
        now = self._clock()
        if self._alone_at is None:
            self._alone_at = now + self._video_wait_s
        if not self._video_listed():
            self._begin_without_picture()
            self._write([*self._interleaver.flush(), unit])
            return
        self._write(self._interleaver.audio(unit, now))
        self._arm_timer()

    def video(self, unit: AccessUnit) -> None:
        """Write a picture, and the sound that waited for it."""
        self._begun = True
        units = self._interleaver.video(unit)
        self.units += len(units) - 1
        self._write_units(units)

    def expect_end(self) -> None:
        """Sound has a way of its own and will say when it is through (`end`)."""
        self._ended.clear()

    def end(self) -> None:
        """No more sound will come. Idempotent."""
        self._ended.set()

    async def wait_end(self) -> None:
        """Return when no more sound will come; at the latest after `END_WAIT_S`."""
        try:
            async with asyncio.timeout(END_WAIT_S):
                await self._ended.wait()
        except TimeoutError:
            pass

    def flush(self) -> None:
        """Write all that waits: the pictures have ended."""
        if len(self._interleaver):
            self._begin_without_picture()
        self._write(self._interleaver.flush())

    def close(self) -> None:
        """Take no more, and stop the clock. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def status(self) -> dict[str, Any]:
        """The output's part of the session status that is about sound."""
        return {
            "audio_waiting": len(self._interleaver),
            "audio_released_late": self._interleaver.released_late,
        }

    def _write(self, units: list[AccessUnit]) -> None:
        if not self._begun:
            self.dropped["before_video"] += len(units)
        elif units:
            self.units += len(units)
            self._write_units(units)

    def _begin_without_picture(self) -> None:
        self._begun = self._begun or self._begin()

    def _arm_timer(self) -> None:
        deadline = self._interleaver.deadline
        if deadline is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        if self._alone_at is not None and now >= self._alone_at:
            self._begin_without_picture()
        self._write(self._interleaver.expire(now))
        self._arm_timer()
