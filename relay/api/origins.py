"""Which web pages may use the relay: its own, and those of origins the operator named."""

from __future__ import annotations

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
    """
    origin = request.headers.get("Origin")
    if origin is not None and request.method not in SAFE_METHODS:
        same = {f"{scheme}://{request.host}" for scheme in ("http", "https")}
        if origin not in same and origin not in request.app[SETTINGS].cors_origins:
            raise RequestError(
                "pages of this origin may not use the relay; its operator can add the origin to"
                " RELAY_CORS_ORIGINS",
                code="origin_not_allowed",
                http_status=403,
            )
    return await handler(request)


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
