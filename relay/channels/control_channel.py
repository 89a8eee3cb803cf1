"""A session's control channel: messages of a gateway, in order, as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import structlog

from relay.channels.json_messages import BadMessage, JsonMessages
from relay.log_limit import LimitedLog
from relay.redaction import mask_credentials
from relay.tasks import cancel_and_wait
from relay.trickle.channel_url import redact_url
from relay.trickle.errors import ChannelNotFoundError, TrickleError, UnavailableError
from relay.trickle.protocol import EndReason
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

log = structlog.get_logger(__name__)

KEEPALIVE = {"keep": "alive"}
"""What gateways send every 10 s; compared exactly."""
RETRY_S = 5.0
ASK_AGAIN_S = 0.5
"""For a channel that nobody has made: it may be made by its first message."""


class ControlChannel:
    """Reads the channel and hands its messages on.

    Nothing that comes on it can end the session but the end of the channel itself.

    Args:
        handle: awaited with each JSON object, in order.
        on_bad: called with what is wrong with a message that is no JSON object.
        on_end: called once when the channel was closed or is gone.
        wait_for_channel_s: after how long it is an error, though not the last word, that the
            channel does not exist yet; 0: it exists, and if it does not, it has ended.
    """

    def __init__(
        self,
        url: str,
        http: aiohttp.ClientSession,
        handle: Callable[[dict[str, Any]], Awaitable[None]],
        on_bad: Callable[[str], None],
        on_end: Callable[[], None],
        *,
        wait_for_channel_s: float = 30.0,
    ) -> None:
        self.messages = 0
        """JSON objects other than keepalives."""
        self.error: TrickleError | None = None
        self._url = url
        self._http = http
        self._handle = handle
        self._on_bad = on_bad
        self._on_end = on_end
        self._options = SubscriberOptions(wait_for_channel_s=wait_for_channel_s)
        self._given = not wait_for_channel_s
        self._task: asyncio.Task[None] | None = None
        self._log = log.bind(channel=mask_credentials(url), role="control")
        self._limited_log = LimitedLog(self._log)

    def start(self) -> None:
        """Begin to read, in a task of its own."""
        self._task = asyncio.create_task(self._run(), name="control channel")

    async def aclose(self) -> None:
        """Stop reading. Idempotent, never raises."""
        if self._task is not None:
            await cancel_and_wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                async with TrickleSubscriber(
                    self._url, session=self._http, options=self._options
                ) as subscriber:
                    await self._read(subscriber)
            except TrickleError as error:
                self.error = error
                self._limited_log.warning("channel.failed", error=error.message, code=error.code)
                if not isinstance(error, UnavailableError):
                    return
                await asyncio.sleep(RETRY_S)
                continue
            self._log.info("channel.ended", reason=str(subscriber.end_reason))
            if self._given or subscriber.end_reason in (EndReason.CLOSED, EndReason.GONE):
                self._on_end()
            elif subscriber.end_reason is EndReason.NEVER_EXISTED:
                self.error = ChannelNotFoundError(
                    f"{redact_url(self._url)} does not exist yet; a control channel is made by"
                    " whoever sends on it, and is read from then on"
                )
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            return

    async def _read(self, subscriber: TrickleSubscriber) -> None:
        async for segment in subscriber:
            self.error = None
            reader = JsonMessages()
            async for chunk in segment:
                await self._take(reader.feed(chunk))
            if not segment.truncated:
                await self._take(reader.end())

    async def _take(self, values: list[Any]) -> None:
        for value in values:
            # Thousands may be in one chunk: the media of every session runs on this loop too.
            await asyncio.sleep(0)
            if value == KEEPALIVE:
                continue
            if isinstance(value, BadMessage):
                self._refuse(value.problem)
            elif isinstance(value, dict):
                self.messages += 1
                await self._handle(value)
            else:
                self._refuse("is no JSON object")

    def _refuse(self, problem: str) -> None:
        self._limited_log.warning("channel.bad_message", problem=problem)
        self._on_bad(problem)
