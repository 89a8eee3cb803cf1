"""One channel of the server: its window of segments, who writes them, who waits for them.

Nothing here knows HTTP. The rules that differ from the reference server, and why, are in
docs/protocol.md: one writer for each number, an edge that never goes down, segments that
always end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from relay.trickle.protocol import SymbolicNumber
from relay.trickle.segment_buffer import SegmentBuffer


class NotInWindow(Exception):
    """The channel does not have this segment: it is too old, or too far ahead."""


class ChannelEnded(Exception):
    """The channel was closed."""


class NumberTaken(Exception):
    """A segment of this number is being written, is complete, or is too old to be written."""


class OverLimit(Exception):
    """More bytes than a segment, or the server, may hold."""


class Revoked(StrEnum):
    """Why a writer's segment was ended by somebody else."""

    SEGMENT_CLOSED = "segment_closed"
    CHANNEL_CLOSED = "channel_closed"
    OVER_LIMIT = "over_limit"


class SegmentClaim:
    """The right to write one number, from the arrival of its POST to its end."""

    def __init__(self, channel: Channel, seq: int, buffer: SegmentBuffer | None) -> None:
        self.seq = seq
        self.buffer = buffer
        """None before the first byte."""
        self.revoked: asyncio.Future[Revoked] = asyncio.get_running_loop().create_future()
        self.overtaken = False
        """A higher number has begun, and this one has no byte yet."""
        self._channel = channel

    def append(self, data: bytes) -> None:
        """Add bytes to the segment; the first ones begin it.

        Raises:
            OverLimit: the segment was closed for it.
        """
        if data and not self.revoked.done():
            self._channel._append(self, data)

    def finish(self) -> None:
        """The writer ended the segment: it is complete, if need be without a byte."""
        if not self.revoked.done():
            self._channel._finish(self)

    def lose(self) -> None:
        """The writer is gone without ending the segment; it may come back for a while."""
        if not self.revoked.done():
            self._channel._lose(self)


@dataclass(slots=True)
class _Orphan:
    buffer: SegmentBuffer
    timer: asyncio.TimerHandle


