"""Routes that the real server does not have: faults to inject, and the truth inside.

``GET /standin/state``, ``GET /standin/faults``, ``POST /standin/faults`` with the faults to
change, ``DELETE /standin/faults`` to clear them all.
"""

from __future__ import annotations

from aiohttp import web
from pydantic import ValidationError

from demo.standin.registry import Registry


class AdminRoutes:
    """Handlers under ``/standin``."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def add_to(self, app: web.Application) -> None:
        """Add every route."""
        app.router.add_get("/standin/state", self.state)
        app.router.add_get("/standin/faults", self.faults)
        app.router.add_post("/standin/faults", self.change_faults)
        app.router.add_delete("/standin/faults", self.clear_faults)

    async def state(self, _request: web.Request) -> web.Response:
        """Queues, frames, connections, hazards and faults, as they are now."""
        return web.json_response(self._registry.report())

    async def faults(self, _request: web.Request) -> web.Response:
        """The faults in force."""
        return self._current()

    async def change_faults(self, request: web.Request) -> web.Response:
        """Change the named faults; 400 for no JSON object, 422 with every impossible value."""
        try:
            changes = await request.json()
        except ValueError:
            changes = None
        if not isinstance(changes, dict):
            return web.json_response({"error": "expected a JSON object of faults"}, status=400)
        try:
            self._registry.board.update(changes)
        except ValidationError as error:
            wrong = {
                ".".join(str(part) for part in fault["loc"]): fault["msg"]
                for fault in error.errors()
            }
            return web.json_response({"error": "impossible faults", "faults": wrong}, status=422)
        return self._current()

    async def clear_faults(self, _request: web.Request) -> web.Response:
        """Back to an undisturbed server."""
        self._registry.board.reset()
        return self._current()

    def _current(self) -> web.Response:
        return web.json_response(self._registry.board.current.model_dump(mode="json"))
