"""The commands of the operators' pages, run as they stand there against a real relay."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.server import TrickleServer
from tests.e2e.relay_process import relay_process
from tests.e2e.stack import in_background
from tests.standin_process import standin_process

pytestmark = pytest.mark.timeout(150)
ROOT = Path(__file__).parents[2]
PAGES = ("docs/operate.md", "docs/troubleshooting.md", "docs/api.md")
PYTHON = ".venv/bin/python"
NOT_RUN = {
    "docker-compose": "Docker; tests/integration/test_packaging.py looks at what it would do",
    "./docker-build.sh": "the same",
    "watch": "goes on for ever; what it repeats is among the others",
}
"""Programs whose commands are not run here, and why."""
SECONDS = 2
"""For commands that would go on; they are ended as their reader would."""


def commands() -> list[str]:
    """Every line of every bash block."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
            found += [line.strip() for line in block.splitlines() if line.strip()]
    return found


def test_every_command_is_run_or_named() -> None:
    """What this module can't run, it says why."""
    programs = {shlex.split(command, comments=True)[0] for command in commands()}
    assert programs - set(NOT_RUN) <= {"curl", PYTHON}
    assert set(NOT_RUN) <= programs


async def run(command: str, **variables: str) -> tuple[int, str]:
    """In a shell, as typed; ended after a while if it goes on."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        *["-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_they_do_what_the_pages_say() -> None:
    """Each against a relay with a session and a token: curl gets what was asked for, `check` finds
    nothing wrong."""
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        pattern = PatternOptions(frames=3600, plain=True, audio=False)
        async with (
            relay_process(host="127.0.0.1") as relay,
            in_background(publish_live(channel, generate(pattern))),
        ):
            session = await relay.start(channel, standin.url)
            await relay.wait_for_status(session, lambda s: s["status"] == "active")
            for command in commands():
                program = shlex.split(command, comments=True)[0]
                if program in NOT_RUN:
                    continue
                typed = (
                    command.replace("http://localhost:8890", relay.url)
                    .replace("http://127.0.0.1:8889", standin.url)
                    .replace("http://127.0.0.1:3389/", trickle.url)
                    .replace(PYTHON, sys.executable)
                )
                endless = " -N " in f" {typed} "
                if endless:
                    typed = typed.replace("curl ", f"curl -m {SECONDS} ", 1)
                code, output = await run(typed, ID=session, RELAY_PORT="0", RELAY_HOST="127.0.0.1")
                timed_out = "-m " in typed and code == 28  # curl's word for its time being over
                assert code == 0 or timed_out, (typed, code, output)
                assert '"success": false' not in output, typed
                if "/events" in typed:
                    assert "event: " in output, typed
                elif program == PYTHON:
                    assert "returns media" in output
                    assert "FAIL" not in output
                else:
                    assert output.strip(), typed