class Channel:
    """A named run of segments.

    Args:
        name: as decoded from the URL.
        content_type: of every segment, fixed now.
        window_segments: how many segments stay readable.
        window_s: how long a complete segment stays readable; None for no limit.
        resume_grace_s: how long a segment whose writer vanished waits for it to come back, and
            how long a number that others have passed waits for its first byte.
        max_segment_bytes: of one segment.
        counts: where ``segments``, ``truncated_segments`` and ``bytes_in`` are counted.
        account: told of every change of the bytes held; False refuses an increase.
        on_evicted: told of every segment that leaves the window.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        content_type: str,
        *,
        window_segments: int,
        window_s: float | None,
        resume_grace_s: float,
        max_segment_bytes: int,
        counts: Counter[str],
        account: Callable[[int], bool],
        on_evicted: Callable[[SegmentBuffer], None],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.content_type = content_type
        self.edge = 0
        """One past the highest number that has had a byte, or was ended without one."""
        self.readers = 0
        self.ended = False
        self.active_at = clock()
        self._window_segments = window_segments
        self._window_s = window_s
        self._resume_grace_s = resume_grace_s
        self._max_segment_bytes = max_segment_bytes
        self._counts = counts
        self._account = account
        self._on_evicted = on_evicted
        self._clock = clock
        self._evicted_below = 0
        self._segments: dict[int, SegmentBuffer] = {}
        self._claims: dict[int, SegmentClaim] = {}
        self._orphans: dict[int, _Orphan] = {}
        self._waiters: dict[int, dict[asyncio.Future[SegmentBuffer | None], None]] = {}

    # -- reading ----------------------------------------------------------------------------

    @property
    def oldest(self) -> int:
        """The lowest readable number; the edge if there is none."""
        return min(self._segments, default=self.edge)

    @property
    def _floor(self) -> int:
        """The lowest number that may still be written."""
        return max(self._evicted_below, self.edge - self._window_segments)

    @property
    def waiting_readers(self) -> int:
        return sum(len(waiters) for waiters in self._waiters.values())

    def bytes_of(self, number: int) -> int:
        """Bytes that segment `number` has so far; 0 if there is none."""
        buffer = self._segments.get(number)
        return 0 if buffer is None else len(buffer)

    def resolve_read(self, number: int) -> int:
        """A requested number as a fixed one: -1 is the edge, -2 the newest begun."""
        if number == SymbolicNumber.NEXT:
            return self.edge
        if number == SymbolicNumber.CURRENT:
            return max(0, self.edge - 1)
        return number

    async def segment(self, number: int) -> SegmentBuffer:
        """The segment of a fixed number, waiting until it has a byte or has ended.

        Waits at the edge and one beyond it: a reader may ask a little before the writer does.

        Raises:
            NotInWindow: it is gone, too far ahead, or was skipped by its writer.
            ChannelEnded: the channel was closed meanwhile.
        """
        while True:
            if self.ended:
                raise ChannelEnded(self.name)
            self.expire()
            if (buffer := self._segments.get(number)) is not None:
                return buffer
            if number not in self._claims and not self.edge <= number <= self.edge + 1:
                raise NotInWindow(number)
            if (buffer := await self._wait(number)) is not None:
                return buffer

    async def _wait(self, number: int) -> SegmentBuffer | None:
        """Until segment `number` begins; None when something else changed its prospects."""
        waiter: asyncio.Future[SegmentBuffer | None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(number, {})
        waiters[waiter] = None
        try:
            return await waiter
        finally:
            waiters.pop(waiter, None)
            if not waiters and self._waiters.get(number) is waiters:
                del self._waiters[number]

    def _wake(self, number: int, buffer: SegmentBuffer | None) -> None:
        for waiter in self._waiters.pop(number, {}):
            if not waiter.done():
                waiter.set_result(buffer)

    # -- writing ----------------------------------------------------------------------------

    def claim(self, number: int, *, reset: bool = False) -> SegmentClaim:
        """Take a number to write; -1 takes the lowest free one at or above the edge.

        Args:
            reset: close every lower segment first, and refuse its writer from now on.

        Raises:
            NumberTaken: it can't be written.
            ChannelEnded: the channel is closed.
        """
        if self.ended:
            raise ChannelEnded(self.name)
        self.touch()
        if number == SymbolicNumber.NEXT:
            number = self.edge
            while number in self._claims:
                number += 1
        if reset:
            self._reset_below(number)
        if number in self._claims:
            raise NumberTaken(number)
        buffer = self._segments.get(number)
        if (orphan := self._orphans.pop(number, None)) is not None:
            orphan.timer.cancel()
        elif buffer is not None or number < self._floor:
            raise NumberTaken(number)
        claim = SegmentClaim(self, number, buffer)
        self._claims[number] = claim
        return claim

    def close_segment(self, number: int) -> bool:
        """End a segment from outside; its writer is refused from now on.

        The edge itself counts as a segment, so that an abandoned preconnect can be skipped.

        Returns:
            False if there is no such segment.
        """
        if number not in self._segments and number not in self._claims and number != self.edge:
            return False
        self.touch()
        claim = self._claims.pop(number, None)
        if number in self._segments:
            self._close_buffer(self._segments[number], truncated=True)
        elif number == self.edge:
            self._begin(number).close(self._clock(), truncated=True)
        if claim is not None:
            claim.revoked.set_result(Revoked.SEGMENT_CLOSED)
        return True

    def close(self) -> None:
        """End the channel: readers end, waiting ones and writers are told. Idempotent."""
        if self.ended:
            return
        self.ended = True
        for claim in self._claims.values():
            claim.revoked.set_result(Revoked.CHANNEL_CLOSED)
        self._claims.clear()
        for buffer in tuple(self._segments.values()):
            self._evict(buffer)
        for number in tuple(self._waiters):
            self._wake(number, None)

    def touch(self) -> None:
        """Something happened that keeps the channel from being swept."""
        self.active_at = self._clock()

    # -- memory -----------------------------------------------------------------------------

    @property
    def bytes_held(self) -> int:
        """Bytes of the segments in the window."""
        return sum(len(buffer) for buffer in self._segments.values())

    def evict_oldest(self) -> bool:
        """Free the oldest segment that is not the newest; False if there is none."""
        if len(self._segments) < 2:
            return False
        self._evict(self._segments[min(self._segments)])
        return True

    def release(self, buffer: SegmentBuffer) -> None:
        """A reader has left `buffer`: give its memory back if it was the last thing alive."""
        if buffer.evicted and not buffer.readers:
            self._account(-len(buffer))
            buffer.evicted = False

    def _evict(self, buffer: SegmentBuffer) -> None:
        del self._segments[buffer.seq]
        self._evicted_below = max(self._evicted_below, buffer.seq + 1)
        if (claim := self._claims.pop(buffer.seq, None)) is not None:
            claim.revoked.set_result(Revoked.SEGMENT_CLOSED)
        self._close_buffer(buffer, truncated=True)
        buffer.evicted = True
        self.release(buffer)
        self._on_evicted(buffer)

    def expire(self) -> None:
        """Drop complete segments that are older than the window allows."""
        if self._window_s is None:
            return
        horizon = self._clock() - self._window_s
        for buffer in tuple(self._segments.values()):
            if buffer.closed_at is not None and buffer.closed_at < horizon:
                self._evict(buffer)

    # -- what claims do ---------------------------------------------------------------------

    def _append(self, claim: SegmentClaim, data: bytes) -> None:
        size = len(claim.buffer) if claim.buffer is not None else 0
        if size + len(data) > self._max_segment_bytes or not self._account(len(data)):
            self._claims.pop(claim.seq, None)
            if claim.buffer is None:
                claim.buffer = self._begin(claim.seq)
            self._close_buffer(claim.buffer, truncated=True)
            if not claim.revoked.done():
                claim.revoked.set_result(Revoked.OVER_LIMIT)
            raise OverLimit(claim.seq)
        if claim.revoked.done():  # it made room for itself
            self._account(-len(data))
            return
        self.touch()
        self._counts["bytes_in"] += len(data)
        if claim.buffer is None:
            claim.buffer = SegmentBuffer(claim.seq, self._clock())
            claim.buffer.append(data)
            self._begin(claim.seq, claim.buffer)
        else:
            claim.buffer.append(data)

    def _finish(self, claim: SegmentClaim) -> None:
        self.touch()
        self._claims.pop(claim.seq, None)
        if claim.buffer is None:
            claim.buffer = self._begin(claim.seq)
        self._close_buffer(claim.buffer)

    def _lose(self, claim: SegmentClaim) -> None:
        self._claims.pop(claim.seq, None)
        buffer = claim.buffer
        if buffer is None:
            if claim.seq < self.edge:  # nobody will begin it any more
                self._wake(claim.seq, None)
            return
        if buffer.closed:
            return
        if buffer.seq + 1 < self.edge:
            self._close_buffer(buffer, truncated=True)
            return
        timer = asyncio.get_running_loop().call_later(
            self._resume_grace_s, self._close_orphan, buffer.seq
        )
        self._orphans[buffer.seq] = _Orphan(buffer, timer)

    def _close_orphan(self, number: int) -> None:
        if number in self._orphans:
            self._close_buffer(self._orphans[number].buffer, truncated=True)

    def _begin(self, number: int, buffer: SegmentBuffer | None = None) -> SegmentBuffer:
        """Put a segment into the window; wakes its readers, evicts, moves the edge."""
        if buffer is None:
            buffer = SegmentBuffer(number, self._clock())
        self._segments[number] = buffer
        self._counts["segments"] += 1
        for orphan in tuple(self._orphans.values()):
            # Its publisher has gone on: it won't come back for this one.
            self._close_buffer(orphan.buffer, truncated=True)
        self._wake(number, buffer)
        self.edge = max(self.edge, number + 1)
        self.expire()
        while len(self._segments) > self._window_segments:
            self._evict(self._segments[min(self._segments)])
        self._refuse_passed()
        self._note_overtaken(number)
        return buffer

    def _note_overtaken(self, number: int) -> None:
        """A lower number that was claimed but not begun may still come, for a while."""
        for claim in self._claims.values():
            if claim.seq < number and claim.buffer is None and not claim.overtaken:
                claim.overtaken = True
                asyncio.get_running_loop().call_later(
                    self._resume_grace_s, self._refuse_overtaken, claim
                )

    def _refuse_overtaken(self, claim: SegmentClaim) -> None:
        """Its readers would wait for a writer that others have long passed."""
        if claim.buffer is None and self._claims.get(claim.seq) is claim:
            del self._claims[claim.seq]
            claim.revoked.set_result(Revoked.SEGMENT_CLOSED)
            self._wake(claim.seq, None)

    def _refuse_passed(self) -> None:
        """Writers keep their numbers, and readers wait for them, only within the window."""
        for number in [n for n in self._claims if n < self._floor]:
            self._claims.pop(number).revoked.set_result(Revoked.SEGMENT_CLOSED)
        for number in [n for n in self._waiters if n < self.edge and n not in self._claims]:
            self._wake(number, None)

    def _reset_below(self, number: int) -> None:
        for lower in [n for n in self._claims if n < number]:
            self._claims.pop(lower).revoked.set_result(Revoked.SEGMENT_CLOSED)
        for buffer in self._segments.values():
            if buffer.seq < number and not buffer.closed:
                self._close_buffer(buffer, truncated=True)

    def _close_buffer(self, buffer: SegmentBuffer, *, truncated: bool = False) -> None:
        if (orphan := self._orphans.pop(buffer.seq, None)) is not None:
            orphan.timer.cancel()
        if not buffer.closed:
            self._counts["truncated_segments"] += truncated
            buffer.close(self._clock(), truncated=truncated)
