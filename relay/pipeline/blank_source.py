"""The first stage of a session without an input: black pictures, as they would come live.

ComfyStream runs a workflow for each picture that it gets, also one that makes pictures of words
alone, so whoever wants those without sending any video is given something to run it on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from relay.media.access_unit import CLOCK_RATE, DecodedFrame, SourceFrame
from relay.media.frame_limit import FrameLimit
from relay.media.picture import black_picture, copy_of
from relay.pipeline.source_pace import SourcePace
from relay.queues import MediaQueue
from relay.stats import RateMeter

FPS = 30.0


class BlankSource:
    """Stands where `relay.pipeline.ingest.Ingest` does.

    Args:
        frames: gets a picture at the session's size every 1/30 s, or as `limit` has it; its pts
            (90 kHz, from 0) is the time since the first.
        on_picture: called on the event loop with each picture.
    """

    def __init__(
        self,
        width: int,
        height: int,
        limit: FrameLimit,
        frames: MediaQueue[SourceFrame],
        *,
        on_picture: Callable[[DecodedFrame], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decoded = RateMeter()
        """Pictures made."""
        self.sounded = RateMeter()
        """Never any."""
        self.pace = SourcePace(clock)
        self._black = black_picture(width, height)
        self._limit = limit
        self._frames = frames
        self._on_picture = on_picture
        self._clock = clock

    async def run(self) -> None:
        """Make pictures until cancelled, then close the frame queue."""
        began_at = self._clock()
        number = 0
        try:
            while True:
                await asyncio.sleep(began_at + number / FPS - self._clock())
                # What a busy machine made late is left out, not made up for.
                number = max(number, int((self._clock() - began_at) * FPS))
                pts = round(number * CLOCK_RATE / FPS)
                number += 1
                if not self._limit.admits(pts):
                    continue
                if self._limit.skips():
                    self._frames.dropped["shed"] += 1
                    continue
                self.decoded.tick()
                frame = DecodedFrame(copy_of(self._black), pts, self._clock())
                self.pace.note(pts)
                self._on_picture(frame)
                await self._frames.put(frame)
        finally:
            self._frames.close()

    def resize(self, width: int, height: int) -> None:
        """Make pictures of another size from now on."""
        self._black = black_picture(width, height)

    def close(self) -> None:
        """There is nothing to free."""

    def status(self) -> dict[str, Any]:
        """The input's part of the session status."""
        return {
            "fps": round(self.decoded.rate, 1),
            "frames": self.decoded.total,
            "audio_units": 0,
            "segments_behind": 0,
            "segments_skipped": 0,
            "jumps": 0,
        }
