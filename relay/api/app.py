"""The HTTP application: routes, borders, and the sessions' life inside the server's."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from aiohttp import web

from relay.api import (
    event_routes,
    live_routes,
    livepeer_routes,
    metrics_routes,
    operator_routes,
    page_routes,
    preview_routes,
    session_routes,
    text_routes,
)
from relay.api.access import RATE_LIMIT, make_rate_limit, request_limit, token_guard
from relay.api.errors import error_border
from relay.api.keys import HTTP_COUNTS, PROMPTS, SESSIONS, SETTINGS, SessionService
from relay.api.openapi import DESCRIPTION, Description, describe_api
from relay.api.origins import allow_origins, origin_guard
from relay.api.request_context import add_request_id, request_context
from relay.api.streams import STREAMS, Streams
from relay.comfystream.prompt_library import PromptLibrary
from relay.config.settings import Settings
from relay.registration import Registration, open_registration
from relay.tasks import cancel_and_wait

CONNECTIONS_CLOSE_S = 0.25
"""Of the time to stop: what is left for answers under way when the sessions have ended."""
REGISTRATION: web.AppKey[list[Registration]] = web.AppKey("registration")
"""Empty, or the one."""
MOST_HEADERS = 64
"""Of a request, each of 8190 bytes at the most; more are answered 400."""


def build_app(settings: Settings, sessions: SessionService) -> web.Application:
    """The application, with `sessions` started and drained along with it.

    Raises:
        TextWorkflowError: the operator's text workflow can't be used.
    """
    app = web.Application(
        middlewares=[request_context, error_border, request_limit, token_guard, origin_guard],
        client_max_size=settings.max_body_bytes,
    )
    app[SETTINGS] = settings
    app[SESSIONS] = sessions
    app[STREAMS] = Streams(sessions)
    app[REGISTRATION] = []
    app[HTTP_COUNTS] = Counter()
    app[DESCRIPTION] = Description()
    app[preview_routes.STREAMS_NOW] = set()
    app[RATE_LIMIT] = make_rate_limit(settings.requests_per_second)
    app[PROMPTS] = PromptLibrary(settings.text_workflow, settings.workflow_dir)
    app.add_routes(session_routes.routes)
    app.add_routes(live_routes.routes)
    app.add_routes(text_routes.routes)
    app.add_routes(preview_routes.routes)
    app.add_routes(event_routes.routes)
    app.add_routes(metrics_routes.routes)
    app.add_routes(operator_routes.routes)
    app.add_routes(page_routes.routes)
    livepeer_routes.add_routes(app.router)
    app.router.add_get("/openapi.json", describe_api)
    app.on_response_prepare.append(add_request_id)
    app.on_startup.append(_start_sessions)
    app.on_shutdown.append(_end_sessions)
    if settings.cors_origins:
        allow_origins(app, settings.cors_origins)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """What serves the application: handlers run to their end when a client goes away, so that
    what they began is also ended; bodies are as they came, see `relay.api.body`."""
    return web.AppRunner(
        app,
        handler_cancellation=False,
        auto_decompress=False,
        access_log=None,
        max_headers=MOST_HEADERS,
        shutdown_timeout=CONNECTIONS_CLOSE_S,
    )


async def drain(app: web.Application, hurry: asyncio.Event) -> None:
    """Take no more sessions and end those that run, in good order, while the API goes on
    answering: starts are refused with 503 `draining`, the rest works.

    Args:
        hurry: ends the time that sessions have to end by themselves; set when that is over, so
            that whoever sets it tells the two parts apart.
    """
    sessions, limit_s = app[SESSIONS], app[SETTINGS].drain_timeout_s
    sessions.begin_drain()
    await _unregister(app)
    if limit_s:
        waiting = [
            asyncio.ensure_future(waited) for waited in (sessions.wait_empty(), hurry.wait())
        ]
        try:
            await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waiting)
    hurry.set()
    await _end_sessions(app)


async def _start_sessions(app: web.Application) -> None:
    sessions = app[SESSIONS]
    await sessions.start()
    registration = open_registration(app[SETTINGS], lambda: _capacity_now(sessions))
    if registration is not None:
        app[REGISTRATION].append(registration)
        registration.start()


async def _unregister(app: web.Application) -> None:
    """Before the sessions end: the orchestrator sends no more."""
    for registration in app[REGISTRATION]:
        await registration.aclose()


def _capacity_now(sessions: SessionService) -> int:
    """How many streams could be served now; what the operator said bounds it further."""
    problem = sessions.why_not_ready()
    if not sessions.warm or (problem is not None and problem.code == "draining"):
        return 0
    return sys.maxsize if sessions.servers_there is None else sessions.servers_there


async def _end_sessions(app: web.Application) -> None:
    await _unregister(app)
    limit_s = app[SETTINGS].stop_timeout_s
    await app[SESSIONS].aclose(timeout_s=max(limit_s / 2, limit_s - CONNECTIONS_CLOSE_S))
