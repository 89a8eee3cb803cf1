"""One POST of one segment: its body is written straight to the socket as it is made.

aiohttp normally pulls a request body from an iterator, one task switch for each chunk and none
before the first. Here the body hands its writer out instead: headers go on the wire at once
(that is the preconnect), `write` puts bytes into the socket from the caller's own task, and
only a full socket costs a wait.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter

from relay.trickle.channel_url import ChannelUrl
from relay.trickle.errors import (
    ChannelClosedError,
    ChannelNotFoundError,
    SegmentLostError,
    StalledError,
    TrickleError,
)
from relay.trickle.http_client import ChannelClient, HttpFailure, describe, discard_body
from relay.trickle.protocol import RESET, RESET_VALUE, Reply, ReplyKind

_WRITE_SLICE_BYTES = 1 << 16
_MOST_UNSENT_BYTES = 1 << 15
"""That wait in a socket which takes more at once: below the 64 KiB from which the event loops let
a writer wait."""


class _StreamedBody(aiohttp.Payload):
    """A request body that is open from the request's headers until `end`."""

    _autoclose = True

    def __init__(self, content_type: str) -> None:
        super().__init__(None, content_type=content_type)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writer: StreamWriter | None = None
        self.ended = False
        self._wanted = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Called by aiohttp in a task of its own; a cancel means that the request is over."""
        if not isinstance(writer, StreamWriter):
            raise TypeError(f"unexpected writer {type(writer).__name__}")
        try:
            writer.send_headers()
            self.writer = writer
            if not self.opened.done():
                self.opened.set_result(None)
            while not self.ended:
                await self._wanted.wait()
                self._wanted.clear()
                if self._drained is not None:
                    await writer.drain()
                    self._wake()
        finally:
            # From here on the connection is no longer ours: aiohttp may give it to another
            # request or close it.
            self.writer = None
            self._wake()

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a streamed body has no text")

    def end(self) -> None:
        self.ended = True
        self._wanted.set()

    async def wait_drained(self) -> None:
        """Until the socket takes bytes again, or the request is over."""
        # The drain runs in the request's task: cancelling one in the caller's would leave
        # aiohttp's drain future cancelled for everyone after.
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        self._wanted.set()
        await asyncio.shield(self._drained)

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None


class SegmentPost:
    """A POST that is on the wire, or was.

    `failure` and `reply` say how it ended; both are None while it is running. Create it inside
    the event loop; it starts at once.

    Args:
        client: for the channel.
        seq: the segment's number; -1 if the server chooses.
        content_type: of the segment.
        reset: whether it closes every lower segment.
    """

    def __init__(self, client: ChannelClient, seq: int, content_type: str, *, reset: bool) -> None:
        self.seq = seq
        self.reset = reset
        self.bytes_sent = 0
        self.reply: Reply | None = None
        self.failure: BaseException | None = None
        self.given_up: SegmentLostError | None = None
        """Why we aborted it, if we did."""
        self.ended_at: float | None = None
        """Monotonic time at which we ended the body, if the reply had not come before."""
        self._client = client
        self._opened_at = time.monotonic()
        self._body = _StreamedBody(content_type)
        self.task = asyncio.create_task(self._run(), name=f"trickle POST {seq}")

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._opened_at

    @property
    def done(self) -> bool:
        return self.task.done()

    @property
    def ended(self) -> bool:
        """Whether we have ended the body."""
        return self._body.ended

    @property
    def ended_early(self) -> bool:
        """The final reply came before our own end of the body."""
        return self.reply is not None and self.ended_at is None

    @property
    def left_open(self) -> bool:
        """Whether the server may have a part of the segment and wait for more.

        The reference does after a cut, and after one that it answered with 500; a segment that
        it ended itself is closed.
        """
        return self.bytes_sent > 0 and (self.reply is None or self.reply.kind is ReplyKind.RETRY)

    async def wait_opened(self) -> None:
        """Until the headers are on the wire, or the request has failed. Raises neither."""
        await asyncio.wait({self._body.opened, self.task}, return_when=asyncio.FIRST_COMPLETED)

    async def wait_done(self) -> None:
        """Until the reply is here, or the request has failed. Raises neither."""
        await asyncio.wait({self.task})

    async def write(self, data: bytes | bytearray | memoryview, stall_s: float) -> bool:
        """Put `data` into the socket; wait only while it is full.

        Returns:
            False if the request was over before all of it was taken.

        Raises:
            StalledError: the server took nothing for `stall_s`.
        """
        body = self._body
        if body.ended:
            raise RuntimeError(f"segment {self.seq} is already closed")
        if len(data) <= _WRITE_SLICE_BYTES:
            return await self._write_slice(data, stall_s)
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_SLICE_BYTES):
            if not await self._write_slice(view[start : start + _WRITE_SLICE_BYTES], stall_s):
                return False
        return True

    def write_nowait(self, data: bytes) -> bool:
        """Put `data` into the socket if that takes it at once.

        Returns:
            False if not, and then nothing of it: `write` waits for what there is to wait for.
        """
        writer = self._body.writer
        if writer is None or self._body.ended or writer.protocol.writing_paused:
            return False
        transport = writer.transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + len(data) > _MOST_UNSENT_BYTES:
            return False
        if data:  # an empty chunk is the end of the body (RFC 9112, 7.1)
            transport.write(b"".join((b"%x\r\n" % len(data), data, b"\r\n")))
            self.bytes_sent += len(data)
        return True

    async def _write_slice(self, data: bytes | bytearray | memoryview, stall_s: float) -> bool:
        writer = self._body.writer
        if writer is None:
            return False
        try:
            await writer.write(data, drain=False)
        except HttpFailure:
            return False
        self.bytes_sent += len(data)
        if writer.protocol.writing_paused:
            try:
                async with asyncio.timeout(stall_s):
                    await self._body.wait_drained()
            except TimeoutError:
                raise StalledError(
                    f"the server has taken no byte of segment {self.seq} for {stall_s:g} s"
                ) from None
        return self._body.writer is not None

    def end(self) -> None:
        """End the body; the reply follows. Idempotent."""
        if not self._body.ended:
            if self.reply is None:
                self.ended_at = time.monotonic()
            self._body.end()

    async def abort(self, why: SegmentLostError | None = None) -> None:
        """Drop the connection without ending the body. Idempotent; nothing if it is over."""
        if not self.done:
            if self.given_up is None:
                self.given_up = why or SegmentLostError(f"segment {self.seq} was given up")
            # Not `_body.end()`: that would let a clean end of body slip out before the cancel.
            self._body.ended = True
            self.task.cancel()
        await asyncio.wait({self.task})

    def outcome(self) -> TrickleError | None:
        """What a POST that is over means: None if the server accepted all of it."""
        if self.given_up is not None:
            return self.given_up
        if self.reply is None:
            return self._lost(describe(self.failure or aiohttp.ServerDisconnectedError()))
        if error := channel_end(self.reply, self._client.channel):
            return error
        if self.ended_early:
            return self._lost(f"the server ended it early, with status {self.reply.status}")
        if self.reply.status != 200:
            return self._lost(f"the server answered with status {self.reply.status}")
        return None

    def _lost(self, why: str) -> SegmentLostError:
        return SegmentLostError(
            f"segment {self.seq} was lost after {self.bytes_sent} bytes: {why}; "
            "go on with the next one"
        )

    async def _run(self) -> None:
        try:
            response = await self._client.request(
                "POST",
                self._client.channel.segment(self.seq),
                headers={RESET: RESET_VALUE} if self.reset else None,
                data=self._body,
            )
            self.reply = Reply.parse(response.status, response.headers)
            try:
                async with asyncio.timeout(self._client.options.reply_timeout_s):
                    await discard_body(response)
            finally:
                response.close()
        except HttpFailure as failure:
            self.failure = failure
        except asyncio.CancelledError as cancelled:
            self.failure = cancelled
            if self.given_up is None:
                raise
        finally:
            if not self._body.opened.done():
                self._body.opened.set_result(None)

    def __repr__(self) -> str:
        state = self.reply or self.failure or "running"
        return f"<SegmentPost {self.seq} {self.bytes_sent} bytes {state}>"


def channel_end(reply: Reply, channel: ChannelUrl) -> TrickleError | None:
    """The error that a reply means for the whole channel; None if it goes on."""
    if reply.closed:
        return ChannelClosedError(f"{channel.redacted} was closed")
    if reply.kind is ReplyKind.NO_CHANNEL:
        return ChannelNotFoundError(f"{channel.redacted} does not exist any more")
    return None
