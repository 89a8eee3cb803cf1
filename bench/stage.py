"""Surroundings for long runs: the relay in this process, everything else in processes of its own
that can be ended and started again.

The relay is in the process that measures, so that its tasks and threads can be counted, and
nothing else is, so that its memory can.
"""

from __future__ import annotations

import asyncio
import ctypes
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
from bench.trickle_processes import ServerProcess, memory_mb, open_files, server_process
from demo.child_process import Child
from demo.start_session import INVERT
from relay.config.settings import LogLevel, Settings
from relay.observe.log import configure_logging
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
    """Resident: what is used, and what the allocators keep."""
    heap_mb: float
    """In use of what C has allocated, codecs and OpenSSL above all; 0 without glibc."""
    objects: int
    """Containers of Python's that are alive."""

    @classmethod
    def now(cls) -> Holdings:
        gc.collect()
        return cls(
            open_files(os.getpid()),
            threading.active_count(),
            len(asyncio.all_tasks()),
            round(memory_mb(os.getpid()), 1),
            round(_heap_in_use() / 1e6, 1),
            len(gc.get_objects()),
        )


class _MallocInfo(ctypes.Structure):
    """mallinfo2(3): the sums over all arenas, and the blocks that have a mapping of their own."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


def _heap_in_use() -> int:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = _MallocInfo
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


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
        trickle: ServerProcess,
        relay_url: str,
        http: aiohttp.ClientSession,
        servers: list[Server],
        directory: Path,
    ) -> None:
        self.servers = servers
        self._trickle = trickle
        self._relay_url = relay_url
        self._http = http
        self._directory = directory
        self._sources: dict[str, Child] = {}

    def channel(self, name: str) -> str:
        return f"{self._trickle.url.rstrip('/')}/{name}"

    async def delete_channel(self, name: str) -> bool:
        """As an operator of the trickle server would; False if there is none."""
        async with self._http.delete(self.channel(name)) as response:
            return response.status == 200

    async def play(self, name: str) -> None:
        """Start a live source on a channel."""
        source = Child(
            f"source-{name}",
            *("-m", "demo.test_pattern", self.channel(name), "--fps", FPS),
            *("--size", f"{SIZE}x{SIZE}"),
            log_directory=self._directory,
        )
        self._sources[name] = source
        await source.start()
        await source.event()

    async def end_source(self, name: str) -> None:
        """It closes its channel and is gone."""
        await self._sources.pop(name).stop()

    def signal_source(self, name: str, number: signal.Signals) -> None:
        os.kill(self._sources[name].pid, number)

    def signal_trickle(self, number: signal.Signals) -> None:
        os.kill(self._trickle.pid, number)

    async def aclose(self) -> None:
        self.signal_trickle(signal.SIGCONT)
        for name in list(self._sources):
            await self.end_source(name)

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
        trickle = await enter(server_process())
        started = [Server(number, directory, http) for number in range(servers)]
        for server in started:
            exit_stack.push_async_callback(server.stop)
            await server.start()
        runner = web.AppRunner(
            create_app(Settings(**{"max_load": 0.0, "shed": False, **settings})), access_log=None
        )
        await runner.setup()
        exit_stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        found = Stage(trickle, f"http://{host}:{port}", http, started, directory)
        exit_stack.push_async_callback(found.aclose)
        yield found
