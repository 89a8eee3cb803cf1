"""Every request has an id, in its answer, in the log, and one log line when it is answered."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from aiohttp import web

from relay.api.keys import HTTP_COUNTS, REQUEST_ID, SAFE_METHODS, SESSION_ID, Handler

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
_METHODS = SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")


@web.middleware
async def request_context(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Takes the caller's id or makes one; logs method, path and outcome, never a query."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request[REQUEST_ID] = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
    started_at = time.monotonic()
    with structlog.contextvars.bound_contextvars(request_id=request[REQUEST_ID]):
        response = await handler(request)
        request.app[HTTP_COUNTS][_series(request, response)] += 1
        routine = request.method in SAFE_METHODS and response.status < 400
        fields = {"session_id": request[SESSION_ID]} if SESSION_ID in request else {}
        (log.debug if routine else log.info)(
            "http.request",
            method=request.method,
            path=request.rel_url.raw_path[:200],
            status=response.status,
            duration_ms=round((time.monotonic() - started_at) * 1000, 1),
            remote=request.remote,
            **fields,
        )
        return response


def _series(request: web.Request, response: web.StreamResponse) -> tuple[str, str, str]:
    """Bounded, whatever strangers ask for."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    method = request.method if request.method in _METHODS else "other"
    return route, method, str(response.status)


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: every answer carries its id, also one that a handler sends itself."""
    request_id = request.get(REQUEST_ID)
    if request_id:
        response.headers[REQUEST_ID_HEADER] = request_id
