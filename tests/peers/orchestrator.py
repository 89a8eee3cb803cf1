"""A Livepeer orchestrator's capability calls, as its HTTP handlers answer them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

SECRET = "orch-s3cret"


class Orchestrator:
    """Takes registrations and remembers every request.

    Args:
        secret: what it wants in `Authorization`, bare.
    """

    def __init__(self, secret: str = SECRET) -> None:
        self.secret = secret
        self.port = 0
        self.capabilities: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        """Path, Authorization, body."""
        self.changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; the second time on the port of the first, knowing nobody."""
        app = web.Application()
        app.router.add_post("/capability/register", self._register)
        app.router.add_post("/capability/unregister", self._unregister)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End, and forget every worker."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.capabilities.clear()

    async def wait_for(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Return once `condition` holds; it is tried after each request."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def _register(self, request: web.Request) -> web.Response:
        if refusal := await self._authorize(request):
            return refusal
        try:
            body = await request.json()
            self.capabilities[body["name"]] = body
        except (ValueError, KeyError, TypeError):
            return web.Response(status=400, text="invalid request")
        return web.Response(text="ok")

    async def _unregister(self, request: web.Request) -> web.Response:
        if refusal := await self._authorize(request):
            return refusal
        self.capabilities.pop((await request.read()).decode(), None)
        return web.Response(text="ok")

    async def _authorize(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        self.requests.append((request.path, given, await request.read()))
        self.changed.set()
        return (
            None if given == self.secret else web.Response(status=400, text="invalid authorization")
        )
