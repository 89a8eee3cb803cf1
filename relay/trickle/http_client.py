"""The HTTP side of a subscriber or publisher: one session, sane timeouts, TLS, credentials.

aiohttp's own defaults would end a request after 300 s in total and allow 100 connections to a
session; a trickle channel is open for hours and holds two. So every request here carries its
own timeouts, and `new_session` makes a session without a connection limit.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from yarl import URL

from relay.host_rules import HostNotAllowedError
from relay.http_body import read_body
from relay.trickle.channel_url import ChannelUrl
from relay.trickle.errors import TrickleError
from relay.trickle.protocol import Reply, parse_number

READ_BUFFER_BYTES = 1 << 16
_SHORT_BODY_LIMIT = 4096

HttpFailure = (aiohttp.ClientError, OSError, TimeoutError)
"""What a broken connection, a refused one, or one that timed out raises."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How one channel is connected to."""

    connect_timeout_s: float = 8.0
    """For a free connection of the session and for the connection to stand."""
    reply_timeout_s: float = 10.0
    """For the reply to a request that the server can answer at once."""
    tls: ssl.SSLContext | aiohttp.Fingerprint | bool = True
    """True verifies with the system's authorities, False does not verify, a context brings its
    own authorities (`ssl.create_default_context(cafile=...)`), a fingerprint pins one
    certificate."""
    token: str | None = field(default=None, repr=False)
    """Sent as a bearer token."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request."""


def new_session() -> aiohttp.ClientSession:
    """A session fit for any number of channels: no connection limit, no total timeout.

    Share one among all subscribers and publishers of a process, and close it after them.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )


class ChannelClient:
    """Requests to one channel.

    Args:
        channel: where.
        session: used and not closed; None makes one of its own, closed by `aclose`.
        options: how.

    Raises:
        TrickleError: a token and credentials in the URL.
    """

    def __init__(
        self,
        channel: ChannelUrl,
        session: aiohttp.ClientSession | None,
        options: ConnectionOptions,
    ) -> None:
        self.channel = channel
        self.options = options
        self._session = session
        self._owns_session = session is None
        self._headers = {"Accept-Encoding": "identity", **options.headers}
        if options.token is not None:
            if channel.channel.raw_user is not None:
                raise TrickleError(
                    f"{channel.redacted}: give a token or credentials in the URL, not both",
                    code="bad_channel_url",
                )
            self._headers["Authorization"] = f"Bearer {options.token}"
        # No limit on the whole exchange, nor on silence within it: the callers have their own.
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=options.connect_timeout_s,
            sock_connect=options.connect_timeout_s,
            sock_read=None,
        )
        self._short_timeout = aiohttp.ClientTimeout(
            total=options.connect_timeout_s + options.reply_timeout_s
        )

    def open(self) -> None:
        """Make the session, if it is our own. Must run inside the event loop."""
        if self._session is None:
            self._session = new_session()

    async def aclose(self) -> None:
        """Close the session, if it is our own. Idempotent."""
        if self._owns_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        short: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send a request and return its response once its headers are here.

        Args:
            short: the server can answer at once, so limit the whole exchange.

        Raises:
            any of `HttpFailure`.
        """
        if self._session is None:
            raise aiohttp.ClientConnectionError("the session is closed")
        return await self._session.request(
            method,
            url,
            headers={**self._headers, **headers} if headers else self._headers,
            data=data,
            timeout=self._short_timeout if short else self._timeout,
            ssl=self.options.tls,
            allow_redirects=False,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
        )

    async def ask(self, method: str, url: URL, headers: Mapping[str, str] | None = None) -> Reply:
        """A request whose reply is short and comes at once.

        Raises:
            any of `HttpFailure`.
        """
        response = await self.request(method, url, headers=headers, short=True)
        try:
            reply = Reply.parse(response.status, response.headers)
            await discard_body(response)
        finally:
            response.close()
        return reply

    async def ask_next(self) -> Reply:
        """GET ``channel/next``: on 200 `Reply.latest` is the edge.

        Servers that put the number only into the body are understood too.

        Raises:
            any of `HttpFailure`.
        """
        response = await self.request("GET", self.channel.next, short=True)
        try:
            reply = Reply.parse(response.status, response.headers)
            body = await discard_body(response)
        finally:
            response.close()
        if reply.latest is None and reply.status == 200:
            return replace(reply, latest=parse_number(body.decode("ascii", "replace").strip()))
        return reply


async def discard_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a short body so that its connection can be used again; returns its beginning.

    A long one is not worth reading: closing the response then closes the connection.
    """
    return await read_body(response, _SHORT_BODY_LIMIT)


def describe(failure: BaseException) -> str:
    """A failure in a few words, without the URL that aiohttp's own texts may hold."""
    forbidden = _forbidden(failure)
    if forbidden is not None:
        return forbidden.strerror
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return (
            "no connection in time: it does not answer, or the connection limit of the session "
            "is used up (a channel needs two)"
        )
    if isinstance(failure, TimeoutError):
        return "timed out"
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted"
    if isinstance(failure, aiohttp.ServerFingerprintMismatch):
        return "its TLS certificate is not the pinned one"
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return "its host name can't be resolved"
    if isinstance(failure, aiohttp.ClientConnectorError):
        return f"can't connect ({failure.os_error.strerror or type(failure.os_error).__name__})"
    if isinstance(failure, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    return type(failure).__name__


def is_final_failure(failure: BaseException) -> bool:
    """Whether trying again can't help: the certificate is not the one we trust, or the host one
    we may not connect to."""
    return _forbidden(failure) is not None or isinstance(
        failure,
        aiohttp.ClientConnectorCertificateError
        | aiohttp.ServerFingerprintMismatch
        | aiohttp.ClientConnectorSSLError
        | aiohttp.InvalidURL,
    )


def _forbidden(failure: BaseException) -> HostNotAllowedError | None:
    """Our own refusal to connect there, which aiohttp wraps in an error of its own."""
    for cause in (failure, failure.__cause__):
        if isinstance(cause, HostNotAllowedError):
            return cause
    return None
