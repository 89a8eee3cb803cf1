"""A trickle server in a process of its own, which can be stopped as a whole."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.peers.ports import free_port, until_listening


@asynccontextmanager
async def trickle_process() -> AsyncIterator[tuple[str, int]]:
    """Its address, without a trailing slash, and its process id."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "relay.trickle.server", "--port", str(port)],
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until_listening(port, process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        await process.wait()
