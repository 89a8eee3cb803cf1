"""TCP ports of loopback: one that is free, and one that a process is about to listen on."""

from __future__ import annotations

import asyncio
import socket

POLL_INTERVAL_S = 0.02


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_listening(
    port: int, process: asyncio.subprocess.Process, deadline_s: float = 10.0
) -> None:
    """Return when `process` takes connections on `port`.

    Raises:
        ChildProcessError: it has ended instead.
        TimeoutError: it does not within `deadline_s`.
    """
    async with asyncio.timeout(deadline_s):
        while not await _listens(port):
            if process.returncode is not None:
                raise ChildProcessError(f"it ended with exit code {process.returncode}")
            await asyncio.sleep(POLL_INTERVAL_S)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
