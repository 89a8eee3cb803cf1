"""ComfyStream's HTTP routes, each also under ``/live``.

Whatever a handler raises becomes aiohttp's own 500, as it does there: text that names no cause.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from aiortc import RTCSessionDescription

from demo.standin.connection import Connection
from demo.standin.faults import Faults
from demo.standin.registry import Registry

PREFIX = "/live"


class ComfyStreamRoutes:
    """Handlers on one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._failed_offers = 0
        self._offer_failure: tuple[str, int | None] = ("none", None)
        registry.board.subscribe(self._on_faults)

    def add_to(self, app: web.Application) -> None:
        """Add every route, plain and under the prefix."""
        app.middlewares.append(self._remember_request)
        routes = [
            ("GET", "/", self.health),
            ("GET", "/health", self.health),
            ("POST", "/offer", self.offer),
            ("POST", "/prompt", self.prompt),
            ("GET", "/streams/stats", self.all_stats),
            ("GET", "/stream/{stream_id}/stats", self.stats),
        ]
        if self._registry.settings.monitor:
            routes.append(("GET", "/metrics", self.metrics))
        for prefix in ("", PREFIX):
            for method, path, handler in routes:
                app.router.add_route(method, prefix + path, handler)

    async def health(self, _request: web.Request) -> web.Response:
        """Always well, whatever the pipeline does."""
        return web.Response(content_type="application/json", text="OK")

    async def offer(self, request: web.Request) -> web.Response:
        """Apply the prompts, if any, then make a connection and answer.

        The order is the real server's: the size sticks and the workflow runs even when the
        offer turns out to be missing.
        """
        registry = self._registry
        registry.offers += 1
        params = await request.json()
        await asyncio.sleep(registry.board.current.offer_delay_s)
        if failed := self._failed_as_asked(request):
            return failed
        pipeline = registry.pipeline
        prompts = params.get("prompts")
        resolution = params.get("resolution")
        if resolution:
            pipeline.width = resolution["width"]
            pipeline.height = resolution["height"]
        if prompts:
            await self._apply(prompts)
            pipeline.start_streaming()
        offer = RTCSessionDescription(sdp=params["offer"]["sdp"], type=params["offer"]["type"])
        connection = Connection(registry, noop=not prompts)
        registry.connections.add(connection)
        answer = await connection.answer(offer)
        return web.json_response({"sdp": answer.sdp, "type": answer.type})

    async def prompt(self, request: web.Request) -> web.Response:
        """Replace the workflow of the server, whoever streams through it."""
        await self._apply(await request.json())
        return web.Response(content_type="application/json", text="OK")

    async def all_stats(self, _request: web.Request) -> web.Response:
        """Frame rates of prompt-mode video by the peers' own track ids."""
        tracks = self._registry.video_tracks
        return web.json_response({key: track.fps_meter.report() for key, track in tracks.items()})

    async def stats(self, request: web.Request) -> web.Response:
        """Frame rates of one track, or an error with status 200."""
        track = self._registry.video_tracks.get(request.match_info["stream_id"])
        report = track.fps_meter.report() if track else {"error": "Stream not found"}
        return web.json_response(report)

    async def metrics(self, _request: web.Request) -> web.Response:
        """The Prometheus gauge of ``--monitor``."""
        gauge = self._registry.gauge
        for key, track in self._registry.video_tracks.items():
            gauge.set(key, track.fps_meter.fps)
        return web.Response(content_type="text/plain", text=gauge.exposition())

    @web.middleware
    async def _remember_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._registry.requests.add(task)
        try:
            return await handler(request)
        finally:
            self._registry.requests.discard(task)

    async def _apply(self, prompts: Any) -> None:
        hazards = self._registry.hazards_of_prompt_offer()
        await self._registry.pipeline.apply_prompts(
            prompts, lose_warm_up_output=self._registry.will_wedge(hazards)
        )

    def _on_faults(self, faults: Faults) -> None:
        asked = (faults.offer_failure, faults.offer_failures)
        if asked != self._offer_failure:
            self._offer_failure, self._failed_offers = asked, 0

    def _failed_as_asked(self, request: web.Request) -> web.Response | None:
        faults = self._registry.board.current
        if faults.offer_failure == "none":
            return None
        if faults.offer_failures is not None and self._failed_offers >= faults.offer_failures:
            return None
        self._failed_offers += 1
        if faults.offer_failure == "500":
            raise RuntimeError("the offer failed, as asked")
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
