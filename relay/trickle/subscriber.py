"""First stage: segments from a trickle channel, chunk by chunk as they arrive.

    async with TrickleSubscriber("http://127.0.0.1:3389/camera") as subscriber:
        async for segment in subscriber:
            async for chunk in segment:
                ...

The next segment is asked for as soon as the headers of the current one are here, so a segment
boundary costs no round trip. Nothing is delivered twice or out of order, whatever the server
does; what can't be delivered is counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType

import aiohttp
import structlog

from relay.backoff import RetryBudget, backoff_delays
from relay.log_limit import LimitedLog
from relay.trickle.channel_url import ChannelUrl
from relay.trickle.errors import ProtocolError, RefusedError, TrickleError, UnavailableError
from relay.trickle.http_client import ChannelClient, HttpFailure, describe, is_final_failure
from relay.trickle.last_problem import LastProblem
from relay.trickle.protocol import EndReason, Reply, ReplyKind, StartPosition, SymbolicNumber
from relay.trickle.replay_guard import HEAD_BYTES, ReplayGuard
from relay.trickle.segment_cursor import SegmentCursor, Step
from relay.trickle.segment_get import SegmentGet
from relay.trickle.segment_requests import SegmentRequests
from relay.trickle.subscribed_segment import DEFAULT_READ_LIMIT, SubscribedSegment
from relay.trickle.subscriber_options import SubscriberOptions, SubscriberStats

log = structlog.get_logger(__name__)

_HELD_OPEN_S = 5.0
"""A request that waited this long before it broke was accepted: an idle connection was cut,
which happens, and does not count against the retry budget."""
_AHEAD_LIMIT_S = 30.0
"""How long we wait for a publisher whose edge is below the number we want."""


class TrickleSubscriber:
    """Subscribes to one channel; iterate over it for segments.

    The iteration ends when the channel does; `end_reason` says how. One task iterates; any may
    call `aclose`.

    Args:
        url: of the channel.
        start: where to begin: the current segment, the next one, or a number.
        session: an aiohttp session to use, not closed here; see `new_session`. None makes one.
        options: policies and limits.
    """

    def __init__(
        self,
        url: str,
        *,
        start: StartPosition | int = StartPosition.CURRENT,
        session: aiohttp.ClientSession | None = None,
        options: SubscriberOptions | None = None,
    ) -> None:
        if isinstance(start, int) and start < 0:
            raise ValueError("start is StartPosition.CURRENT, StartPosition.NEXT or 0, 1, 2, ...")
        self.channel = ChannelUrl.parse(url)
        self.options = options or SubscriberOptions()
        self.end_reason: EndReason | None = None
        """Why there are no more segments; None while there may be some."""
        self._start_at = start
        self._client = ChannelClient(self.channel, session, self.options.connection)
        self._log = log.bind(channel=self.channel.redacted)
        self._limited_log = LimitedLog(self._log)
        self._budget = RetryBudget(self.options.retry_budget_s)
        self._counts: Counter[str] = Counter()
        self._requests = SegmentRequests(
            self._client, self.options, self._counts, self._limited_log
        )
        self._cursor = SegmentCursor(
            0, policy=self.options.jump, max_lag_segments=self.options.max_lag_segments
        )
        self._started = False
        self._replay_guard = ReplayGuard()
        self._located = False
        self._channel_seen = False
        self._error: TrickleError | None = None
        self._problem = LastProblem()
        self._segment: SubscribedSegment | None = None
        self._waiting_for_writer: tuple[float, RetryBudget] | None = None
        self._give_up_waiting_at = 0.0
        self._closed_after_this = False
        self._joined_current = False

    @property
    def stats(self) -> SubscriberStats:
        return SubscriberStats(
            **self._counts,
            jumps=self._cursor.jumps,
            skipped_segments=self._cursor.skipped_segments,
            restarts=self._cursor.restarts,
        )

    @property
    def problem(self) -> str | None:
        """Why there is nothing to read now, in words; None while there is, or may be."""
        return self._problem.text

    async def start(self) -> None:
        """Get ready; the first request goes out with the first segment asked for."""
        self._started = True
        self._client.open()
        self._give_up_waiting_at = time.monotonic() + self.options.wait_for_channel_s

    async def aclose(self) -> None:
        """Drop every request; an iteration that waits ends at once. Idempotent, never raises."""
        if self.end_reason is None:
            self.end_reason = EndReason.STOPPED
        await self._requests.aclose()
        if self._segment is not None:
            await self._segment.aclose()
        await self._client.aclose()

    async def __aenter__(self) -> TrickleSubscriber:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[SubscribedSegment]:
        return self

    async def __anext__(self) -> SubscribedSegment:
        """The next segment, as soon as its first byte, or its end, is here.

        If this is cancelled, nothing is lost: the next call goes on waiting.

        Raises:
            StopAsyncIteration: the channel has ended, see `end_reason`.
            RefusedError, UnavailableError, ProtocolError: no subscribing here, or no longer.
        """
        if not self._started:
            await self.start()
        if self._segment is not None:
            await self._segment.aclose()
            self._segment = None
        if self._closed_after_this:
            self._end(EndReason.CLOSED)
        try:
            segment = await self._next_segment()
        except TrickleError as error:
            if self._error is None:
                self._error = error
                self._end(_END_REASONS.get(type(error), EndReason.BROKEN), error)
            raise
        if segment is None:
            raise StopAsyncIteration
        return segment

    async def messages(self, limit: int = DEFAULT_READ_LIMIT) -> AsyncIterator[bytes]:
        """Whole segments, for channels where each is one message. Empty ones are left out.

        Raises:
            SegmentTooLargeError: a segment has more than `limit` bytes.
            as iterating over segments.
        """
        async for segment in self:
            message = await segment.read(limit)
            if message and not segment.truncated:
                yield message

    # -- what a segment needs ---------------------------------------------------------------

    @property
    def body_stall_s(self) -> float:
        return self.options.body_stall_s

    @property
    def stopping(self) -> bool:
        return self._requests.stopping

    async def resume(self, seq: int, *, stalled: bool) -> SegmentGet | None:
        return await self._requests.resume(seq, stalled=stalled)

    async def newer_exists(self, seq: int) -> bool:
        return await self._requests.newer_exists(seq)

    def note_bytes(self, seq: int, chunk: bytes) -> None:
        self._counts["bytes"] += len(chunk)
        self._requests.fruitful()
        self._replay_guard.note(seq, chunk)

    def segment_ended(self, segment: SubscribedSegment) -> None:
        if segment.truncated:
            self._counts["truncated_segments"] += 1
            self._limited_log.warning(
                "trickle.subscriber.segment_truncated",
                seq=segment.seq,
                bytes_read=segment.bytes_read,
            )

    # -- from one segment to the next -------------------------------------------------------

    async def _next_segment(self) -> SubscribedSegment | None:
        if self._error is not None:
            raise self._error
        if not self._located and self.end_reason is None:
            await self._locate()
        while self.end_reason is None:
            get = await self._requests.get(self._cursor.number)
            if get is None:
                break
            try:
                reply = await self._requests.reply_to(get, self._cursor.begun_anew)
            except HttpFailure as failure:
                await self._requests.drop(get)
                await self._back_off(failure, waited_s=get.age_s)
                continue
            if reply is None:
                continue
            segment = await self._on_reply(get, reply)
            if segment is not None:
                return segment
        return None

    async def _on_reply(self, get: SegmentGet, reply: Reply) -> SubscribedSegment | None:
        """A segment, or None after whatever it takes before the next request."""
        match reply.kind:
            case ReplyKind.OK:
                self._found()
                step = self._cursor.on_segment(reply)
                if step in (Step.DELIVER, Step.DOUBT) and not await self._is_replay(get, step):
                    self._requests.hand_out(get)
                    return self._deliver(get, reply)
                self._requests.hand_out(get)
                await get.aclose()
                await self._take(step, get.number)
            case ReplyKind.NOT_IN_WINDOW:
                self._found()
                await self._requests.drop(get)
                await self._take(self._cursor.on_not_in_window(reply), get.number)
            case ReplyKind.CLOSED | ReplyKind.NO_CHANNEL:
                await self._requests.drop(get)
                await self._no_channel(reply)
            case ReplyKind.RETRY:
                await self._requests.drop(get)
                await self._back_off(reply)
            case _:
                await self._requests.drop(get)
                raise self._refused(reply)
        return None

    async def _is_replay(self, get: SegmentGet, step: Step) -> bool:
        """Whether a server that lost track serves a segment that was delivered already."""
        seq = self._cursor.number
        guard = self._replay_guard
        if step is Step.DELIVER and not guard.suspects(seq):
            return False
        try:
            head = await get.peek(HEAD_BYTES, self.options.body_stall_s)
        except HttpFailure:
            return False  # what is there is delivered, and the cut mended, as for any segment
        return guard.is_known(head) if step is Step.DOUBT else guard.is_replay(seq, head)

    def _deliver(self, get: SegmentGet, reply: Reply) -> SubscribedSegment:
        cursor = self._cursor
        seq = cursor.number
        self._segment = SubscribedSegment(
            self,
            get,
            reply,
            seq,
            joined_late=self._joined_late(reply, seq),
            skipped_before=cursor.skipped_before,
            restarted=cursor.restarted,
        )
        self._counts["segments"] += 1
        self._counts["empty_segments"] += reply.empty
        self._counts["segments_behind"] = max(0, (reply.latest or 0) - seq - 1)
        self._closed_after_this = reply.closed
        self._waiting_for_writer = None
        self._joined_current = False
        cursor.advance()
        self._replay_guard.begin(seq)
        if not reply.empty and not reply.closed:
            self._requests.send_ahead(cursor.number)
        return self._segment

    def _joined_late(self, reply: Reply, seq: int) -> bool | None:
        if reply.size is not None:
            return reply.size > 0
        if self._joined_current or (reply.latest is not None and reply.latest > seq + 1):
            return True
        return None if self._counts["segments"] == 0 else False

    async def _take(self, step: Step, asked: int) -> None:
        """What a reply that brought nothing to deliver asks for."""
        match step:
            case Step.DELIVER:
                self._counts["replays_refused"] += 1
                self._cursor.pass_over()
            case Step.DOUBT:
                self._counts["replays_refused"] += 1
                await self._wait_for_writer()
            case Step.JUMPED:
                self._waiting_for_writer = None
                self._limited_log.warning(
                    "trickle.subscriber.jumped", from_seq=asked, to_seq=self._cursor.number
                )
            case Step.WAIT:
                await self._wait_for_writer()
            case Step.RESTARTED:
                self._replay_guard.restarted()
                self._limited_log.warning(
                    "trickle.subscriber.restarted", to_seq=self._cursor.number
                )
            case Step.LOOK:
                edge = await self._requests.edge()
                await self._take(Step.WAIT if edge is None else self._cursor.look(edge), asked)

    async def _wait_for_writer(self) -> None:
        """The publisher is a little behind what we want: ask again soon, not for ever."""
        now = time.monotonic()
        if self._waiting_for_writer is None:
            self._waiting_for_writer = (now, RetryBudget(_AHEAD_LIMIT_S))
        delay_s = self._waiting_for_writer[1].failed(now)
        if delay_s is not None:
            await self._requests.sleep(delay_s)
            return
        self._waiting_for_writer = None
        edge = await self._requests.edge()
        if edge is not None and edge < self._cursor.number:
            await self._take(self._cursor.go_to_edge(edge), self._cursor.number)

    # -- beginning and ending ---------------------------------------------------------------

    async def _locate(self) -> None:
        """Turn the start position into a number, so that no request is ever ambiguous."""
        if isinstance(self._start_at, int):
            self._cursor.number = self._start_at
            self._located = True
            return
        while not self._requests.stopping and self.end_reason is None:
            try:
                reply = await self._client.ask_next()
            except HttpFailure as failure:
                await self._back_off(failure)
                continue
            match reply.kind:
                case ReplyKind.OK if reply.latest is not None:
                    self._found()
                    current = self._start_at is StartPosition.CURRENT
                    self._joined_current = current and reply.latest > 0
                    self._cursor.number = max(0, reply.latest - 1) if current else reply.latest
                case ReplyKind.NO_CHANNEL | ReplyKind.CLOSED:
                    await self._no_channel(reply)
                    continue
                case ReplyKind.RETRY if reply.status != 501:
                    await self._back_off(reply)
                    continue
                case _ if reply.status in (401, 403):
                    raise self._refused(reply)
                case _:
                    # A server from before /next: let it resolve the position itself.
                    self._cursor.number = (
                        SymbolicNumber.CURRENT
                        if self._start_at is StartPosition.CURRENT
                        else SymbolicNumber.NEXT
                    )
            self._located = True
            return

    def _found(self) -> None:
        self._channel_seen = True
        self._budget.succeeded()
        self._problem.clear()

    async def _no_channel(self, reply: Reply) -> None:
        self._budget.succeeded()
        if not self._channel_seen and time.monotonic() < self._give_up_waiting_at:
            self._requests.fruitful()
            self._problem.note(f"{self.channel.redacted} does not exist yet")
            await self._requests.sleep(next(backoff_delays(0.5)))
        elif reply.closed:
            self._end(EndReason.CLOSED)
        else:
            self._end(EndReason.GONE if self._channel_seen else EndReason.NEVER_EXISTED)

    async def _back_off(self, what: BaseException | Reply, *, waited_s: float = 0.0) -> None:
        """Wait before another attempt.

        Raises:
            RefusedError: another attempt can't help.
            UnavailableError: the budget is used up.
        """
        if self._requests.stopping:
            return
        if isinstance(what, Reply):
            why = f"it answers with status {what.status}"
        else:
            why = describe(what)
            if is_final_failure(what):
                raise RefusedError(f"{self.channel.redacted} can't be used: {why}") from what
        if waited_s > _HELD_OPEN_S:
            self._budget.succeeded()
        self._problem.note(f"{self.channel.redacted} can't be subscribed to: {why}")
        delay_s = self._budget.failed(time.monotonic())
        if delay_s is None:
            raise UnavailableError(
                f"{self.channel.redacted} could not be subscribed to for "
                f"{self.options.retry_budget_s:g} s: {why}"
            )
        self._counts["retries"] += 1
        self._limited_log.warning(
            "trickle.subscriber.retrying", reason=why, delay_s=round(delay_s, 3)
        )
        await self._requests.sleep(delay_s)

    def _refused(self, reply: Reply) -> RefusedError:
        return RefusedError(
            f"{self.channel.redacted} refuses to be subscribed to (status {reply.status}): "
            "check the token and the address"
        )

    def _end(self, reason: EndReason, error: TrickleError | None = None) -> None:
        if self.end_reason is None:
            self.end_reason = reason
            self._log.info(
                "trickle.subscriber.ended",
                reason=reason.value,
                error=error.message if error else None,
            )


_END_REASONS: dict[type[TrickleError], EndReason] = {
    RefusedError: EndReason.REFUSED,
    UnavailableError: EndReason.UNREACHABLE,
    ProtocolError: EndReason.BROKEN,
}
