"""The stand-in as a process: its command line, its admin routes, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import aiohttp
import pytest

from demo.comfystream_standin import parse_arguments
from demo.standin import Faults
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


async def test_sigint_ends_the_process_promptly_in_the_middle_of_a_stream() -> None:
    """Peers get a goodbye, a run in progress is given up, the exit code is 0."""
    async with (
        standin_process("--process-ms", "60000") as standin,
        connect(standin.url) as peer,
    ):
        await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        peer.start(_hang(standin.url, "/prompt", INVERT))
        await standin.wait_state(lambda state: state["pipeline"]["state"] == "INITIALIZING")
        os.kill(standin.pid, signal.SIGINT)
        assert await standin.stop() == 0
        async with asyncio.timeout(2):
            await peer.closed.wait()


async def test_sigterm_ends_a_wedged_process() -> None:
    """A request that hangs for ever does not hold up the end."""
    async with standin_process("--wedged") as standin:
        assert (await get(standin.url, "/health"))[0] == 200
        hung = asyncio.create_task(_hang(standin.url, "/offer", {"prompts": [INVERT]}))
        await standin.wait_state(lambda state: state["offers"] == 1)
        assert await standin.stop() == 0
        await hung


async def test_a_frozen_process_goes_on_where_it_was_and_a_killed_one_is_gone() -> None:
    """SIGSTOP holds everything up until SIGCONT; SIGKILL says goodbye to nobody."""
    async with standin_process() as standin, connect(standin.url) as peer:
        await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        standin.freeze()
        before = len(peer.pictures)
        for number in range(4, 9):
            peer.video.send(number, number * STEP)
        with pytest.raises(TimeoutError):
            await peer.wait_pictures(before + 1, timeout_s=0.3)
        standin.thaw()
        await peer.wait_pictures(before + 4)
        standin.kill()
        assert await standin.stop() == -signal.SIGKILL
        assert peer.pc.connectionState == "connected"


async def _hang(url: str, path: str, body: Any) -> None:
    with pytest.raises(aiohttp.ClientError):
        await post(url, path, body)


async def test_a_taken_port_is_one_clear_line() -> None:
    """A server on a port in use says so and ends with code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "demo.comfystream_standin",
            "--port",
            str(taken.getsockname()[1]),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await process.communicate()
    assert process.returncode == 1
    assert error.count(b"\n") == 1
    assert b"cannot listen" in error


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--process-ms", "fast"], "--process-ms"), (["--output-ratio=9"], "--output-ratio")],
)
def test_impossible_options_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad value ends the command line with its name."""
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert complaint in capsys.readouterr().err


def test_every_fault_is_an_option() -> None:
    """What can be set at run time can be set at start, with the same names."""
    settings, faults, _ = parse_arguments(
        ["--process-ms", "10,40", "--no-pairing-bug", "--race", "chance", "--rtp-origin", "7"]
    )
    assert settings.port == 8889
    assert faults == Faults(process_ms=(10, 40), pairing_bug=False, race="chance", rtp_origin=7)
    for name in Faults.model_fields:
        with pytest.raises(SystemExit):
            parse_arguments([f"--{name.replace('_', '-')}=no such value"])
