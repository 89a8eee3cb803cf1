"""What happens, as server-sent events, and the last log lines of a session."""

from __future__ import annotations

from aiohttp import web

from relay.api.answers import LogLines
from relay.api.describe import Operation, describes
from relay.api.errors import json_answer
from relay.api.event_stream import ReaderGone, open_stream
from relay.api.keys import SESSIONS, session_of
from relay.api.models import flag_from
from relay.api.streams import ENDED
from relay.errors import BusyError
from relay.observe.event_hub import EventKind
from relay.queues import QueueClosed

routes = web.RouteTableDef()

LAST_EVENT_ID = "Last-Event-ID"


def _stream_operation(*errors: int) -> Operation:
    return Operation(
        content_type="text/event-stream",
        errors=errors,
        query={"history": "Begin with the events that are still kept."},
        headers={LAST_EVENT_ID: "Begin with what happened since; browsers send it by themselves."},
    )


@routes.get("/events", allow_head=False)
@describes(_stream_operation(422, 503))
async def all_events(request: web.Request) -> web.StreamResponse:
    """What happens to all sessions from now on, and once a second how they stand."""
    return await _stream(request, None)


@routes.get("/session/{session_id}/events", allow_head=False)
@describes(_stream_operation(404, 422, 503))
async def session_events(request: web.Request) -> web.StreamResponse:
    """What happens to one session from now on, and once a second its status, until it ends."""
    session = session_of(request)
    ended = session.summary()["status"] in ENDED
    return await _stream(request, session.session_id, ended=ended)


@routes.get("/session/{session_id}/logs")
@describes(Operation((LogLines,), errors=(404,)))
async def session_logs(request: web.Request) -> web.StreamResponse:
    """The last lines of the log about one session, also when it has ended."""
    session_id = session_of(request).session_id
    lines, before = request.app[SESSIONS].logs.lines(session_id)
    return json_answer(
        {"success": True, "session_id": session_id, "lines": lines, "lines_before": before}
    )


async def _stream(
    request: web.Request, session_id: str | None, *, ended: bool = False
) -> web.StreamResponse:
    hub = request.app[SESSIONS].events
    history = flag_from(request.query, "history")
    listener = hub.listen(session_id, after=request.headers.get(LAST_EVENT_ID), history=history)
    if listener is None:
        raise BusyError("too many listen to events already", code="too_many_listeners")
    if ended:
        hub.leave(listener)  # what it missed is all
    too_slow = False
    try:
        stream = await open_stream(request)
        try:
            while True:
                event = await stream.wait(listener.get)
                await stream.send(event.data, event=event.kind.value, event_id=hub.id_of(event))
        except QueueClosed:
            if not listener.too_slow:
                await stream.send("{}", event=EventKind.END.value)
    except ReaderGone as gone:
        too_slow = gone.too_slow
    finally:
        hub.leave(listener, too_slow=too_slow)
    return stream.response
