"""What an operator or an orchestrator's probe looks at: health, version, the page at `/`."""

from __future__ import annotations

import platform
from html import escape
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from relay import __version__
from relay.api.answers import Alive, Capacity, Health, Ready, ServerList, Version
from relay.api.describe import Operation, describes
from relay.api.errors import json_answer
from relay.api.keys import SESSIONS, SETTINGS
from relay.api.page_routes import INDEX, send_file, wants_page
from relay.build import commit
from relay.channels.stream_events import PIPELINE
from relay.errors import BusyError

routes = web.RouteTableDef()

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="5">
<title>Trickle Relay</title>
<h1>Trickle Relay {version}</h1>
<h2>Sessions</h2>
{sessions}
<h2>Calls</h2>
<ul>
<li><code>POST /session/start</code>
<li><code>DELETE /session/{{id}}</code>
<li><code>GET /session/{{id}}/status</code>
<li><a href="/sessions"><code>GET /sessions</code></a>
<li><a href="/servers"><code>GET /servers</code></a>
<li><a href="/health"><code>GET /health</code></a>
<li><a href="/readyz"><code>GET /readyz</code></a>
<li><a href="/version"><code>GET /version</code></a>
</ul>
"""


@routes.get("/health")
@describes(Operation((Health,)))
async def health(request: web.Request) -> web.StreamResponse:
    """Whether the process answers; a session's troubles are its own status's matter."""
    sessions = request.app[SESSIONS]
    answer = {"status": "healthy", "version": __version__, "sessions": len(sessions.list())}
    return json_answer(answer | sessions.health())


@routes.get("/healthz")
@describes(Operation((Alive,), errors=(503,)))
async def alive(request: web.Request) -> web.StreamResponse:
    """Whether the process should go on: 503 when a task of the relay's own has died."""
    dead = request.app[SESSIONS].dead_supervisors()
    if dead:
        raise BusyError(
            f"a task of the relay's own has died ({', '.join(dead)}); restart it, and please report"
            " its log",
            code="supervisor_died",
        )
    return json_answer({"status": "alive"})


@routes.get("/capacity")
@describes(Operation((Capacity,)))
async def capacity(request: web.Request) -> web.StreamResponse:
    """How much of the relay is taken, from 0 to 1."""
    return json_answer({"success": True} | request.app[SESSIONS].occupancy())


@routes.get("/readyz")
@describes(Operation((Ready,), errors=(503,)))
async def ready(request: web.Request) -> web.StreamResponse:
    """Whether a session should be sent here: 503 while starting, draining, full or lagging, and
    while no server of the pool is free."""
    sessions = request.app[SESSIONS]
    problem = sessions.why_unready() or sessions.why_no_server()
    if problem is not None:
        raise problem
    return json_answer({"status": "ready"})


@routes.get("/servers")
@describes(Operation((ServerList,)))
async def list_servers(request: web.Request) -> web.StreamResponse:
    """The ComfyStream servers of the pool, and what keeps each from being given to a session."""
    return json_answer({"success": True, "servers": list(request.app[SESSIONS].servers())})


@routes.get("/version")
@describes(Operation((Version,)))
async def show_version(request: web.Request) -> web.StreamResponse:
    """What runs here."""
    libraries = {name: _installed(name) for name in ("aiohttp", "aiortc", "av")}
    return json_answer(
        {
            "name": "trickle-relay",
            "pipeline": PIPELINE,
            "model_id": request.app[SETTINGS].capability_name,
            "version": __version__,
            "commit": commit(),
            "python": platform.python_version(),
            "libraries": libraries,
        }
    )


@routes.get("/")
@describes(Operation(content_type="text/html"))
async def page(request: web.Request) -> web.StreamResponse:
    """The operator's page for browsers (`Accept: text/html`); for others a plain list of the
    sessions."""
    if wants_page(request):
        return send_file(request, INDEX)
    rows = []
    for session in request.app[SESSIONS].list():
        summary = session.summary()
        session_id = escape(str(summary["session_id"]))
        rows.append(
            f'<tr><td><a href="/session/{session_id}/status">{session_id}</a>'
            + "".join(
                f"<td>{escape(str(summary[name]))}"
                for name in ("status", "input_stream_url", "output_stream_url", "created_at")
            )
        )
    head = "<tr><th>Session<th>Status<th>Input<th>Output<th>Since"
    table = f"<table>{head}{''.join(rows)}</table>" if rows else "<p>None.</p>"
    return web.Response(
        text=_PAGE.format(version=escape(__version__), sessions=table),
        content_type="text/html",
        headers={
            "Content-Security-Policy": "default-src 'none'",
            "Cache-Control": "no-store",
            "Vary": "Accept",
        },
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
