"""JSON lines to a trickle channel: whoever has something to say never waits.

Lines that come shortly after one another share a segment; each segment ends when it is written,
so readers have every line at once. An idle channel gets a keepalive, because servers sweep
channels without new segments.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import structlog

from relay.backoff import backoff_delays
from relay.log_limit import LimitedLog
from relay.redaction import mask_credentials
from relay.tasks import cancel_and_wait
from relay.trickle.errors import (
    ChannelClosedError,
    ChannelNotFoundError,
    SegmentLostError,
    StalledError,
    TrickleError,
    UnavailableError,
)
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import CreatePolicy, PublisherOptions

log = structlog.get_logger(__name__)

KEEPALIVE_LINE = b'{"keep":"alive"}\n'
KEEPALIVE_S = 25.0
LINGER_S = 0.1
MOST_BATCH_BYTES = 256 * 1024
MOST_LINES_WAITING = 1000
MOST_BYTES_WAITING = 4 << 20
MOST_LINE_BYTES = 60 * 1024
"""A gateway's line reader gives up at 64 KiB."""
LONGEST_WAIT_S = 15.0
CLOSE_TIMEOUT_S = 1.0


class LinePublisher:
    """Publishes messages, one JSON object a line.

    Args:
        url: of the channel.
        http: shared; not closed here.
        name: for the log and the status: ``data``, ``events``.
        content_type: of the segments.
        linger_s: how long a line waits for others to share its segment; 0 sends each at once.
        keepalive: sent when nothing else was for `keepalive_s`; None sends nothing.
        lines_a_segment: at the most, for readers that take a segment for one message.
        create: whether a channel that is missing is made.
        on_gone: called once when the channel was closed or does not exist.
    """

    def __init__(
        self,
        url: str,
        http: aiohttp.ClientSession,
        *,
        name: str,
        content_type: str = "application/jsonl",
        linger_s: float = LINGER_S,
        keepalive: bytes | None = KEEPALIVE_LINE,
        keepalive_s: float = KEEPALIVE_S,
        lines_a_segment: int = MOST_LINES_WAITING,
        create: CreatePolicy = CreatePolicy.IF_MISSING,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self.lines_sent = 0
        self.lines_dropped = 0
        """Too many waited, too long for a line, lost on the way, or nowhere to go any more."""
        self.error: TrickleError | None = None
        """Why nothing can be published, now or any more."""
        self._url = url
        self._http = http
        self._content_type = content_type
        self._linger_s = linger_s
        self._keepalive = keepalive
        self._keepalive_s = keepalive_s
        self._lines_a_segment = lines_a_segment
        self._create = create
        self._on_gone = on_gone
        self._lines: deque[bytes] = deque()
        self._bytes_waiting = 0
        self._over = False
        """Nothing is published any more."""
        self._changed = asyncio.Event()
        self._closing = False
        self._keep_channel = False
        self._task: asyncio.Task[None] | None = None
        self._log = log.bind(channel=mask_credentials(url), role=name)
        self._limited_log = LimitedLog(self._log)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Take a message to publish; returns at once, also while nothing can be published.

        Returns:
            False if it is too long for a line and was dropped. When too many wait, the oldest
            makes room.
        """
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > MOST_LINE_BYTES:
            self.lines_dropped += 1
            self._limited_log.warning("channel.line_too_long", bytes=len(line))
            return False
        self._lines.append(line)
        self._bytes_waiting += len(line)
        self._drop_surplus()
        self._changed.set()
        return True

    def start(self) -> None:
        """Begin to publish, in a task of its own."""
        self._task = asyncio.create_task(self._run(), name="line publisher")

    async def aclose(self, *, keep_channel: bool = False) -> None:
        """Publish what waits, end the channel. Bounded in time, idempotent, never raises.

        Args:
            keep_channel: leave it open: another process goes on with it.
        """
        self._keep_channel = keep_channel
        self._closing = True
        self._changed.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
            await cancel_and_wait([self._task])
        self._end()

    def status(self) -> dict[str, Any]:
        """Plain values for the session's status."""
        return {
            "lines_sent": self.lines_sent,
            "lines_dropped": self.lines_dropped,
            "error": self.error.message if self.error else None,
        }

    async def _run(self) -> None:
        waits = backoff_delays(1.0, LONGEST_WAIT_S)
        while not self._closing:
            try:
                await self._open_and_publish()
                return
            except TrickleError as error:
                self.error = error
                self._limited_log.warning("channel.failed", error=error.message, code=error.code)
                if isinstance(error, ChannelNotFoundError | ChannelClosedError):
                    self._on_gone()
                if not isinstance(error, UnavailableError):
                    self._end()
                    return
            await asyncio.sleep(next(waits))

    async def _open_and_publish(self) -> None:
        """Until closing, with nothing left to publish.

        Raises:
            TrickleError: the channel can't be published to, or not any more.
        """
        options = PublisherOptions(create=self._create, close_timeout_s=CLOSE_TIMEOUT_S)
        publisher = TricklePublisher(
            self._url, content_type=self._content_type, session=self._http, options=options
        )
        try:
            await publisher.start()
            self.error = None
            while batch := await self._next_batch():
                await self._publish(publisher, batch)
        finally:
            await publisher.aclose(delete=not self._keep_channel)

    async def _publish(self, publisher: TricklePublisher, batch: list[bytes]) -> None:
        """One segment.

        Raises:
            TrickleError: the channel can't be published to any more; the lines wait again.
        """
        data = b"".join(batch)
        lines = 0 if data == self._keepalive else len(batch)
        try:
            while True:
                try:
                    segment = await publisher.next_segment()
                    break
                except StalledError:
                    continue
            await segment.write(data)
            await segment.finish()
            self.lines_sent += lines
        except SegmentLostError:
            self.lines_dropped += lines
        except (TrickleError, asyncio.CancelledError):
            if lines:
                self._put_back(batch)
            raise

    async def _next_batch(self) -> list[bytes]:
        """What goes into the next segment; empty at the end."""
        idle_until = time.monotonic() + self._keepalive_s
        while not self._lines and not self._closing:
            self._changed.clear()
            try:
                wait_s = idle_until - time.monotonic() if self._keepalive else None
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                assert self._keepalive is not None
                return [self._keepalive]
        if self._linger_s and not self._closing:
            await asyncio.sleep(self._linger_s)
        batch: list[bytes] = []
        size = 0
        while self._lines and size < MOST_BATCH_BYTES and len(batch) < self._lines_a_segment:
            batch.append(self._next_line())
            size += len(batch[-1])
        return batch

    def _next_line(self) -> bytes:
        line = self._lines.popleft()
        self._bytes_waiting -= len(line)
        return line

    def _put_back(self, batch: list[bytes]) -> None:
        self._lines.extendleft(reversed(batch))
        self._bytes_waiting += sum(map(len, batch))
        self._drop_surplus()

    def _drop_surplus(self) -> None:
        """The oldest make room; after the end nothing waits."""
        while self._lines and (
            self._over
            or len(self._lines) > MOST_LINES_WAITING
            or self._bytes_waiting > MOST_BYTES_WAITING
        ):
            self._next_line()
            self.lines_dropped += 1

    def _end(self) -> None:
        self._over = True
        self._drop_surplus()
