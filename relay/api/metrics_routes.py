"""Metrics for Prometheus, on the API's port and, where asked for, on one of their own."""

from __future__ import annotations

import asyncio

from aiohttp import web

from relay.api.describe import Operation, describes
from relay.api.keys import HTTP_COUNTS, SESSIONS, SETTINGS
from relay.observe.metrics import build_info, expose
from relay.observe.tally import Tally

routes = web.RouteTableDef()


@routes.get("/metrics")
@describes(Operation(content_type="text/plain"))
async def metrics(request: web.Request) -> web.StreamResponse:
    """Everything that is counted and measured, in Prometheus' formats."""
    return await _answer(request.app, request.headers.get("Accept", ""))


def metrics_app(app: web.Application) -> web.Application:
    """An application that answers `/metrics` of `app` and nothing else, to everybody."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(app, request.headers.get("Accept", ""))

    alone = web.Application()
    alone.router.add_get("/metrics", answer)
    return alone


async def _answer(app: web.Application, accept: str) -> web.StreamResponse:
    sessions = app[SESSIONS]
    await sessions.measure()
    tallies = [("", _own(app)), *await sessions.tallies()]
    body, content_type = await asyncio.to_thread(
        expose, tallies, accept, per_session=app[SETTINGS].metrics_per_session
    )
    return web.Response(
        body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"}
    )


def _own(app: web.Application) -> Tally:
    tally = Tally()
    tally.stands("build_info", *build_info())
    for series, answered in app[HTTP_COUNTS].items():
        tally.count("http_requests_total", *series, by=answered)
    return tally
