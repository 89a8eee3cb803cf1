"""`python -m demo` as a user runs it: real processes, real ports, exit codes, one clear line."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FREE_PORTS = {"DEMO_TRICKLE_PORT": "0", "DEMO_COMFYSTREAM_PORT": "0", "DEMO_RELAY_PORT": "0"}
END_TIMEOUT_S = 8.0
"""It takes about one second; up to three if nothing answers; a busy machine stretches that."""

pytestmark = pytest.mark.timeout(90)


@asynccontextmanager
async def demo(**environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The demo as a process, its output piped; ended on the way out if it still runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DEMO_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo"),
        cwd=REPOSITORY,
        env={**clean, **FREE_PORTS, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def children_of(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def program_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def make_clip(directory: Path) -> Path:
    """A second of moving picture with B-frames, and a tone."""
    clip = directory / "clip.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=1"]
    command += ["-f", "lavfi", "-i", "sine=d=1", "-c:v", "libx264", "-bf", "2", str(clip)]
    subprocess.run(command, check=True)
    return clip


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def refusal(**environment: str) -> str:
    """What the demo says when it can't run: the line, after checking that it is one."""
    async with demo(**environment) as process:
        output, errors = await process.communicate()
    assert process.returncode == 1
    assert output == b""
    lines = errors.decode().splitlines()
    assert len(lines) == 1
    return lines[0]


async def test_it_ends_by_itself_and_every_picture_was_inverted() -> None:
    """With DEMO_SECONDS it prints where to look, a line a second, a summary, and exits 0."""
    async with demo(DEMO_SECONDS="4") as process:
        output, errors = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text + errors.decode()
    assert errors == b""
    assert "/demo-processed | ffplay" in text
    assert "/status" in text
    lines = [line for line in text.splitlines() if line[:3] == "00:"]
    assert len(lines) >= 3
    assert "active, connected" in lines[-1]
    assert "fps" in lines[-1]
    content = next(line for line in text.splitlines() if line.startswith("content"))
    compared, inverted, wrong, unreadable = (int(text) for text in re.findall(r"\d+", content))
    assert compared > 10
    assert inverted == compared - wrong
    assert unreadable == 0


async def test_without_a_processed_frame_it_fails() -> None:
    """Over before the first frame can be out: exit code 1, and it says what was missing."""
    async with demo(DEMO_SECONDS="0.001") as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith("demo: no processed frame reached the output channel")


async def test_a_file_plays_and_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """INPUT plays a file; SIGINT ends the demo and all its children, with a summary."""
    clip = make_clip(tmp_path)
    async with demo(INPUT=str(clip)) as process:
        assert process.stdout is not None
        text = ""
        while "delay" not in text or "delay  -" in text.splitlines()[-1]:
            line = await process.stdout.readline()
            assert line, await process.stderr.read()  # type: ignore[union-attr]
            text += line.decode()
        children = children_of(process.pid)
        assert len(children) == 3
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(END_TIMEOUT_S):
            rest, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert "320x240 at 25 fps, encoded again (B-frames)" in text
    assert "frames " in rest.decode()
    assert not any(exists(pid) for pid in children)


async def test_a_relay_that_dies_is_reported() -> None:
    """Killing the relay under the demo: exit code 1, who ended, and nothing left behind."""
    async with demo() as process:
        assert process.stdout is not None
        while not (line := await process.stdout.readline()).startswith(b"00:"):
            assert line
        children = children_of(process.pid)
        relay = next(pid for pid in children if b"trickle_relay_service" in program_of(pid))
        os.kill(relay, signal.SIGKILL)
        async with asyncio.timeout(END_TIMEOUT_S):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith("demo: the relay ended with exit code -9")
    assert not any(exists(pid) for pid in children)


async def test_a_taken_port_is_named() -> None:
    """One line names the port and how to choose another, and nothing is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = await refusal(DEMO_RELAY_PORT=str(port))
    assert line.startswith(f"demo: port {port}, for the relay, is taken")
    assert "DEMO_RELAY_PORT=" in line


async def test_a_bad_file_is_named(tmp_path: Path) -> None:
    """A file that holds no media is refused by name, before anything is started."""
    text = tmp_path / "text.mp4"
    text.write_text("not a film")
    assert (await refusal(INPUT=str(text))).startswith(f"demo: {text}: ")
