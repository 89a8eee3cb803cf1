"""Keeps one POST standing ahead of the segment that is being written.

It finds the channel's edge, makes the channel if it may, numbers the segments, opens each POST
before it is needed, and opens it again, on the same number, for as long as nothing of it was
sent. Once a caller has taken a POST, what becomes of it is the publisher's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import structlog

from relay.backoff import RetryBudget
from relay.log_limit import LimitedLog
from relay.tasks import cancel_and_wait
from relay.trickle.channel_url import ChannelUrl
from relay.trickle.errors import (
    ChannelNotFoundError,
    RefusedError,
    SegmentLostError,
    StalledError,
    TrickleError,
    UnavailableError,
)
from relay.trickle.http_client import ChannelClient, HttpFailure, describe, is_final_failure
from relay.trickle.last_problem import LastProblem
from relay.trickle.protocol import (
    EXPECT_CONTENT,
    Reply,
    ReplyKind,
    SymbolicNumber,
)
from relay.trickle.publisher_options import CreatePolicy, PublisherOptions
from relay.trickle.segment_post import SegmentPost, channel_end

log = structlog.get_logger(__name__)

_STANDING_S = 5.0
"""A POST that stood this long was accepted: its end does not belong to earlier failures."""
_CHANNEL_POLL_S = 0.5


class Preconnect:
    """The POSTs of one publication, handed out one by one.

    Args:
        client: for the channel.
        content_type: of the segments.
        options: of the publisher.
        on_end: called with the reason, once, when no further POST will come.
    """

    def __init__(
        self,
        client: ChannelClient,
        content_type: str,
        options: PublisherOptions,
        on_end: Callable[[TrickleError], None],
    ) -> None:
        self.retries = 0
        self.conflicts = 0
        self.error: TrickleError | None = None
        """Why no further POST will come."""
        self.reset_next = True
        """Whether the next POST to be opened closes what an earlier publisher left open."""
        self.problem = LastProblem()
        self._client = client
        self._channel: ChannelUrl = client.channel
        self._content_type = content_type
        self._options = options
        self._on_end = on_end
        self._budget = RetryBudget(options.retry_budget_s)
        self._limited_log = LimitedLog(log.bind(channel=self._channel.redacted))
        self._ahead: SegmentPost | None = None
        self._available = asyncio.Event()
        self._taken: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the edge and open the first POST; its headers are on the wire afterwards.

        Raises:
            ChannelNotFoundError, ChannelClosedError, RefusedError, UnavailableError: no
                publishing here.
        """
        try:
            self._ahead = post = await self._connect(await self._find_edge())
        except TrickleError as error:
            self.end(error)
            raise
        self._keeper = asyncio.create_task(self._keep(post), name="trickle preconnect")

    async def take(self) -> SegmentPost:
        """The POST that stands, waiting for one as long as the write deadline.

        Raises:
            StalledError: none could be opened so far; it is still being tried.
            TrickleError: `error`.
        """
        try:
            async with asyncio.timeout(self._options.write_stall_s):
                while True:
                    if self.error is not None:
                        raise self.error
                    post = self._ahead
                    if post is not None and not post.done:
                        self._ahead = None
                        if self._taken is not None and not self._taken.done():
                            self._taken.set_result(None)
                        return post
                    self._available.clear()
                    await self._available.wait()
        except TimeoutError:
            raise self._unreachable() from None

    async def replace(self, post: SegmentPost) -> SegmentPost:
        """Open a POST again that was taken and ended before a byte of it was sent.

        Raises:
            SegmentLostError: its number is no longer free.
            StalledError: it can't be opened within the write deadline.
            TrickleError: the publication is over.
        """
        try:
            async with asyncio.timeout(self._options.write_stall_s):
                if self.error is not None:
                    raise self.error
                number = await self._number_after(post)
                if number != post.seq:
                    raise SegmentLostError(
                        f"segment {post.seq} was closed before its first byte, or another "
                        "publisher has taken its number"
                    )
                return await self._connect(number, reset=post.reset)
        except TimeoutError:
            raise self._unreachable() from None
        except SegmentLostError:
            raise
        except TrickleError as error:
            self.end(error)
            raise

    def succeeded(self) -> None:
        """A segment was accepted: whatever failed before is forgotten."""
        self._budget.succeeded()
        self.problem.clear()

    def end(self, error: TrickleError) -> None:
        """No further POST; who waits for one is told. The first reason stays."""
        if self.error is None:
            self.error = error
            self._on_end(error)
        self._available.set()

    async def aclose(self) -> None:
        """Drop the POST that stands, without ending its body: nothing is published by it."""
        if self._keeper is not None:
            await cancel_and_wait([self._keeper])
        if self._ahead is not None:
            post, self._ahead = self._ahead, None
            await post.abort()

    # -- the place in the channel -----------------------------------------------------------

    async def _find_edge(self) -> int:
        """The number to begin with; -1 if the server has to choose."""
        waiting_until = time.monotonic() + self._options.wait_for_channel_s
        while True:
            reply = await self._ask(self._client.ask_next)
            if reply.kind is ReplyKind.OK and reply.latest is not None:
                return reply.latest
            if reply.status in (401, 403):
                raise self._refused(reply)
            if reply.kind not in (ReplyKind.NO_CHANNEL, ReplyKind.CLOSED):
                # A server from before /next answers 400, or something of its own.
                return int(SymbolicNumber.NEXT)
            if await self._create():
                return 0
            if time.monotonic() >= waiting_until:
                raise ChannelNotFoundError(f"{self._channel.redacted} does not exist{self._why()}")
            await asyncio.sleep(_CHANNEL_POLL_S)

    def _why(self) -> str:
        if self._options.create is CreatePolicy.NEVER:
            return ", and this publisher was told not to create it"
        return ", and its server does not create it on request: create it where the server runs"

    async def _create(self) -> bool:
        if self._options.create is CreatePolicy.NEVER:
            return False
        reply = await self._ask(
            lambda: self._client.ask(
                "POST", self._channel.channel, {EXPECT_CONTENT: self._content_type}
            )
        )
        if reply.status in (401, 403):
            raise self._refused(reply)
        return reply.status == 200

    async def _ask(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """A short request, made again within the budget while the server fails."""
        while True:
            try:
                reply = await ask()
            except HttpFailure as failure:
                await self._back_off(failure)
                continue
            if reply.kind is ReplyKind.RETRY and reply.status != 501:
                await self._back_off(reply)
                continue
            self._budget.succeeded()
            self.problem.clear()
            return reply

    # -- the POST ahead ---------------------------------------------------------------------

    async def _keep(self, post: SegmentPost) -> None:
        try:
            while True:
                self._taken = asyncio.get_running_loop().create_future()
                self._available.set()
                if self._ahead is post:
                    await asyncio.wait(
                        {self._taken, post.task}, return_when=asyncio.FIRST_COMPLETED
                    )
                if self._ahead is not post:
                    self.reset_next = False
                    number = await self._number_behind(post)
                else:
                    self._ahead = None
                    number = await self._number_after(post)
                self._ahead = post = await self._connect(number)
        except TrickleError as error:
            self.end(error)

    async def _number_behind(self, post: SegmentPost) -> int:
        """The number that follows a POST that was taken."""
        if post.seq >= 0:
            return post.seq + 1
        # The server chose the number and tells it in its reply, after the segment's end.
        await post.wait_done()
        # What it left open is closed by a reset: DELETE needs the number, and DELETE of -1 locks
        # a channel of the reference for good.
        self.reset_next = post.left_open
        if post.reply is None or post.reply.seq is None:
            return int(SymbolicNumber.NEXT)
        return post.reply.seq + 1

    async def _connect(self, number: int, *, reset: bool | None = None) -> SegmentPost:
        """A POST of `number`, or of a higher one if that is taken; headers on the wire."""
        while True:
            post = SegmentPost(
                self._client,
                number,
                self._content_type,
                reset=self.reset_next if reset is None else reset,
            )
            try:
                await post.wait_opened()
            except BaseException:
                await post.abort()
                raise
            if not post.done:
                return post
            number = await self._number_after(post)

    async def _number_after(self, post: SegmentPost) -> int:
        """The number to open after a POST that ended without a byte from us.

        Waits if the server needs time.

        Raises:
            TrickleError: the publication is over.
        """
        self.retries += 1
        if post.age_s > _STANDING_S:
            self._budget.succeeded()
        reply = post.reply
        if reply is None:
            await self._back_off(post.failure or aiohttp.ServerDisconnectedError())
            return post.seq
        if error := channel_end(reply, self._channel):
            raise error
        match reply.kind:
            case ReplyKind.RETRY:
                await self._back_off(reply)
                return post.seq
            case ReplyKind.OK | ReplyKind.CONFLICT | ReplyKind.NOT_IN_WINDOW:
                # The number is used up: by another publisher, a reset, an eviction.
                self.conflicts += 1
                self._limited_log.warning("trickle.publisher.number_taken", seq=post.seq)
                await self._back_off(reply)
                if post.seq < 0:
                    return post.seq
                return max(post.seq + 1, reply.latest or 0, await self._edge_if_known())
        raise self._refused(reply)

    async def _edge_if_known(self) -> int:
        try:
            return (await self._client.ask_next()).latest or 0
        except HttpFailure:
            return 0

    async def _back_off(self, what: BaseException | Reply) -> None:
        """Wait before another attempt.

        Raises:
            RefusedError: another attempt can't help.
            UnavailableError: the budget is used up.
        """
        if isinstance(what, Reply):
            why = f"it answers with status {what.status}"
        else:
            why = describe(what)
            if is_final_failure(what):
                raise RefusedError(f"{self._channel.redacted} can't be used: {why}") from what
        self.problem.note(f"{self._channel.redacted} can't be published to: {why}")
        delay_s = self._budget.failed(time.monotonic())
        if delay_s is None:
            raise UnavailableError(
                f"{self._channel.redacted} could not be published to for "
                f"{self._options.retry_budget_s:g} s: {why}"
            )
        self._limited_log.warning(
            "trickle.publisher.retrying", reason=why, delay_s=round(delay_s, 3)
        )
        await asyncio.sleep(delay_s)

    def _unreachable(self) -> StalledError:
        return StalledError(
            f"{self._channel.redacted} could not be reached for "
            f"{self._options.write_stall_s:g} s; it is still being tried"
        )

    def _refused(self, reply: Reply) -> RefusedError:
        return RefusedError(
            f"{self._channel.redacted} refuses to be published to (status {reply.status}): "
            "check the token and the address"
        )
