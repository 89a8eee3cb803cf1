"""A segment as a subscriber's caller sees it: bytes as they arrive, cuts mended on the way."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Protocol

from relay.trickle.errors import SegmentTooLargeError
from relay.trickle.http_client import HttpFailure
from relay.trickle.protocol import Reply
from relay.trickle.segment_get import SegmentGet

DEFAULT_READ_LIMIT = 16 << 20
_STALL_STRETCH = 8


class SegmentOwner(Protocol):
    """What a segment needs of its subscriber."""

    @property
    def body_stall_s(self) -> float:
        """How long a body may bring nothing."""

    @property
    def stopping(self) -> bool:
        """Whether the subscription is being closed."""

    async def resume(self, seq: int, *, stalled: bool) -> SegmentGet | None:
        """A new request for a segment that broke off; None if it can't be had any more."""

    async def newer_exists(self, seq: int) -> bool:
        """Whether a segment after `seq` has begun."""

    def note_bytes(self, seq: int, chunk: bytes) -> None:
        """New bytes of segment `seq` are handed out."""

    def segment_ended(self, segment: SubscribedSegment) -> None:
        """The segment brought its last byte, or was given up."""


class SubscribedSegment:
    """One segment: iterate over its chunks as they arrive, or `read` all of it.

    Chunk boundaries mean nothing. Made by `TrickleSubscriber`; asking that for the next segment
    ends this one.
    """

    def __init__(
        self,
        owner: SegmentOwner,
        get: SegmentGet,
        reply: Reply,
        seq: int,
        *,
        joined_late: bool | None,
        skipped_before: int,
        restarted: bool,
    ) -> None:
        self.seq = seq
        self.content_type = reply.content_type
        self.latest = reply.latest
        """The channel's edge when the server answered, if it said so: one past the newest
        segment. It may be below `seq`."""
        self.joined_late = joined_late
        """Whether part of it was there before we asked; None if the server does not tell."""
        self.skipped_before = skipped_before
        """Segments between the one before and this that were not delivered."""
        self.restarted = restarted
        """The channel began anew: nothing connects this to what was before."""
        self.truncated = False
        """It broke off and the rest could not be had. A channel that is deleted, or a publisher
        that dies, may also cut a segment short without anybody saying so."""
        self.bytes_read = 0
        self.ended = False
        self._owner = owner
        self._get: SegmentGet | None = get
        self._crc = 0
        self._replayed = 0
        self._replayed_crc = 0
        self._fruitless_resumes = 0
        self._stall_s = owner.body_stall_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self, limit: int = DEFAULT_READ_LIMIT) -> bytes:
        """All of it, to its end: what a message, such as JSON, needs.

        Raises:
            SegmentTooLargeError: it has more than `limit` bytes.
        """
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                await self.aclose()
                raise SegmentTooLargeError(f"segment {self.seq} has more than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def read_chunk(self) -> bytes:
        """The next bytes, waiting for some; empty at the end.

        If this is cancelled, nothing is lost: the next call goes on.
        """
        while self._get is not None:
            try:
                chunk = await self._get.read(self._stall_s)
            except HttpFailure:
                await self._take_up_again()
                continue
            if not chunk:
                self._end(truncated=self._replayed < self.bytes_read)
                break
            if self._replayed < self.bytes_read and not (chunk := self._new_part(chunk)):
                continue
            if self._fruitless_resumes:
                self._note_resumes(0)
            self._crc = zlib.crc32(chunk, self._crc)
            self.bytes_read += len(chunk)
            self._replayed = self.bytes_read
            self._owner.note_bytes(self.seq, chunk)
            return chunk
        return b""

    async def aclose(self) -> None:
        """Leave the segment, whether or not it is complete. Idempotent."""
        if self._get is not None:
            get = self._get
            self._end(truncated=False)
            await get.aclose()

    def _new_part(self, chunk: bytes) -> bytes:
        """What of `chunk`, which begins before the last cut, was not delivered then."""
        missing = self.bytes_read - self._replayed
        replay = chunk[:missing]
        self._replayed += len(replay)
        self._replayed_crc = zlib.crc32(replay, self._replayed_crc)
        if self._replayed == self.bytes_read and self._replayed_crc != self._crc:
            # Same number, other bytes: the channel began anew meanwhile.
            self._end(truncated=True)
            return b""
        return chunk[missing:]

    async def _take_up_again(self) -> None:
        """After a cut or a stall: the same segment, from where we were."""
        broken = self._get
        if broken is None:
            return
        await broken.aclose()
        if self._owner.stopping:
            self._end(truncated=False)
            return
        stalled = broken.stalled
        if stalled and self._fruitless_resumes and await self._owner.newer_exists(self.seq):
            # Asked for again and still silent, and the publisher is elsewhere already.
            self._end(truncated=True)
            return
        self._note_resumes(self._fruitless_resumes + 1)
        self._replayed = self._replayed_crc = 0
        self._get = await self._owner.resume(self.seq, stalled=stalled)
        if self._get is None:
            self._note_end(truncated=not self._owner.stopping)

    def _note_resumes(self, fruitless: int) -> None:
        """So many in a row brought nothing: the server is given the longer for the next bytes."""
        self._fruitless_resumes = fruitless
        self._stall_s = self._owner.body_stall_s * min(2**fruitless, _STALL_STRETCH)

    def _end(self, *, truncated: bool) -> None:
        if self._get is not None:
            get, self._get = self._get, None
            get.close()
            self._note_end(truncated=truncated)

    def _note_end(self, *, truncated: bool) -> None:
        if not self.ended:
            self.truncated = truncated
            self.ended = True
            self._owner.segment_ended(self)
