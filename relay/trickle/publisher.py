"""Last stage: segments to a trickle channel, one POST each, streamed as they are made.

While a segment is written, the POST of the next one already stands (the preconnect), so a
segment's first byte costs no connection and no round trip. Nothing is sent twice that the
server may already have: a segment that breaks is lost, counted, closed for its readers, and
the next one goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

import aiohttp
import structlog

from relay.backoff import RetryBudget
from relay.log_limit import LimitedLog
from relay.tasks import cancel_and_wait
from relay.trickle.channel_url import ChannelUrl
from relay.trickle.errors import (
    ChannelClosedError,
    ChannelNotFoundError,
    RefusedError,
    SegmentLostError,
    StalledError,
    TrickleError,
    UnavailableError,
)
from relay.trickle.http_client import ChannelClient, HttpFailure, describe
from relay.trickle.preconnect import Preconnect
from relay.trickle.protocol import EndReason, ReplyKind
from relay.trickle.publisher_options import PublisherOptions, PublisherStats
from relay.trickle.segment_post import SegmentPost
from relay.trickle.segment_writer import SegmentWriter

log = structlog.get_logger(__name__)

_DELETE_TIMEOUT_S = 2.0

_END_REASONS: dict[type[TrickleError], EndReason] = {
    ChannelClosedError: EndReason.CLOSED,
    ChannelNotFoundError: EndReason.GONE,
    RefusedError: EndReason.REFUSED,
    UnavailableError: EndReason.UNREACHABLE,
}


class TricklePublisher:
    """Publishes one channel.

    ``async with`` it, or `start` and `aclose`. One segment is written after the other.

    Args:
        url: of the channel.
        content_type: of its segments; a server fixes it when the channel is made.
        session: an aiohttp session to use, not closed here; see `new_session`. None makes one.
        options: policies and limits.
    """

    def __init__(
        self,
        url: str,
        *,
        content_type: str = "video/MP2T",
        session: aiohttp.ClientSession | None = None,
        options: PublisherOptions | None = None,
    ) -> None:
        self.channel = ChannelUrl.parse(url)
        self.content_type = content_type
        self.options = options or PublisherOptions()
        self.end_reason: EndReason | None = None
        """Why the publication is over; None while it is not."""
        self._client = ChannelClient(self.channel, session, self.options.connection)
        self._log = log.bind(channel=self.channel.redacted)
        self._limited_log = LimitedLog(self._log)
        self._counts: Counter[str] = Counter()
        self._preconnect = Preconnect(self._client, content_type, self.options, self._note_end)
        self._next_lock = asyncio.Lock()
        self._current: SegmentWriter | None = None
        self._begun_at = time.monotonic()
        self._deliveries: dict[SegmentPost, asyncio.Task[TrickleError | None]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._started = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def stats(self) -> PublisherStats:
        return PublisherStats(
            **self._counts,
            segments_in_flight=sum(1 for post in self._deliveries if post.ended),
            retries=self._preconnect.retries,
            conflicts=self._preconnect.conflicts,
        )

    @property
    def problem(self) -> str | None:
        """Why requests are made again now, in words; None while none are."""
        return self._preconnect.problem.text

    async def start(self) -> None:
        """Find the channel's edge, make the channel if need be, and preconnect.

        Raises:
            ChannelNotFoundError, ChannelClosedError, RefusedError, UnavailableError: no
                publishing here.
        """
        if self._started:
            raise RuntimeError("already started")
        self._started = True
        self._client.open()
        try:
            await self._preconnect.start()
        except BaseException:
            await self.aclose(delete=False)
            raise
        if self.options.keepalive_payload:
            self._spawn(self._keep_alive(self.options.keepalive_payload), "trickle keepalive")
        self._log.info("trickle.publisher.started")

    async def next_segment(self) -> SegmentWriter:
        """Begin the next segment; the one before is finished if it is not yet.

        Raises:
            StalledError: the server can't be reached so far; calling again goes on trying.
            ChannelClosedError, ChannelNotFoundError, RefusedError, UnavailableError: the
                publication is over.
        """
        async with self._next_lock:
            if not self._started or self._closing is not None:
                raise RuntimeError("the publisher is not running")
            if self._current is not None and not self._current.finished:
                await self._current.finish()
            return await self._begin_segment()

    async def aclose(self, *, delete: bool = True) -> None:
        """End the current segment, wait until it is accepted, drop the preconnect, DELETE.

        Never raises for the server's faults, and takes at most `close_timeout_s` and a little.
        Idempotent: a second caller waits for the first.

        Args:
            delete: False leaves the channel, for another publisher to go on.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(delete), name="trickle close")
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> TricklePublisher:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- what a SegmentWriter needs ---------------------------------------------------------

    async def replace(self, post: SegmentPost) -> SegmentPost:
        try:
            replacement = await self._preconnect.replace(post)
        except StalledError:
            self._counts["stalls"] += 1
            raise
        self._watch(replacement)
        return replacement

    async def settle(self, post: SegmentPost) -> TrickleError | None:
        delivery = self._deliveries.get(post)
        if delivery is None:
            return post.outcome()
        done, _ = await asyncio.wait({delivery}, timeout=self.options.close_timeout_s)
        if not done:
            await self.give_up(
                post,
                StalledError(
                    f"the server has not answered for {self.options.close_timeout_s:g} s "
                    f"after the end of segment {post.seq}"
                ),
            )
        return post.outcome()

    async def give_up(self, post: SegmentPost, why: SegmentLostError | None = None) -> None:
        await post.abort(why)
        if delivery := self._deliveries.get(post):
            await asyncio.wait({delivery})

    def count_bytes(self, count: int) -> None:
        self._counts["bytes_written"] += count

    # -- segments ---------------------------------------------------------------------------

    async def _begin_segment(self) -> SegmentWriter:
        await self._wait_for_room()
        try:
            post = await self._preconnect.take()
        except StalledError:
            self._counts["stalls"] += 1
            raise
        self._counts["segments_begun"] += 1
        self._begun_at = time.monotonic()
        self._watch(post)
        self._current = SegmentWriter(self, post, self.options.write_stall_s)
        return self._current

    async def _wait_for_room(self) -> None:
        """Until few enough ended segments wait for their replies."""
        while True:
            ended = [post for post in self._deliveries if post.ended]
            if len(ended) < self.options.max_in_flight:
                return
            await self.settle(min(ended, key=lambda post: post.ended_at or 0.0))

    def _watch(self, post: SegmentPost) -> None:
        delivery = self._spawn(self._deliver(post), f"trickle delivery {post.seq}")
        self._deliveries[post] = delivery
        delivery.add_done_callback(lambda _: self._deliveries.pop(post, None))

    async def _deliver(self, post: SegmentPost) -> TrickleError | None:
        """Wait for the end of a segment's POST and account for it, once."""
        await post.wait_done()
        if not post.bytes_sent and not post.ended:
            return None  # its writer opens it again when it has something to write
        error = post.outcome()
        if error is None:
            self._counts["segments_accepted"] += 1
            self._preconnect.succeeded()
            return None
        self._counts["segments_lost"] += 1
        if isinstance(error, StalledError):
            self._counts["stalls"] += 1
        self._limited_log.warning(
            "trickle.publisher.segment_lost", seq=post.seq, error=error.message
        )
        if not isinstance(error, SegmentLostError):
            self._preconnect.end(error)
        elif post.left_open and post.seq >= 0:
            self._spawn(self._close_segment(post.seq), f"trickle DELETE {post.seq}")
        return error

    async def _close_segment(self, number: int) -> None:
        """DELETE a broken segment: on the reference server its readers hang otherwise."""
        budget = RetryBudget(self.options.close_timeout_s)
        while True:
            try:
                reply = await self._client.ask("DELETE", self.channel.segment(number))
                if reply.kind is not ReplyKind.RETRY:
                    return
            except HttpFailure:
                pass
            delay_s = budget.failed(time.monotonic())
            if delay_s is None:
                return
            await asyncio.sleep(delay_s)

    async def _keep_alive(self, payload: bytes) -> None:
        interval_s = self.options.keepalive_interval_s
        while True:
            await asyncio.sleep(max(0.0, self._begun_at + interval_s - time.monotonic()))
            async with self._next_lock:
                if time.monotonic() < self._begun_at + interval_s:
                    continue
                if self._current is not None and not self._current.finished:
                    self._begun_at = time.monotonic()
                    continue
                try:
                    segment = await self._begin_segment()
                    await segment.write(payload)
                    await segment.finish()
                    self._counts["keepalives"] += 1
                except SegmentLostError:
                    continue
                except TrickleError:
                    return

    # -- ending -----------------------------------------------------------------------------

    def _note_end(self, error: TrickleError) -> None:
        reason = _END_REASONS.get(type(error))
        if self.end_reason is None and reason is not None:
            self.end_reason = reason
            self._log.info("trickle.publisher.ended", reason=reason.value, error=error.message)

    async def _close(self, delete: bool) -> None:
        over = self.end_reason is not None
        if self.end_reason is None:
            self.end_reason = EndReason.STOPPED
        await self._finish_all()
        await self._preconnect.aclose()
        if delete and self._started and not over:
            await self._delete_channel()
        await cancel_and_wait(self._background)
        await self._client.aclose()
        if not over:
            self._log.info("trickle.publisher.closed", **_loggable(self.stats))

    async def _finish_all(self) -> None:
        """End what is being written and wait until the server has it, or the time is up."""
        try:
            async with asyncio.timeout(self.options.close_timeout_s):
                if self._current is not None:
                    with suppress(TrickleError):  # counted and logged where it happened
                        await self._current.finish()
                while self._deliveries:
                    await asyncio.wait(self._deliveries.values())
        except TimeoutError:
            self._log.warning("trickle.publisher.close_timed_out")
            for post in tuple(self._deliveries):
                await post.abort(StalledError(f"segment {post.seq} was not accepted in time"))

    async def _delete_channel(self) -> None:
        try:
            async with asyncio.timeout(_DELETE_TIMEOUT_S):
                reply = await self._client.ask("DELETE", self.channel.channel)
            if reply.status not in (200, 400, 404):
                self._log.warning("trickle.publisher.delete_refused", status=reply.status)
        except HttpFailure as failure:
            self._log.warning("trickle.publisher.delete_failed", reason=describe(failure))

    def _spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _loggable(stats: PublisherStats) -> dict[str, int]:
    return {name: getattr(stats, name) for name in PublisherStats.__slots__}
