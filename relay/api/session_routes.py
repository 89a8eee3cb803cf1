"""The session calls: start, stop, status, list."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from relay.api.answers import SessionList, Started, StatusAnswer, Stopped
from relay.api.body import read_json_object
from relay.api.describe import Operation, describes
from relay.api.errors import json_answer
from relay.api.keys import PROMPTS, SESSION_ID, SESSIONS, SETTINGS, session_of
from relay.api.models import StartRequest, flag_from, session_config_from
from relay.comfystream.workflows import DEFAULT_WORKFLOW

routes = web.RouteTableDef()

EXAMPLE = {
    "input_stream_url": "http://127.0.0.1:3389/camera",
    "comfystream_url": "http://127.0.0.1:8889",
    "prompts": [DEFAULT_WORKFLOW],
}


@routes.post("/session/start")
@describes(Operation((Started,), StartRequest, EXAMPLE, errors=(409, 422, 503)))
async def start_session(request: web.Request) -> web.StreamResponse:
    """Start a session. It connects in the background; its status says how that goes."""
    body = await read_json_object(request)
    # Reading and checking megabytes of workflows takes long, and media runs on this loop.
    config = await asyncio.to_thread(
        session_config_from, body, request.app[SETTINGS], request.app[PROMPTS]
    )
    sessions = request.app[SESSIONS]
    session = await sessions.start_session(config)
    request[SESSION_ID] = session.session_id
    answer: dict[str, object] = {"success": True, "session_id": session.session_id}
    if config.warnings:
        answer["warnings"] = list(config.warnings)
    response = json_answer(answer)
    try:
        # Sent from here, because a session whose id nobody got would run for ever.
        await response.prepare(request)
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        await sessions.stop_session(session.session_id)
        raise
    return response


@routes.delete("/session/{session_id}")
@describes(Operation((Stopped,), errors=(404,)))
async def stop_session(request: web.Request) -> web.StreamResponse:
    """End a session; answers when it has ended."""
    session_id = session_of(request).session_id
    with structlog.contextvars.bound_contextvars(session_id=session_id):
        await request.app[SESSIONS].stop_session(session_id)
    return json_answer({"success": True, "message": f"Session {session_id} stopped"})


@routes.get("/session/{session_id}/status")
@describes(Operation((StatusAnswer,), errors=(404,)))
async def session_status(request: web.Request) -> web.StreamResponse:
    """Everything about one session."""
    return json_answer({"success": True, "session": session_of(request).status()})


@routes.get("/sessions")
@describes(Operation((SessionList,), errors=(422,), query={"ended": "Those that ended lately."}))
async def list_sessions(request: web.Request) -> web.StreamResponse:
    """The sessions that run, a few words about each; with `?ended=true` those that ended lately."""
    ended = flag_from(request.query, "ended")
    summaries = [session.summary() for session in request.app[SESSIONS].list(ended=ended)]
    return json_answer({"success": True, "sessions": summaries})
