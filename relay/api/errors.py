"""Errors as HTTP answers, all of one shape.

    {"success": false, "error": "what and what to do", "code": "stable_word",
     "request_id": "...", "details": [...]?}

This is the one border at which any exception of a handler becomes an answer; what we did not
mean to raise becomes a 500 that tells nothing but the id under which the log has the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import ClientPayloadError, web

from relay.api.keys import REQUEST_ID, SETTINGS, Handler
from relay.errors import BusyError, RelayError, RequestError

log = structlog.get_logger(__name__)

_CODES = {
    HTTPStatus.NOT_FOUND: "route_not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.FORBIDDEN: "forbidden",
}


def json_answer(body: dict[str, Any], *, status: int = 200) -> web.Response:
    """A JSON response; NaN in `body` is our bug, not the client's problem to parse."""
    return web.json_response(body, status=status, dumps=_dumps)


def error_answer(
    request: web.Request,
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any] | None = None,
) -> web.Response:
    """The answer to a request that failed.

    Args:
        details: further fields; they can't replace the four that every error has.
    """
    body = {
        "success": False,
        "error": message,
        "code": code,
        "request_id": request[REQUEST_ID],
    }
    response = json_answer(body | dict(details or {}) | body, status=status)
    if request.can_read_body:
        # What is left of the body, or can't be decoded, would be taken for the next request.
        response.force_close()
        if status == HTTPStatus.REQUEST_TIMEOUT or request.content.exception() is not None:
            # aiohttp would read on: for seconds, what does not come; or into the client's broken
            # encoding, which it would log as an error of ours.
            request.content.feed_eof()
    return response


@web.middleware
async def error_border(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a handler raises into an answer."""
    try:
        return await handler(request)
    except BusyError as error:
        response = _relay_error_answer(request, error)
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    except RequestError as error:
        response = _relay_error_answer(request, error)
        response.headers.update(error.headers)
        return response
    except RelayError as error:
        return _relay_error_answer(request, error)
    except web.HTTPException as error:
        return _http_exception_answer(request, error)
    except Exception as error:
        gone = request.transport is None or request.transport.is_closing()
        if gone and isinstance(error, ConnectionError | ClientPayloadError):
            # Nobody reads the answer; a client that goes away is no fault of ours.
            log.debug("http.client_gone", exc_info=True)
            return error_answer(request, 400, "client_gone", "the connection was closed")
        log.exception("http.internal_error", method=request.method)
        return error_answer(
            request,
            500,
            "internal_error",
            "the relay failed on this request; its log has the cause under the request_id",
        )


def _relay_error_answer(request: web.Request, error: RelayError) -> web.Response:
    if error.http_status >= 500 and not isinstance(error, BusyError):
        log.warning("http.relay_error", code=error.code, error=error.message)
    return error_answer(request, error.http_status, error.code, error.message, error.details)


def _http_exception_answer(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        raise error
    path = request.rel_url.raw_path[:100]
    match error:
        case web.HTTPNotFound():
            message = f"there is no {path}; GET / lists what there is"
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{path} does not take {request.method[:20]}; it takes {allowed}"
        case web.HTTPRequestEntityTooLarge():
            limit = request.app[SETTINGS].max_body_bytes
            message = f"the body is larger than {limit} bytes; send less"
        case _:
            message = error.text or error.reason
    code = _CODES.get(HTTPStatus(error.status), "bad_request")
    response = error_answer(request, error.status, code, message)
    for header in ("Allow", "Retry-After"):
        if header in error.headers:
            response.headers[header] = error.headers[header]
    return response


def _dumps(value: object) -> str:
    return json.dumps(value, allow_nan=False)
