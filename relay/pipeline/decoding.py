"""The source's pictures from coded to decoded, beside the reading of what comes next.

Decoding takes milliseconds a picture, and more when the machine has no CPU left. Were reading to
wait for it, what has come would lie in the socket, where nobody sees how old it gets, and the sound
with it. So coded pictures wait in a queue. Where the newest counts, decoding that has fallen behind
goes on with the newest keyframe: the delay is bounded, and what that costs is counted.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from relay.media.access_unit import AccessUnit, SourceFrame
from relay.pipeline.late_decoder import LateDecoder
from relay.queues import MediaQueue, QueueClosed
from relay.stats import Histogram

BEHIND_S = 1.5
"""A picture that has waited for longer is left out, if a keyframe waits behind it: more than it
takes to decode a segment of a few seconds that came all at once."""
FAR_BEHIND_S = 3.0
"""The same, though no keyframe has come yet: all are, up to the next one, for as long again at the
most (a stream need not have another). Copied ones always: they have one every 300."""
LEFT_OUT = "relay_late"
"""How they are counted."""


class CodedPicture(NamedTuple):
    """A video access unit that waits."""

    unit: AccessUnit
    copied: bool


class Decoding:
    """Decodes in order, one picture at a time.

    Args:
        waiting: those whose turn has not come.
        emit: takes what was decoded, and what goes on undecoded.
        complete: every picture is decoded, however late; the reader waits meanwhile.
    """

    def __init__(
        self,
        decoder: LateDecoder,
        waiting: MediaQueue[CodedPicture],
        emit: Callable[[Sequence[SourceFrame]], Awaitable[None]],
        *,
        complete: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.took = Histogram()
        """Seconds that each picture was in work, those for a codec thread included."""
        self._decoder = decoder
        self._waiting = waiting
        self._emit = emit
        self._complete = complete
        self._clock = clock
        self._working = False
        self._keyframe_by: float | None = None
        """Until then only a keyframe goes on."""
        self._newest = self._decode_up_to = -1

    async def take(self, unit: AccessUnit, *, copied: bool) -> None:
        """The next picture; decoded here and now where every one counts.

        Args:
            copied: it goes on as it is.

        Raises:
            MediaError: see `TrickleStreamDecoder.decode`.
            QueueClosed: the input has ended.
        """
        self._newest = unit.number
        busy = self._working or len(self._waiting) or self._keyframe_by is not None
        if self._complete or (copied and not busy and not self._decoder.holds):
            await self._go_on(unit, copied)
        else:
            await self._waiting.put(CodedPicture(unit, copied))

    def copy_none(self) -> None:
        """Of those that wait."""
        self._decode_up_to = self._newest

    async def run(self) -> None:
        """Decode what waits until the queue is closed and empty, and then what the decoder holds.

        Raises:
            MediaError: see `TrickleStreamDecoder.decode`.
        """
        while True:
            try:
                picture = await self._waiting.get()
            except QueueClosed:
                break
            self._working = True
            if not self._leaves_out(picture):
                await self._go_on(picture.unit, picture.copied)
            self._working = False
        await self._emit(await self._decoder.flush())

    def _leaves_out(self, picture: CodedPicture) -> bool:
        if left_out := self._is_too_late(picture):
            self._waiting.dropped[LEFT_OUT] += 1
        return left_out

    def _is_too_late(self, picture: CodedPicture) -> bool:
        """Whether it is left out; those behind it that are too are gone then."""
        now = self._clock()
        waited_s = now - picture.unit.arrived_at
        if waited_s > BEHIND_S:
            if self._waiting.skip_to_last(_is_keyframe, LEFT_OUT):
                return True
            if waited_s > FAR_BEHIND_S:
                self._waiting.clear(LEFT_OUT)
                self._keyframe_by = now + FAR_BEHIND_S
                return True
        if self._keyframe_by is not None:
            if not picture.unit.keyframe and (picture.copied or now < self._keyframe_by):
                return True
            self._keyframe_by = None
        return False

    async def _go_on(self, unit: AccessUnit, copied: bool) -> None:
        if copied and unit.number > self._decode_up_to:
            if self._decoder.holds:
                await self._emit(await self._decoder.flush())
            await self._emit((self._decoder.pass_by(unit),))
            return
        began_at = self._clock()
        frames = await self._decoder.decode(unit)
        self.took.add(self._clock() - began_at)
        await self._emit(frames)


def _is_keyframe(picture: CodedPicture) -> bool:
    return picture.unit.keyframe
