"""Surroundings for long runs: the relay in this process, everything else in processes of its own
that can be ended and started again.

The relay is in the process that measures, so that its tasks and threads can be counted.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bench.session_run import free_port
from bench.trickle_processes import memory_mb, open_files
from demo.child_process import Child
from demo.start_session import INVERT
from relay.config import LogLevel, Settings
from relay.observe.log import configure_logging
from relay.trickle.server import TrickleServer
from trickle_relay_service import create_app

SIZE = 256
FPS = "20"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds."""

    open_files: int
    threads: int
    tasks: int
    memory_mb: float

    @classmethod
    def now(cls) -> Holdings:
        gc.collect()
        return cls(
            open_files(os.getpid()),
            threading.active_count(),
            len(asyncio.all_tasks()),
            round(memory_mb(os.getpid()), 1),
        )


class Server:
    """A ComfyStream stand-in on a port of its own, whoever the process is."""

    def __init__(self, number: int, directory: Path, http: aiohttp.ClientSession) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._number = number
        self._directory = directory
        self._http = http
        self._child: Child | None = None

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        self._child = Child(
            f"stand-in-{self._number}",
            *("-m", "demo.comfystream_standin", "--port", self.url.rpartition(":")[2]),
            *("--consent-interval", "1", "--consent-failures", "4"),
            log_directory=self._directory,
        )
        await self._child.start()
        await self._child.event()

    async def stop(self) -> None:
        if self._child is not None:
            self.signal(signal.SIGCONT)
            await self._child.stop()

    async def kill(self) -> None:
        """End it without a word."""
        self.signal(signal.SIGKILL)
        assert self._child is not None
        await self._child.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        os.kill(self._child.pid, number)

    async def faults(self, **changes: Any) -> None:
        """Change faults; none given clears them all."""
        method = "POST" if changes else "DELETE"
        timeout = aiohttp.ClientTimeout(total=5)
        async with self._http.request(
            method, f"{self.url}/standin/faults", json=changes or None, timeout=timeout
        ):
            pass

    async def state(self) -> dict[str, Any]:
        async with self._http.get(f"{self.url}/standin/state") as response:
            state: dict[str, Any] = await response.json()
            return state


class Stage:
    """Trickle server, stand-ins, sources, and the relay's API."""

    def __init__(
        self,
        trickle: TrickleServer,
        relay_url: str,
        http: aiohttp.ClientSession,
        servers: list[Server],
        directory: Path,
        exit_stack: AsyncExitStack,
    ) -> None:
        self.trickle = trickle
        self.servers = servers
        self._relay_url = relay_url
        self._http = http
        self._directory = directory
        self._exit_stack = exit_stack

    def channel(self, name: str) -> str:
        return f"{self.trickle.url.rstrip('/')}/{name}"

    async def play(self, name: str) -> Child:
        """Start a live source on a channel."""
        source = Child(
            f"source-{name}",
            *("-m", "demo.test_pattern", self.channel(name), "--fps", FPS),
            *("--size", f"{SIZE}x{SIZE}"),
            log_directory=self._directory,
        )
        await source.start()
        self._exit_stack.push_async_callback(source.stop)
        await source.event()
        return source

    async def call(self, method: str, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
        url = self._relay_url + path
        async with self._http.request(method, url, **request) as response:
            return response.status, await response.json()

    async def start(self, channel: str, server: Server, **request: Any) -> str:
        """Start a session; returns its id."""
        body = {
            "input_stream_url": self.channel(channel),
            "comfystream_url": server.url,
            "prompts": INVERT,
            "width": SIZE,
            "height": SIZE,
            **request,
        }
        status, answer = await self.call("POST", "/session/start", json=body)
        if status != 200:
            raise RuntimeError(f"the relay refuses a session: {answer}")
        return str(answer["session_id"])

    async def status(self, session_id: str) -> dict[str, Any]:
        _, answer = await self.call("GET", f"/session/{session_id}/status")
        session: dict[str, Any] = answer["session"]
        return session


@asynccontextmanager
async def stage(servers: int, **settings: Any) -> AsyncIterator[Stage]:
    """Everything but sources and sessions."""
    configure_logging(LogLevel.ERROR)
    async with AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        directory = Path(exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-")))
        http = await enter(aiohttp.ClientSession())
        trickle = await enter(TrickleServer(host="127.0.0.1", port=0))
        started = [Server(number, directory, http) for number in range(servers)]
        for server in started:
            exit_stack.push_async_callback(server.stop)
            await server.start()
        runner = web.AppRunner(create_app(Settings(**settings)), access_log=None)
        await runner.setup()
        exit_stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield Stage(trickle, f"http://{host}:{port}", http, started, directory, exit_stack)
