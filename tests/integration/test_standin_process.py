"""The stand-in as a process: its command line, its admin routes, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import aiohttp
import pytest

from tests.integration.standin_client import INVERT, STEP, connect, get, post
from tests.standin_process import REPOSITORY, standin_process


async def test_a_process_serves_and_obeys_faults() -> None:
    """A client gets inverted pictures from another process, and its state tells the truth."""
    async with standin_process("--process-ms", "1") as standin:
        assert standin.pid != os.getpid()
        async with connect(standin.url, [INVERT]) as peer:
            await peer.send_in_step(range(8), [n * STEP for n in range(8)])
            assert all(picture.inverted for picture in peer.pictures)
            faults = await standin.set_faults(frozen=True)
            assert faults["frozen"] is True
            assert faults["process_ms"] == [1.0]
            state = await standin.state()
            assert state["pipeline"]["state"] == "STREAMING"
            assert state["frames"]["received"] >= 7
            assert [c["mode"] for c in state["connections"]] == ["prompt"]
        with pytest.raises(ValueError, match="impossible"):
            await standin.set_faults(process_ms="fast", nonsense=1)
        await standin.clear_faults()
        assert (await standin.state())["faults"]["frozen"] is False


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
async def test_a_signal_ends_the_process_promptly(signal_name: str) -> None:
    """SIGTERM and SIGINT end it within two seconds with code 0, in the middle of a stream."""
    async with (
        standin_process("--process-ms", "60000") as standin,
        connect(standin.url) as peer,
    ):
        await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        started_at = time.monotonic()
        os.kill(standin.pid, getattr(signal, signal_name))
        assert await standin.stop() == 0
        assert time.monotonic() - started_at < 2
        async with asyncio.timeout(2):
            await peer.closed.wait()


async def test_a_hung_offer_does_not_hold_up_the_end() -> None:
    """SIGTERM ends a wedged server with a request in progress."""
    async with standin_process("--wedged") as standin:
        assert (await get(standin.url, "/health"))[0] == 200
        hung = asyncio.create_task(_hang(standin.url))
        await standin.wait_state(lambda state: state["offers"] == 1)
        assert await standin.stop() == 0
        await hung


async def _hang(url: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await post(url, "/offer", {"prompts": [INVERT]})


async def test_a_taken_port_is_one_clear_line() -> None:
    """A second server on the same port says so and ends with code 1."""
    async with standin_process() as standin:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "demo.comfystream_standin",
            "--port",
            standin.url.rpartition(":")[2],
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await process.communicate()
        assert process.returncode == 1
        assert error.count(b"\n") == 1
        assert b"cannot listen" in error
