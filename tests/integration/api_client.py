"""The API on a real socket with fake sessions behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from relay.api.app import build_app, make_runner
from relay.config.settings import Settings
from tests.fake_sessions import FakeSessions

Client = TestClient[web.Request, web.Application]

INVERT: dict[str, Any] = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
}


class ApiServer(TestServer):
    """aiohttp's test server, run the way the service runs."""

    async def _make_runner(self, **_options: Any) -> web.BaseRunner[Any]:
        return make_runner(self.app)


def start_body(**changes: Any) -> dict[str, Any]:
    """A valid start request, with `changes`."""
    return {
        "input_stream_url": "http://127.0.0.1:3389/camera",
        "comfystream_url": "http://127.0.0.1:8889",
        "prompts": [],
    } | changes


@asynccontextmanager
async def api_client(sessions: FakeSessions, **settings: Any) -> AsyncIterator[Client]:
    """A client of the API, closed with its server at the end."""
    app = build_app(Settings(**settings), sessions)
    async with TestClient(ApiServer(app)) as client:
        yield client
