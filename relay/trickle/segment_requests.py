"""The GETs of one subscription: the one that is waited for, and the one sent ahead.

Here is how requests are made, watched, paced and mended; what their replies mean for the
subscription is the subscriber's business.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from relay.backoff import FruitlessPacer, RetryBudget
from relay.log_limit import LimitedLog
from relay.trickle.errors import UnavailableError
from relay.trickle.http_client import ChannelClient, HttpFailure
from relay.trickle.protocol import Reply, ReplyKind
from relay.trickle.segment_get import SegmentGet
from relay.trickle.subscriber_options import SubscriberOptions

_OVERTAKEN_GRACE_S = 1.0


class SegmentRequests:
    """Requests for segments of one channel.

    Args:
        client: for the channel.
        options: of the subscriber.
        counts: where ``retries``, ``resumes`` and ``stalls`` are counted.
        limited_log: for warnings.
    """

    def __init__(
        self,
        client: ChannelClient,
        options: SubscriberOptions,
        counts: Counter[str],
        limited_log: LimitedLog,
    ) -> None:
        self._client = client
        self._options = options
        self._counts = counts
        self._log = limited_log
        self._pacer = FruitlessPacer()
        self._pending: SegmentGet | None = None
        self._ahead: SegmentGet | None = None
        self._stop = asyncio.Event()
        self._silent_since: float | None = None
        """When the first of the requests was sent that were not answered; None after an answer."""

    @property
    def stopping(self) -> bool:
        """Whether the subscription is being closed."""
        return self._stop.is_set()

    def fruitful(self) -> None:
        """A request brought something new: the next ones need no pacing."""
        self._pacer.fruitful()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not longer than until `aclose`."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._stop.wait()
            except TimeoutError:
                pass

    async def get(self, number: int) -> SegmentGet | None:
        """The request for `number`: one that is under way already, or a new one, paced.

        Returns:
            None if the subscription is being closed.
        """
        candidates = (self._pending, self._ahead)
        self._pending = self._ahead = None
        for candidate in candidates:
            if candidate is None:
                continue
            if candidate.number == number and self._pending is None:
                self._pending = candidate
            else:
                await candidate.aclose()
        return self._pending or await self._send(number)

    def send_ahead(self, number: int) -> None:
        """Ask for `number` now, unless requests have brought nothing lately."""
        now = time.monotonic()
        if not self._pacer.delay(now):
            self._pacer.sent(now)
            self._ahead = SegmentGet(self._client, number)

    async def reply_to(self, get: SegmentGet, begun_anew: Callable[[int], bool]) -> Reply | None:
        """The reply to a request; None if it was given up and has to be made again.

        While it waits, the server is asked now and then whether waiting is still right: the
        connection may be dead without anybody noticing, and servers are known that forget
        those who wait.

        Args:
            begun_anew: whether an edge means that the channel began anew.

        Raises:
            any of `HttpFailure`.
            UnavailableError: the server takes requests, and has answered none for the budget.
        """
        overtaken = False
        while True:
            came = await get.wait(
                _OVERTAKEN_GRACE_S if overtaken else self._options.header_timeout_s
            )
            if self.stopping:
                return None
            if came:
                reply = get.reply()
                self._silent_since = None
                return reply
            if overtaken:
                self._counts["stalls"] += 1
                self._log.warning("trickle.subscriber.reply_missing", seq=get.number)
            if overtaken or get.age_s > self._options.long_poll_refresh_s:
                await self.drop(get)
                return None
            overtaken = get.number >= 0 and await self._is_overtaken(get.number, begun_anew)

    def hand_out(self, get: SegmentGet) -> None:
        """`get` belongs to a segment now."""
        if self._pending is get:
            self._pending = None

    async def drop(self, get: SegmentGet) -> None:
        """End a request that brought nothing to deliver."""
        self.hand_out(get)
        await get.discard()

    async def resume(self, seq: int, *, stalled: bool) -> SegmentGet | None:
        """A new request for a segment that broke off; None if it can't be had any more."""
        self._counts["stalls" if stalled else "resumes"] += 1
        self._log.warning("trickle.subscriber.segment_cut", seq=seq, stalled=stalled)
        budget = RetryBudget(self._options.retry_budget_s)
        while (get := await self._send(seq)) is not None:
            sent_at = time.monotonic()
            try:
                if not await get.wait(self._options.header_timeout_s):
                    self._unanswered(sent_at)
                elif not self.stopping:
                    reply = get.reply()
                    self._silent_since = None
                    if reply.kind is ReplyKind.OK and not reply.empty and reply.seq in (None, seq):
                        self.hand_out(get)
                        return get
                    if reply.kind is not ReplyKind.RETRY:
                        return None
            except HttpFailure:
                pass
            finally:
                if self._pending is get:
                    self._pending = None
                    await get.aclose()
            delay_s = budget.failed(time.monotonic())
            if delay_s is None:
                return None
            self._counts["retries"] += 1
            await self.sleep(delay_s)
        return None

    async def newer_exists(self, seq: int) -> bool:
        """Whether a segment after `seq` has begun."""
        ahead = self._ahead
        if ahead is not None and ahead.answered and ahead.reply().kind is ReplyKind.OK:
            return True
        edge = await self.edge()
        return edge is not None and edge > seq + 1

    async def edge(self) -> int | None:
        """The channel's edge; None if the server does not say."""
        try:
            reply = await self._client.ask_next()
        except HttpFailure:
            return None
        return reply.latest if reply.kind is ReplyKind.OK else None

    async def aclose(self) -> None:
        """Drop every request; whoever waits for one is woken. Idempotent."""
        self._stop.set()
        for get in (self._pending, self._ahead):
            if get is not None:
                await get.aclose()
        self._pending = self._ahead = None

    def _unanswered(self, sent_at: float) -> None:
        self._silent_since = sent_at if self._silent_since is None else self._silent_since

    def _silence_left_s(self) -> float:
        """How long the server may go on answering nothing."""
        since = time.monotonic() if self._silent_since is None else self._silent_since
        return since + self._options.retry_budget_s - time.monotonic()

    async def _send(self, number: int) -> SegmentGet | None:
        await self.sleep(self._pacer.delay(time.monotonic()))
        if self.stopping:
            return None
        self._pacer.sent(time.monotonic())
        self._pending = SegmentGet(self._client, number)
        return self._pending

    async def _is_overtaken(self, number: int, begun_anew: Callable[[int], bool]) -> bool:
        """Whether a request that waits for `number` should have been answered by now.

        Raises:
            UnavailableError: this question is not answered either, and none was for the budget.
        """
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(max(self._silence_left_s(), self._options.header_timeout_s)):
                reply = await self._client.ask_next()
        except HttpFailure as failure:
            self._unanswered(asked_at)
            if self._silence_left_s() <= 0:
                raise UnavailableError(
                    f"{self._client.channel.redacted} has answered nothing for "
                    f"{self._options.retry_budget_s:g} s"
                ) from failure
            return False
        self._silent_since = None
        if reply.kind in (ReplyKind.NO_CHANNEL, ReplyKind.CLOSED):
            return True
        edge = reply.latest
        if reply.kind is not ReplyKind.OK or edge is None:
            return False
        return edge > number or begun_anew(edge)
