"""Changing a session that runs, and asking ComfyStream about it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from relay.api.answers import ChangeBody, Changed, ControlBody, ControlReply, Nodes
from relay.api.body import read_json_object
from relay.api.describe import Operation, describes
from relay.api.errors import json_answer
from relay.api.keys import session_of
from relay.changes.session_change import ChangeResult, RequestedChange
from relay.errors import RequestError

routes = web.RouteTableDef()

FAILURES = (404, 409, 422, 502, 503, 504)
"""Of a change, and of ComfyStream's answer to it."""

HELD_AFTER_S = 10.0
"""A change that is not in force by then is answered as held; it goes on waiting for its turn."""

_AS_CHANGE: dict[str, tuple[str, dict[str, Any]]] = {
    "update_prompts": ("prompts_updated", {}),
    "update_resolution": ("resolution_updated", {}),
    "pause_prompts": ("prompts_paused", {"paused": True}),
    "stop_prompts": ("prompts_stopped", {"paused": True}),
    "resume_prompts": ("prompts_resumed", {"paused": False}),
}
"""Messages that change the session: applied like any other change, in order with them, so that
they hold over a reconnect and can't stop the picture. With the type of ComfyStream's reply."""


@routes.patch("/session/{session_id}")
@describes(Operation((Changed,), ChangeBody, may_be_held=True, errors=FAILURES))
async def change_session(request: web.Request) -> web.StreamResponse:
    """Change prompts, size or pause; answers when ComfyStream has confirmed it."""
    session = session_of(request)
    requested = await session.request_change(await read_json_object(request))
    result = await requested.wait(HELD_AFTER_S)
    answer = _answer(session.session_id, requested, result)
    return json_answer(answer, status=202 if result is ChangeResult.HELD else 200)


@routes.get("/session/{session_id}/nodes")
@describes(Operation((Nodes,), errors=FAILURES))
async def session_nodes(request: web.Request) -> web.StreamResponse:
    """The nodes that ComfyStream runs, with the types and values of their inputs."""
    reply = await session_of(request).ask_comfystream({"type": "get_nodes"})
    return json_answer({"success": True, "nodes": (reply or {}).get("nodes", {})})


@routes.post("/session/{session_id}/control")
@describes(Operation((ControlReply,), ControlBody, may_be_held=True, errors=FAILURES))
async def send_control(request: web.Request) -> web.StreamResponse:
    """Pass a message on to ComfyStream's control channel, and its reply back."""
    session = session_of(request)
    message = await read_json_object(request)
    kind = message.get("type")
    if not isinstance(kind, str):
        raise RequestError(
            'the message has no type; send {"type": "get_nodes"}, for instance',
            code="validation_failed",
            http_status=422,
        )
    if kind not in _AS_CHANGE:
        reply = await session.ask_comfystream(message)
        return json_answer({"success": True, "reply": reply})
    reply_type, fixed = _AS_CHANGE[kind]
    fields = {name: value for name, value in message.items() if name != "type"}
    requested = await session.request_change(fixed or fields)
    result = await requested.wait(HELD_AFTER_S)
    answer = _answer(session.session_id, requested, result)
    held = result is ChangeResult.HELD
    answer["reply"] = None if held else {"type": reply_type, "success": True}
    return json_answer(answer, status=202 if held else 200)


def _answer(session_id: str, requested: RequestedChange, result: ChangeResult) -> dict[str, Any]:
    answer: dict[str, Any] = {"success": True, "session_id": session_id, "result": result.value}
    if requested.warnings:
        answer["warnings"] = list(requested.warnings)
    return answer
