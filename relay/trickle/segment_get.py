"""One GET of one segment, from the request to the last byte of its body."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from relay.trickle.http_client import ChannelClient, HttpFailure, discard_body
from relay.trickle.protocol import Reply


class SegmentGet:
    """A GET that is on the wire. Create it inside the event loop; it starts at once.

    Args:
        client: for the channel.
        number: of the segment; may be negative.
    """

    def __init__(self, client: ChannelClient, number: int) -> None:
        self.number = number
        self.stalled = False
        """We gave its body up because nothing came."""
        self._client = client
        self._sent_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._response: aiohttp.ClientResponse | None = None
        self._waiting_since: float | None = None
        self._stall_s = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._peeked = b""
        self.task = asyncio.create_task(self._run(), name=f"trickle GET {number}")
        # Whoever needs the failure takes it from `reply`; a preconnect may go unasked for.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def age_s(self) -> float:
        """Seconds since it was sent."""
        return time.monotonic() - self._sent_at

    @property
    def answered(self) -> bool:
        """Whether the reply's headers are here."""
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the reply's headers, or a failure. False if neither came in time."""
        done, _ = await asyncio.wait({self.task}, timeout=timeout_s)
        return bool(done)

    def reply(self) -> Reply:
        """The reply, after `wait`.

        Raises:
            any of `HttpFailure`.
            asyncio.CancelledError: it was closed.
        """
        return self.task.result()

    async def read(self, stall_s: float) -> bytes:
        """The next bytes of the body as they come; empty at its end.

        Raises:
            any of `HttpFailure`: it was cut, or nothing came for `stall_s` (see `stalled`).
        """
        if self._peeked:
            data, self._peeked = self._peeked, b""
            return data
        if self._failure is not None:
            raise self._failure
        assert self._response is not None
        content = self._response.content
        self._waiting_since = self._loop.time()
        self._stall_s = stall_s
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(stall_s, self._check_stall)
        try:
            data = await content.readany()
        except HttpFailure as failure:
            # What had arrived before the cut is still good.
            self._failure = failure
            rescued = b"" if self.stalled else _buffered_after_failure(content)
            if rescued:
                return rescued
            raise
        finally:
            self._waiting_since = None
        if not data:
            self._stop_timer()
        return data

    async def peek(self, size: int, stall_s: float) -> bytes:
        """The first bytes of the body, `size` unless it is shorter; `read` still returns them.

        Raises:
            any of `HttpFailure`: as `read`; what had come is kept for `read`.
        """
        taken = b""
        try:
            while len(taken) < size and (data := await self.read(stall_s)):
                taken += data
        finally:
            self._peeked = taken
        return taken[:size]

    def close(self) -> None:
        """Drop the connection unless the body is complete. A waiting `read` fails. Idempotent."""
        self._stop_timer()
        if self._response is not None:
            self._response.close()
        elif not self.task.done():
            self.task.cancel()

    async def aclose(self) -> None:
        """As `close`, and wait until the request's task has ended."""
        self.close()
        if not self.task.done():
            await asyncio.wait({self.task})
        if not self.task.cancelled() and self.task.exception() is None:
            self.close()  # its reply came in the last moment

    async def discard(self) -> None:
        """End a request that was answered; a short body is read so its connection can be used
        again."""
        if self._response is not None:
            try:
                async with asyncio.timeout(1.0):
                    await discard_body(self._response)
            except HttpFailure:
                pass
        await self.aclose()

    async def _run(self) -> Reply:
        response = await self._client.request("GET", self._client.channel.segment(self.number))
        self._response = response
        return Reply.parse(response.status, response.headers)

    def _check_stall(self) -> None:
        """One timer for a whole segment: a timer for each read would cost more than the read."""
        waiting_since = self._waiting_since
        now = self._loop.time()
        due_at = (now if waiting_since is None else waiting_since) + self._stall_s
        if now < due_at:
            self._stall_timer = self._loop.call_at(due_at, self._check_stall)
            return
        self.stalled = True
        self.close()

    def _stop_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def _buffered_after_failure(content: aiohttp.StreamReader) -> bytes:
    """Bytes that aiohttp holds but won't give once the connection is cut.

    `StreamReader` raises its exception before it looks at its buffer and has no public way
    round that; a test tells when an upgrade changes it.
    """
    content._exception = None
    return content.read_nowait()
