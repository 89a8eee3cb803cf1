"""The bytes of one segment: one writer, any number of readers, each at its own place.

A reader that joins late replays from byte 0 and then follows live; all share one buffer. A
reader is woken by the append itself: nothing polls. Event-loop only.
"""

from __future__ import annotations

import asyncio

READ_BYTES = 1 << 16
"""The most one read returns."""


class ReadersDropped(Exception):
    """The server needs the memory that a reader of an old segment keeps alive."""


class SegmentBuffer:
    """A growing run of bytes.

    Args:
        seq: the segment's number.
        now: monotonic seconds.
    """

    __slots__ = (
        "_data",
        "_dropped",
        "_last",
        "_waiters",
        "begun_at",
        "closed_at",
        "evicted",
        "readers",
        "seq",
        "truncated",
    )

    def __init__(self, seq: int, now: float) -> None:
        self.seq = seq
        self.begun_at = now
        self.closed_at: float | None = None
        self.truncated = False
        """Its writer did not end it."""
        self.evicted = False
        """No longer in the window; only its readers keep it."""
        self.readers = 0
        self._data = bytearray()
        self._last = b""
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._dropped = False

    def __len__(self) -> int:
        return len(self._data)

    @property
    def closed(self) -> bool:
        return self.closed_at is not None

    def append(self, data: bytes) -> None:
        """Add bytes and wake every reader that waits for them."""
        if self.closed:
            raise ValueError(f"segment {self.seq} is closed")
        self._data += data
        self._last = data
        self._wake()

    def close(self, now: float, *, truncated: bool = False) -> None:
        """No more bytes; readers end after the last one. Idempotent."""
        if self.closed_at is None:
            self.closed_at = now
            self.truncated = truncated
            self._last = b""
            self._wake()

    def drop_readers(self) -> None:
        """Make every reader fail, to free what they keep alive."""
        self._dropped = True
        self._wake()

    def read_at(self, offset: int) -> bytes:
        """What is there from `offset` on, at most `READ_BYTES`; empty if nothing is."""
        size = len(self._data)
        last = self._last
        if offset == size - len(last) and len(last) <= READ_BYTES:
            return last  # a reader that keeps up shares the writer's own bytes
        with memoryview(self._data) as view:
            return bytes(view[offset : offset + READ_BYTES])

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class SegmentReader:
    """One reader's place in a segment. `leave` it, so that the buffer knows who holds it."""

    __slots__ = ("buffer", "offset")

    def __init__(self, buffer: SegmentBuffer) -> None:
        self.buffer = buffer
        self.offset = 0
        buffer.readers += 1

    def leave(self) -> None:
        self.buffer.readers -= 1

    async def read(self) -> bytes:
        """The next bytes, waiting for some; empty at the segment's end.

        Raises:
            ReadersDropped: the server needs the memory.
        """
        buffer = self.buffer
        while True:
            if buffer._dropped:
                raise ReadersDropped(f"segment {buffer.seq}")
            data = buffer.read_at(self.offset)
            if data:
                self.offset += len(data)
                return data
            if buffer.closed:
                return b""
            await buffer._wait()
