"""Which web pages may use the relay: its own, and those of origins the operator named."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import aiohttp_cors
from aiohttp import web

from relay.api.keys import SAFE_METHODS, SETTINGS, Handler
from relay.api.request_context import REQUEST_ID_HEADER
from relay.errors import RequestError


@web.middleware
async def origin_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what a page of a foreign origin sends without the browser asking us first.

    Bodies are read as JSON whatever their Content-Type says, so a browser's preflight does not
    protect us from a page that posts `text/plain`; the Origin header it must send does.

    A foreign page whose name was made to resolve to the relay (DNS rebinding) is of the relay's
    origin to the browser. Where no token keeps it out, its name does: it is none of the relay's.
    """
    settings = request.app[SETTINGS]
    origin = request.headers.get("Origin")
    if origin is not None and origin in settings.cors_origins:
        return await handler(request)
    if settings.api_token is None and _is_of_a_browser(request) and not _is_own_name(request):
        raise RequestError(
            "browsers may not use the relay under this name, which could be anybody's: open it by"
            " its address or as localhost; or its operator can set RELAY_API_TOKEN, or name this"
            " origin (http://NAME:PORT) in RELAY_CORS_ORIGINS",
            code="origin_not_allowed",
            http_status=403,
        )
    if origin is not None and request.method not in SAFE_METHODS:
        same = {f"{scheme}://{request.host}" for scheme in ("http", "https")}
        if origin not in same:
            raise RequestError(
                "pages of this origin may not use the relay; its operator can add the origin to"
                " RELAY_CORS_ORIGINS",
                code="origin_not_allowed",
                http_status=403,
            )
    return await handler(request)


def _is_of_a_browser(request: web.Request) -> bool:
    """Whether a page may have sent it.

    Over plain HTTP a page's own GET has neither Origin (Fetch, 3.2) nor Sec-Fetch-Site (Fetch
    Metadata, 2). What no page can take away from it is Accept-Language beside gzip, as seen with
    Chromium. Players that send the one do without the other; Node.js sends both with a
    Sec-Fetch-Mode, which no page can add.
    """
    headers = request.headers
    if "Origin" in headers or "Sec-Fetch-Site" in headers:
        return True
    plain = "Accept-Language" in headers and "gzip" in headers.get("Accept-Encoding", "")
    return plain and "Sec-Fetch-Mode" not in headers


def _is_own_name(request: web.Request) -> bool:
    """Whether the request came under a name that no stranger's DNS answers for."""
    name = _name(f"//{request.host}")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        settings = request.app[SETTINGS]
        return name in {settings.host.lower(), *map(_name, settings.cors_origins)}
    return True


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def allow_origins(app: web.Application, origins: tuple[str, ...]) -> None:
    """Let pages of `origins` call every route there is by now. Without credentials: what the
    API may ask for goes in an Authorization header, which a page sets itself."""
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
        allow_credentials=False,
        allow_headers=("Content-Type", "Authorization", REQUEST_ID_HEADER),
        expose_headers=(REQUEST_ID_HEADER, "Retry-After"),
        max_age=600,
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(origins, options))
    for route in list(app.router.routes()):
        if route.method != "HEAD":
            cors.add(route)
