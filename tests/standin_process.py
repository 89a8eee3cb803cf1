"""The ComfyStream stand-in as a process of its own, for tests.

async with standin_process("--process-ms", "40") as standin:
    ... standin.url ...
    await standin.set_faults(frozen=True)
    assert (await standin.state())["frames"]["received"] > 0
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import aiohttp

from demo import comfystream_standin
from tests.forked_process import ForkedProcess

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.02
REPOSITORY = Path(__file__).resolve().parent.parent


class StandIn:
    """A running stand-in: its address, its faults, its state, its process.

    Attributes:
        url: where it listens, without a trailing slash.
        pid: its process.
    """

    def __init__(self, url: str, process: ForkedProcess, log: IO[bytes]) -> None:
        self.url = url
        self.pid = process.pid
        self._process = process
        self._log = log

    async def set_faults(self, **changes: Any) -> dict[str, Any]:
        """Change faults by name; returns all that are in force. Raises ValueError on a bad one."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/standin/faults", json=changes) as response,
        ):
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise ValueError(answer)
            return answer

    async def clear_faults(self) -> None:
        """Back to an undisturbed server."""
        async with (
            aiohttp.ClientSession() as session,
            session.delete(f"{self.url}/standin/faults") as response,
        ):
            response.raise_for_status()

    async def state(self) -> dict[str, Any]:
        """What ``GET /standin/state`` answers."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/standin/state") as response,
        ):
            response.raise_for_status()
            state: dict[str, Any] = await response.json()
            return state

    async def wait_state(
        self, reached: Callable[[dict[str, Any]], bool], timeout_s: float = 8.0
    ) -> dict[str, Any]:
        """Ask for the state until `reached` holds for it. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                state = await self.state()
                if reached(state):
                    return state
                # Another process can only be asked again.
                await asyncio.sleep(POLL_INTERVAL_S)

    def kill(self) -> None:
        """End it without a goodbye to anyone (SIGKILL)."""
        self._process.kill()

    def freeze(self) -> None:
        """Stop the whole process (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    async def stop(self) -> int:
        """End it by SIGTERM, or by SIGKILL if it won't; returns its exit code."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.thaw()
                self._process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    def log(self) -> str:
        """What it wrote to standard error so far."""
        self._log.flush()
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


@contextlib.asynccontextmanager
async def standin_process(*arguments: str) -> AsyncIterator[StandIn]:
    """Start a stand-in on a free port, wait until it listens, end it by its pid afterwards.

    Args:
        arguments: of the command line, e.g. ``"--process-ms", "40"``.

    Raises:
        RuntimeError: it ended, or did not listen in time; the message holds its log.
    """
    with tempfile.TemporaryFile() as log:
        process = await ForkedProcess.start(
            comfystream_standin.main, "--port", "0", *arguments, log=log
        )
        standin = StandIn("", process, log)
        try:
            line = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_TIMEOUT_S):
                    line = await process.stdout.readline()
            if not line:
                raise RuntimeError(f"the stand-in did not listen:\n{standin.log()}")
            standin.url = json.loads(line)["url"]
            yield standin
        finally:
            await standin.stop()
