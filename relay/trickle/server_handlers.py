"""Trickle requests over HTTP: what each verb on each form of URL does.

Only translation: paths and headers in, calls to the channels, statuses and headers out.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from typing import Any
from urllib.parse import unquote

import structlog
from aiohttp import web
from aiohttp.http_writer import StreamWriter

from relay.log_limit import LimitedLog
from relay.trickle.channel import (
    Channel,
    ChannelEnded,
    NotInWindow,
    NumberTaken,
    OverLimit,
    Revoked,
    SegmentClaim,
)
from relay.trickle.channel_registry import ChannelRegistry, TooManyChannels
from relay.trickle.channel_url import redact_name
from relay.trickle.protocol import (
    CHANGES_CHANNEL,
    CLOSED,
    CLOSED_VALUE,
    EXPECT_CONTENT,
    LATEST,
    NEXT_PATH,
    NOT_IN_WINDOW_REASON,
    OLDEST,
    RESET,
    SEQ,
    SIZE,
    STATUS_NOT_IN_WINDOW,
    SymbolicNumber,
    parse_number,
)
from relay.trickle.segment_buffer import ReadersDropped, SegmentReader
from relay.trickle.server_options import ChannelRequest, Hook, HookRefusal, ServerOptions

log = structlog.get_logger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RETRY_AFTER = {"Retry-After": "1"}


class TrickleHandlers:
    """The request handler of one server.

    Args:
        registry: the channels.
        options: of the server.
    """

    def __init__(self, registry: ChannelRegistry, options: ServerOptions) -> None:
        self._registry = registry
        self._options = options
        self._counts: Counter[str] = registry.counts
        self._base = "/" + options.base_path.strip("/")
        self._log = LimitedLog(log)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request to the server."""
        try:
            response = await self._answer(request)
        except ConnectionError:
            # The peer is gone, wherever in the exchange it was: nobody reads what we answer.
            response = _text(400, "the connection broke")
            response.force_close()
            return response
        if not response.prepared and not request.content.is_eof():
            # The body goes unread, so nothing can follow it on this connection.
            response.force_close()
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        target = self._parse_path(request.raw_path)
        if target is None:
            return _text(404, "no such path")
        name, rest = target
        if not self._authorized(name, request):
            return self._refuse(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if rest is None:
            return await self._on_channel(request, name)
        if rest == NEXT_PATH:
            return self._next(request, name)
        number = parse_number(rest)
        if number is None:
            return _text(400, "Invalid idx")
        match request.method:
            case "GET" | "HEAD":
                return await self._read(request, name, number)
            case "POST":
                return await self._write(request, name, number)
            case "DELETE":
                return self._delete_segment(name, number)
        return _not_allowed("GET, HEAD, POST, DELETE")

    # -- paths and rights -------------------------------------------------------------------

    def _parse_path(self, raw_path: str) -> tuple[str, str | None] | None:
        """Channel name and what follows it, decoded; None for any other path."""
        path = raw_path.partition("?")[0]
        base = self._base if self._base.endswith("/") else self._base + "/"
        if not path.startswith(base):
            return None
        parts = path[len(base) :].removesuffix("/").split("/")
        if len(parts) > 2 or not parts[0]:
            return None
        return unquote(parts[0]), unquote(parts[1]) if len(parts) == 2 else None

    def _authorized(self, name: str, request: web.Request) -> bool:
        token = self._options.channel_tokens.get(name, self._options.token)
        if token is None:
            return True
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            sent.strip().encode("utf-8", "surrogateescape"), token.encode()
        )

    async def _ask_hook(self, hook: Hook | None, asked: ChannelRequest) -> web.Response | None:
        """The refusal of a hook, or None."""
        if hook is None:
            return None
        try:
            await hook(asked)
        except HookRefusal as refusal:
            return self._refuse(refusal.status, refusal.text)
        except Exception:  # a border: the hook is somebody else's code
            log.exception("trickle.server.hook_failed", channel=redact_name(asked.channel))
            return self._refuse(500, "a hook failed")
        return None

    # -- channels ---------------------------------------------------------------------------

    async def _on_channel(self, request: web.Request, name: str) -> web.StreamResponse:
        if request.method not in ("POST", "DELETE"):
            return _not_allowed("POST, DELETE")
        if name == CHANGES_CHANNEL and self._options.changefeed:
            return self._refuse(403, "the changefeed is read-only")
        if request.method == "POST":
            return await self._create(request, name)
        channel = self._registry.get(name)
        if channel is None:
            return _text(400, "Invalid stream")
        asked = ChannelRequest(name, channel.content_type, request.headers)
        if (refusal := await self._ask_hook(self._options.before_delete, asked)) is not None:
            return refusal
        self._registry.delete(name, "deleted")
        return web.Response()

    async def _create(self, request: web.Request, name: str) -> web.StreamResponse:
        made = await self._channel_for_writing(request, name)
        return made if isinstance(made, web.Response) else web.Response()

    async def _channel_for_writing(self, request: web.Request, name: str) -> Channel | web.Response:
        """The channel, made now if that is allowed; or the refusal."""
        channel = self._registry.get(name)
        if channel is not None:
            channel.touch()
            return channel
        if not self._options.autocreate:
            return self._no_channel(name)
        content_type = (
            request.headers.get(EXPECT_CONTENT) or request.headers.get("Content-Type") or ""
        )
        asked = ChannelRequest(name, content_type, request.headers)
        if (refusal := await self._ask_hook(self._options.before_create, asked)) is not None:
            return refusal
        try:
            return self._registry.create(name, content_type)
        except TooManyChannels:
            self._log.warning("trickle.server.channels_full")
            return self._refuse(503, "the server holds as many channels as it may", _RETRY_AFTER)

    def _next(self, request: web.Request, name: str) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        channel = self._registry.get(name)
        if channel is None:
            return self._no_channel(name)
        return _text(200, str(channel.edge), {LATEST: str(channel.edge)})

    # -- reading ----------------------------------------------------------------------------

    async def _read(self, request: web.Request, name: str, number: int) -> web.StreamResponse:
        if number < SymbolicNumber.CURRENT:
            return _text(400, "Invalid idx")
        channel = self._registry.get(name)
        if channel is None:
            return self._no_channel(name)
        if (
            channel.readers >= self._options.max_readers_per_channel
            or self._registry.readers_total >= self._options.max_readers
        ):
            self._log.warning("trickle.server.readers_full", channel=redact_name(name))
            return self._refuse(503, "as many readers as the server takes", _RETRY_AFTER)
        number = channel.resolve_read(number)
        joined_at = channel.bytes_of(number)
        with self._registry.reader(channel):
            try:
                buffer = await channel.segment(number)
            except NotInWindow:
                return _not_in_window(channel, number)
            except ChannelEnded:
                return web.Response(headers={SEQ: str(number), CLOSED: CLOSED_VALUE})
            reader = SegmentReader(buffer)
            try:
                return await self._send(request, channel, reader, joined_at)
            finally:
                reader.leave()
                self._registry.segment_left(channel, buffer)

    async def _send(
        self, request: web.Request, channel: Channel, reader: SegmentReader, joined_at: int
    ) -> web.StreamResponse:
        buffer = reader.buffer
        headers = {SEQ: str(buffer.seq), SIZE: str(joined_at), "Cache-Control": "no-store"}
        if channel.edge != buffer.seq + 1:
            headers[LATEST] = str(channel.edge)
        if buffer.closed and not len(buffer):
            headers[LATEST] = str(channel.edge)
            return web.Response(headers=headers)
        headers["Content-Type"] = channel.content_type
        if request.method == "HEAD":
            return web.StreamResponse(headers=headers)
        stream = _SegmentResponse(headers=headers)
        try:
            writer = await stream.prepare(request)
            assert isinstance(writer, StreamWriter)
            while data := await reader.read():
                await writer.write(data, drain=False)
                self._counts["bytes_out"] += len(data)
                if writer.protocol.writing_paused:
                    async with asyncio.timeout(self._options.write_deadline_s):
                        await writer.drain()
        except (TimeoutError, ReadersDropped):
            self._counts["readers_dropped"] += 1
            self._log.warning(
                "trickle.server.reader_dropped", channel=redact_name(channel.name), seq=buffer.seq
            )
            if request.transport is not None:
                request.transport.abort()
            return stream
        except ConnectionError:
            return stream
        await stream.write_eof()
        return stream

    # -- writing ----------------------------------------------------------------------------

    async def _write(self, request: web.Request, name: str, number: int) -> web.StreamResponse:
        if number < SymbolicNumber.NEXT:
            return _text(400, "Invalid idx")
        if name == CHANGES_CHANNEL and self._options.changefeed:
            return self._refuse(403, "the changefeed is read-only")
        if self._registry.get(name) is None and self._registry.is_buried(name, number):
            return self._no_channel(name)
        channel = await self._channel_for_writing(request, name)
        if isinstance(channel, web.Response):
            return channel
        reset = bool(request.headers.get(RESET))
        try:
            claim = channel.claim(number, reset=reset)
        except NumberTaken as taken:
            self._counts["requests_refused"] += 1
            return _text(
                409,
                "this segment is being written, complete, or too old",
                {SEQ: str(taken.args[0]), LATEST: str(channel.edge)},
            )
        except ChannelEnded:
            return self._no_channel(name)
        return await self._receive(request, channel, claim)

    async def _receive(
        self, request: web.Request, channel: Channel, claim: SegmentClaim
    ) -> web.StreamResponse:
        keepalive = _ContinueTimer(request, claim, self._options.continue_interval_s)
        pump = asyncio.create_task(_pump(request, claim), name=f"trickle segment {claim.seq}")
        try:
            # The body may end, its connection may break, or somebody else ends the segment.
            either: set[asyncio.Future[Any]] = {pump, claim.revoked}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            keepalive.cancel()
            if not pump.done():
                pump.cancel()
            claim.lose()
        headers = {SEQ: str(claim.seq)}
        if claim.revoked.done():
            return self._revoked(channel, claim, headers)
        if await pump:
            return web.Response(headers=headers)
        # Nobody reads this if the connection is gone; it is for a body that is not valid HTTP.
        return _text(400, "the body broke off", headers)

    def _revoked(
        self, channel: Channel, claim: SegmentClaim, headers: dict[str, str]
    ) -> web.Response:
        self._counts["requests_refused"] += 1
        match claim.revoked.result():
            case Revoked.CHANNEL_CLOSED:
                headers[CLOSED] = CLOSED_VALUE
                # The reference answers a waiting POST so; one that lost bytes is no success.
                return _text(200 if claim.buffer is None else 404, "", headers)
            case Revoked.OVER_LIMIT:
                return _text(413, "more bytes than a segment may have", headers)
            case Revoked.SEGMENT_CLOSED:
                headers[LATEST] = str(channel.edge)
                return _text(409, "the segment was closed", headers)

    def _delete_segment(self, name: str, number: int) -> web.Response:
        if number < 0:
            return _text(400, "Invalid idx")
        if name == CHANGES_CHANNEL and self._options.changefeed:
            return self._refuse(403, "the changefeed is read-only")
        channel = self._registry.get(name)
        if channel is None:
            return self._no_channel(name)
        if not channel.close_segment(number):
            return _text(400, "Nonexistent segment")
        return web.Response(headers={SEQ: str(number)})

    # -- replies ----------------------------------------------------------------------------

    def _no_channel(self, name: str) -> web.Response:
        headers = {CLOSED: CLOSED_VALUE} if self._registry.is_buried(name) else None
        return _text(404, "Stream not found", headers)

    def _refuse(
        self, status: int, text: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        self._counts["requests_refused"] += 1
        return _text(status, text, headers)


class _SegmentResponse(web.StreamResponse):
    """Its headers leave in one packet with the first byte, which is there already."""

    # aiohttp's own switch for this, set so in its plain Response; without effect if it goes.
    _send_headers_immediately = False


class _ContinueTimer:
    """100 Continue at intervals while a POST has no byte."""

    def __init__(self, request: web.Request, claim: SegmentClaim, interval_s: float) -> None:
        self._request = request
        self._claim = claim
        self._interval_s = interval_s
        self._handle = asyncio.get_running_loop().call_later(interval_s, self._send)

    def cancel(self) -> None:
        self._handle.cancel()

    def _send(self) -> None:
        transport = self._request.transport
        if self._claim.buffer is None and transport is not None and not transport.is_closing():
            transport.write(_CONTINUE)
            self._handle = asyncio.get_running_loop().call_later(self._interval_s, self._send)


async def _pump(request: web.Request, claim: SegmentClaim) -> bool:
    """Body to segment, each piece as it comes. False if the publisher vanished."""
    try:
        while data := await request.content.readany():
            claim.append(data)
    except (OSError, web.RequestPayloadError):
        return False
    except OverLimit:
        return True
    claim.finish()
    return True


def _not_in_window(channel: Channel, number: int) -> web.Response:
    headers = {SEQ: str(number), LATEST: str(channel.edge), OLDEST: str(channel.oldest)}
    response = _text(STATUS_NOT_IN_WINDOW, NOT_IN_WINDOW_REASON, headers)
    response.set_status(STATUS_NOT_IN_WINDOW, f"status code {STATUS_NOT_IN_WINDOW}")
    return response


def _not_allowed(verbs: str) -> web.Response:
    return _text(405, "method not allowed", {"Allow": verbs})


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=text, headers=headers)
