"""Who may call: those who bring the operator's token, where there is one, and not too often."""

from __future__ import annotations

import ipaddress
import secrets
import time

from aiohttp import web

from relay.api.keys import SETTINGS, Handler
from relay.api.page_routes import is_open
from relay.api.rate_limit import RateLimit
from relay.errors import RequestError

OPEN_PATHS = frozenset({"/health", "/healthz", "/readyz"})
"""What supervisors ask: they have no token, are told a word, and are not to be counted."""

RATE_LIMIT: web.AppKey[RateLimit | None] = web.AppKey("rate_limit")


@web.middleware
async def request_limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what a client sends beyond its rate, wrong tokens among it."""
    limit = request.app[RATE_LIMIT]
    if limit is not None and request.path not in OPEN_PATHS:
        wait_s = limit.take(_client(request.remote), time.monotonic())
        if wait_s:
            raise RequestError(
                f"more than {limit.per_second} requests a second from one address; ask less often",
                code="too_many_requests",
                http_status=429,
                headers={"Retry-After": str(wait_s)},
            )
    return await handler(request)


@web.middleware
async def token_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses whoever does not bring the token, on whatever path there is or is not."""
    token = request.app[SETTINGS].api_token
    open_to_all = request.path in OPEN_PATHS or is_open(request) or _is_preflight(request)
    if token is not None and not open_to_all:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Compared as bytes and in constant time: a header may hold anything.
        same = secrets.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), token.get_secret_value().encode()
        )
        if scheme.lower() != "bearer" or not same:
            raise _unauthorized(bool(given))
    return await handler(request)


def make_rate_limit(per_second: int) -> RateLimit | None:
    """None where nothing is limited."""
    return RateLimit(per_second) if per_second else None


def _unauthorized(given: bool) -> RequestError:
    problem = "the token is not the relay's" if given else "this relay wants its token"
    # RFC 6750, section 3: without credentials the challenge says no more than what is wanted.
    challenge = 'Bearer realm="trickle-relay"' + ', error="invalid_token"' * given
    return RequestError(
        f"{problem}: send what RELAY_API_TOKEN holds, as Authorization: Bearer ...",
        code="unauthorized",
        http_status=401,
        headers={"WWW-Authenticate": challenge},
    )


def _is_preflight(request: web.Request) -> bool:
    """A browser's question before the request; it can't carry the token (Fetch, 4.8)."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _client(remote: str | None) -> str:
    """Whom a request counts for: its address, or the network that one IPv6 customer gets."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return remote or ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
