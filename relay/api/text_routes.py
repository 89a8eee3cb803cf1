"""A session's text as server-sent events."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from relay.api.describe import Operation, describes
from relay.api.keys import session_of
from relay.errors import BusyError
from relay.queues import QueueClosed

routes = web.RouteTableDef()

PING_S = 15.0
"""Proxies cut connections that are silent for a minute."""
WRITE_TIMEOUT_S = 10.0


@routes.get("/session/{session_id}/text", allow_head=False)
@describes(Operation(content_type="text/event-stream", errors=(404, 503)))
async def session_text(request: web.Request) -> web.StreamResponse:
    """Each text that ComfyStream sends from now on, until the session ends or the client goes."""
    session = session_of(request)
    lines = session.text.listen()
    if lines is None:
        raise BusyError("too many listen to this session's text already", code="too_many_listeners")
    try:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                # nginx would collect the events.
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    line = await lines.get()
                event = f"data: {json.dumps(line, ensure_ascii=False)}\n\n"
            except TimeoutError:
                event = ": still here\n\n"
            except QueueClosed:
                event = "event: end\ndata: {}\n\n"
            try:
                # A client that does not read is let go of, not waited for.
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.write(event.encode())
            except (ConnectionError, TimeoutError):
                break
            if event.startswith("event: end"):
                break
        return response
    finally:
        session.text.leave(lines)
