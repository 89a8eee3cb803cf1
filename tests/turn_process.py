"""A TURN server (Debian's coturn) on loopback as a process of its own, for tests."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.ports import free_port, until_listening

STOP_TIMEOUT_S = 5.0
USER, PASSWORD = "relay", "turn-secret"


@dataclass(frozen=True)
class TurnServer:
    """A running server: its port, UDP and TCP, and what it has logged."""

    port: int
    log: Path

    def allocations(self) -> int:
        """How many addresses it has given out so far."""
        return self.log.read_text(errors="replace").count("ALLOCATE processed, success")


@asynccontextmanager
async def turn_process() -> AsyncIterator[TurnServer]:
    """Start it, wait until it listens, end it. Skips the test where coturn is not installed."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("coturn is not installed (.ci/run installs it)")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        process = await asyncio.create_subprocess_exec(
            *[program, "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-multicast-peers"],
            *["--listening-ip=127.0.0.1", f"--listening-port={port}", "--relay-ip=127.0.0.1"],
            *["--lt-cred-mech", f"--user={USER}:{PASSWORD}", "--realm=test"],
            *["--allow-loopback-peers", "--verbose", f"--log-file={log}", "--simple-log"],
            *[f"--pidfile={directory}/pid", f"--userdb={directory}/db"],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until_listening(port, process)
            yield TurnServer(port, log)
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
