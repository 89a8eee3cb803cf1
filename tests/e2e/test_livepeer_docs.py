"""The commands of docs/livepeer.md, run as they stand there but for their ports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.test_readme_examples import blocks
from tests.peers.ports import free_port, until_listening

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "livepeer.md").read_text()
PORTS = ("8935", "8889", "8890")
DEADLINE_S = 40.0


class Shell:
    """Runs commands of the page, each port replaced by a free one."""

    def __init__(self) -> None:
        self.ports = {port: str(free_port()) for port in PORTS}

    def here(self, text: str) -> str:
        for port, ours in self.ports.items():
            text = text.replace(port, ours)
        # The player shows a picture; here it is enough that one can be told apart.
        text = text.replace("ffplay -i -", "ffprobe -v error -show_entries stream=width -i -")
        return text.replace(".venv/bin/python", sys.executable)

    async def run(self, *parts: str) -> str:
        """What a script prints; it must not fail."""
        process = await self.begin("\n".join(parts), stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE_S):
                output = (await process.stdout.read()).decode()
                assert await process.wait() == 0, output
        finally:
            end(process)
        return output

    async def begin(self, text: str, **streams: Any) -> asyncio.subprocess.Process:
        """Start a script in a process group of its own."""
        return await asyncio.create_subprocess_exec(
            *("bash", "-ec", self.here(text)),
            cwd=ROOT,
            start_new_session=True,
            **({"stdout": asyncio.subprocess.DEVNULL} | streams),
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def channel_is_there(self, url: str) -> None:
        """Return once somebody has made it."""
        url = self.here(f"{url}/next")
        async with aiohttp.ClientSession() as http, asyncio.timeout(DEADLINE_S):
            while True:
                async with http.get(url) as reply:
                    if reply.status == 200:
                        return
                await asyncio.sleep(0.05)


def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGTERM)


@asynccontextmanager
async def in_terminals(shell: Shell, lines: list[str]) -> AsyncIterator[None]:
    """Each line runs until the end; each is there before the next."""
    *servers, source = lines
    processes = []
    try:
        for line, port in zip(servers, PORTS, strict=True):
            assert port in line
            processes.append(await shell.begin(f"exec {line}"))
            await until_listening(int(shell.ports[port]), processes[-1], DEADLINE_S)
        processes.append(await shell.begin(f"exec {source}"))
        await shell.channel_is_there(source.split()[-1])
        yield
    finally:
        for process in processes:
            end(process)
        async with asyncio.timeout(DEADLINE_S):
            for process in processes:
                await process.wait()


@pytest.mark.timeout(150)
async def test_a_stream_by_hand() -> None:
    """The page's own words: it starts, its output plays, its events can be read, it changes both
    ways, and it ends."""
    shell = Shell()
    terminals, start, gateway, byoc = blocks(PAGE.split("## Streams")[0], "bash")
    async with in_terminals(shell, terminals.strip().splitlines()):
        started = json.loads((await shell.run(start)).splitlines()[-1])
        assert (started["status"], started["request_id"]) == ("success", "s1"), started
        where = start.splitlines()[0]
        play, events, change = gateway.strip().splitlines()
        assert "width=512" in await shell.run(where, play.replace("record", "record --duration 8"))
        told = [json.loads(line) for line in (await shell.run(where, events)).splitlines()]
        assert "status" in [message["event"]["type"] for message in told]
        await shell.run(where, change)
        params, status, stop = byoc.strip().splitlines()
        answer = json.loads(await shell.run(params))
        assert (answer["status"], answer["message"]) == (
            "success",
            "Parameters updated successfully",
        )
        now = json.loads(await shell.run(status))
        assert (now["request_id"], now["running"]) == ("s1", True)
        stopped = json.loads(await shell.run(stop))
        assert stopped["message"] == "Stream stopped successfully"
