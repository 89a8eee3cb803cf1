"""A ComfyStream as far as those see it who only ask it: `/streams/stats` and `/prompt`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


class ProbedServer:
    """Answers as it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.streams: dict[str, Any] = {}
        self.prompts: list[Any] = []
        self.prompt_status = 200
        self.may_answer = asyncio.Event()
        """A prompt waits for it."""
        self.may_answer.set()
        self.asked = asyncio.Event()
        """A prompt has come."""

    async def stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.streams)

    async def prompt(self, request: web.Request) -> web.Response:
        self.prompts.append(await request.json())
        self.asked.set()
        await self.may_answer.wait()
        return web.Response(text="OK", status=self.prompt_status)


@asynccontextmanager
async def probed_server() -> AsyncIterator[ProbedServer]:
    """One that listens on a free port."""
    server = ProbedServer()
    app = web.Application()
    app.router.add_get("/streams/stats", server.stats)
    app.router.add_post("/prompt", server.prompt)
    async with TestServer(app) as listening:
        server.url = str(listening.make_url("")).rstrip("/")
        yield server
