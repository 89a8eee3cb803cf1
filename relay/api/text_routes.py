"""A session's text as server-sent events."""

from __future__ import annotations

import json

from aiohttp import web

from relay.api.describe import Operation, describes
from relay.api.event_stream import ReaderGone, open_stream
from relay.api.keys import session_of
from relay.errors import BusyError
from relay.queues import QueueClosed

routes = web.RouteTableDef()


@routes.get("/session/{session_id}/text", allow_head=False)
@describes(Operation(content_type="text/event-stream", errors=(404, 503)))
async def session_text(request: web.Request) -> web.StreamResponse:
    """Each text that ComfyStream sends from now on, until the session ends or the client goes."""
    session = session_of(request)
    lines = session.text.listen()
    if lines is None:
        raise BusyError("too many listen to this session's text already", code="too_many_listeners")
    try:
        stream = await open_stream(request)
        try:
            while True:
                line = await stream.wait(lines.get)
                await stream.send(json.dumps(line, ensure_ascii=False))
        except QueueClosed:
            await stream.send("{}", event="end")
    except ReaderGone:
        pass
    finally:
        session.text.leave(lines)
    return stream.response
