"""Request bodies: bounded in size and time, JSON whatever their label says."""

from __future__ import annotations

import asyncio

from aiohttp import ClientPayloadError, http_exceptions, web

from relay.api.keys import SETTINGS
from relay.errors import RequestError
from relay.strict_json import parse_json

BODY_TIMEOUT_S = 15.0
"""For a whole body. 1 MiB in this time is 0.6 Mbit/s."""


async def read_json_object(request: web.Request) -> dict[str, object]:
    """The JSON object that a request carries.

    Raises:
        RequestError: 400 `invalid_json`, 400 `invalid_body` (broken transfer encoding), 408
            `body_timeout`, 413 `body_too_large`, 415 `unsupported_media_type` (also for a
            compressed body: what it would unpack to has no bound that its size shows).
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RequestError(
            "the body is compressed; send it as it is, without Content-Encoding",
            code="unsupported_media_type",
            http_status=415,
        )
    content_type = request.content_type
    if content_type.startswith("multipart/"):
        raise _not_json(content_type)
    raw = await _read(request)
    try:
        value = parse_json(raw)
    except ValueError as error:
        # `curl -d` calls JSON a form too; only what can't be read is one.
        if content_type == "application/x-www-form-urlencoded" and raw:
            raise _not_json(content_type) from None
        problem = str(error) if raw else "is empty"
        raise RequestError(f"the body {problem}; send a JSON object", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object: {...}", code="invalid_json")
    return value


async def _read(request: web.Request) -> bytes:
    limit = request.app[SETTINGS].max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise RequestError(
            f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s",
            code="body_timeout",
            http_status=408,
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit) from None
    except (
        web.RequestPayloadError,
        ClientPayloadError,
        http_exceptions.HttpProcessingError,
    ) as error:
        raise RequestError(
            "the body can't be read: its transfer encoding is broken",
            code="invalid_body",
        ) from error


def _too_large(limit: int) -> RequestError:
    return RequestError(
        f"the body is larger than {limit} bytes; send less",
        code="body_too_large",
        http_status=413,
    )


def _not_json(content_type: str) -> RequestError:
    return RequestError(
        f"the body is {content_type[:60]}; send JSON, with Content-Type: application/json",
        code="unsupported_media_type",
        http_status=415,
    )
