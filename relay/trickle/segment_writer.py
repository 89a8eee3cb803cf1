"""The segment a publisher is writing, as its caller sees it."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from relay.trickle.errors import SegmentLostError, StalledError, TrickleError
from relay.trickle.segment_post import SegmentPost


class SegmentOwner(Protocol):
    """What a writer needs of its publisher."""

    async def replace(self, post: SegmentPost) -> SegmentPost:
        """A new POST for one that ended before its first byte."""

    async def settle(self, post: SegmentPost) -> TrickleError | None:
        """Wait for a POST's end; what it means."""

    async def give_up(self, post: SegmentPost, why: SegmentLostError | None = None) -> None:
        """Drop a POST and free its readers."""

    def count_bytes(self, count: int) -> None:
        """Bytes that went into the connection."""


class SegmentWriter:
    """One segment: `write` as often as there are bytes, then `finish` or `close`.

    As a context manager it closes on success and abandons the segment on an exception. Made by
    `TricklePublisher.next_segment`.
    """

    def __init__(self, owner: SegmentOwner, post: SegmentPost, stall_s: float) -> None:
        self.bytes_written = 0
        self._owner = owner
        self._post = post
        self._stall_s = stall_s
        self._error: TrickleError | None = None
        self._finished = False

    @property
    def seq(self) -> int:
        """The segment's number; -1 while only the server knows it (servers without /next)."""
        if self._post.seq < 0 and self._post.reply is not None:
            return self._post.seq if self._post.reply.seq is None else self._post.reply.seq
        return self._post.seq

    @property
    def finished(self) -> bool:
        """Whether it takes no more bytes: finished, abandoned or lost."""
        return self._finished

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` now. Waits only while the connection is full, or not standing yet.

        `data` is the caller's again when this returns. If this is cancelled, the segment may
        hold part of it: abandon it.

        Raises:
            SegmentLostError: the segment can't be completed; take the next one.
            StalledError: the same, because the server took nothing for the write deadline.
            ChannelClosedError, ChannelNotFoundError, RefusedError, UnavailableError: the
                publication is over.
        """
        if self._error is not None:
            raise self._error
        if self._finished:
            raise RuntimeError(f"segment {self.seq} is already finished")
        if not data:
            return
        try:
            while not await self._post.write(data, self._stall_s):
                if self._post.bytes_sent:
                    # The server has part of it. Its reply, if it sent one, says why.
                    error = await self._owner.settle(self._post)
                    raise error or SegmentLostError(f"segment {self.seq} was ended by the server")
                self._post = await self._owner.replace(self._post)
        except StalledError as stalled:
            await self._owner.give_up(self._post, stalled)
            self._fail(stalled)
            raise
        except TrickleError as error:
            self._fail(error)
            raise
        self._count(len(data))

    def write_nowait(self, data: bytes) -> bool:
        """Send `data` now, if there is nothing to wait for; not while a `write` waits.

        Returns:
            False if it was not sent: `write` it, and learn why.
        """
        if not self._post.write_nowait(data):
            return False
        self._count(len(data))
        return True

    async def finish(self) -> None:
        """End the segment without waiting for the server's reply. Idempotent.

        The publisher watches for the reply; a loss shows in its statistics, and in `close`.

        Raises:
            TrickleError: as `write`, only for a segment without a byte, whose POST had to be
                opened again.
        """
        if self._finished:
            return
        try:
            while self._post.done and not self._post.bytes_sent:
                self._post = await self._owner.replace(self._post)
        except TrickleError as error:
            self._fail(error)
            raise
        self._finished = True
        self._post.end()

    async def close(self) -> None:
        """End the segment and wait until the server has accepted all of it. Idempotent.

        Raises:
            TrickleError: as `write`. If this returns, the server has said that it has the whole
                segment.
        """
        if self._error is None:
            await self.finish()
            self._error = await self._owner.settle(self._post)
        if self._error is not None:
            raise self._error

    async def abandon(self) -> None:
        """Give the segment up: its readers get a short one. Never raises; idempotent."""
        if self._finished:
            return
        self._finished = True
        if self._post.bytes_sent:
            await self._owner.give_up(self._post)
        else:
            # Its readers wait for this number: an empty segment lets them go on.
            self._post.end()

    async def __aenter__(self) -> SegmentWriter:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.abandon()

    def _count(self, size: int) -> None:
        self.bytes_written += size
        self._owner.count_bytes(size)

    def _fail(self, error: TrickleError) -> None:
        self._error = error
        self._finished = True
