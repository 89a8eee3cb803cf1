"""The stand-in as one object: start it, use its address, close it."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any

from aiohttp import web

from demo.standin import aiortc_internals
from demo.standin.admin import AdminRoutes
from demo.standin.faults import FaultBoard, Faults
from demo.standin.registry import Registry
from demo.standin.routes import ComfyStreamRoutes
from demo.standin.settings import StandInSettings

SHUTDOWN_S = 0.1
"""How long requests in progress may take when the server closes."""


class ComfyStreamStandIn:
    """A running stand-in, in this process.

    While it runs, aiortc's H.264 bitrate limits and aioice's consent times are the stand-in's
    for the whole process; see `demo.standin.aiortc_internals`.

    Args:
        settings: what is fixed; by default any free port on 127.0.0.1.
        faults: what goes wrong from the start.
    """

    def __init__(
        self, settings: StandInSettings | None = None, faults: Faults | None = None
    ) -> None:
        self.settings = settings if settings is not None else StandInSettings(port=0)
        self.board = FaultBoard(faults)
        self._exit_stack = contextlib.AsyncExitStack()
        self._registry: Registry | None = None
        self._port = self.settings.port

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://{self.settings.host}:{self._port}"

    def set_faults(self, **changes: Any) -> Faults:
        """Change faults in force. Raises: pydantic.ValidationError."""
        return self.board.update(changes)

    def state(self) -> dict[str, Any]:
        """The same as ``GET /standin/state``."""
        assert self._registry is not None
        return self._registry.report()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(
                aiortc_internals.comfystream_process(
                    self.settings.consent_interval_s, self.settings.consent_failures
                )
            )
            await asyncio.sleep(self.settings.start_up_s)
            registry = Registry(self.settings, self.board)
            stack.push_async_callback(registry.aclose)
            app = web.Application()
            ComfyStreamRoutes(registry).add_to(app)
            AdminRoutes(registry).add_to(app)
            runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S, access_log=None)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            site = web.TCPSite(runner, self.settings.host, self.settings.port)
            await site.start()
            self._port = runner.addresses[0][1]
            self._registry = registry
            self._exit_stack = stack.pop_all()

    async def aclose(self) -> None:
        """Stop listening, close every connection, end the worker thread. Idempotent."""
        await self._exit_stack.aclose()

    async def __aenter__(self) -> ComfyStreamStandIn:
        await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
