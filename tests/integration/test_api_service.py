"""The command line and the process: start, serve, drain, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay import __version__
from tests.logging_state import logging_restored
from trickle_relay_service import main

ROOT = Path(__file__).parents[2]
SERVICE = [str(ROOT / "trickle_relay_service.py")]
START_LIMIT_S = 20
EXIT_LIMIT_S = 10

HANGING_SERVICE = [
    "-c",
    f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
import trickle_relay_service as service
from relay.api.app import build_app
from tests.fake_sessions import FakeSessions

class Hanging(FakeSessions):
    async def aclose(self, *, timeout_s=None):
        await asyncio.Event().wait()

service.create_app = lambda settings, logs: build_app(settings, Hanging())
sys.exit(service.main(sys.argv[1:]))
""",
]
"""The service with sessions that can't be ended."""


def environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RELAY_")}
    return kept | variables


@asynccontextmanager
async def process(command: list[str], cwd: Path, **variables: str) -> AsyncIterator[Process]:
    """A running command, killed at the end if it still runs."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=cwd, env=environment(**variables), stdout=PIPE, stderr=PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def wait_for_event(running: Process, event: str) -> dict[str, Any]:
    """The first log line of that event."""
    assert running.stderr is not None
    async with asyncio.timeout(START_LIMIT_S):
        async for raw in running.stderr:
            line = json.loads(raw)
            if line["event"] == event:
                return dict(line)
    raise AssertionError(f"the process ended without {event}")


LOCAL = ("--host", "127.0.0.1", "--port", "0")


@pytest.mark.parametrize(
    ("loop", "number"),
    [("asyncio", signal.SIGTERM), ("asyncio", signal.SIGINT), ("uvloop", signal.SIGTERM)],
)
async def test_serves_until_a_signal_then_drains_and_exits_0(
    tmp_path: Path, loop: str, number: signal.Signals
) -> None:
    """One life of the process, on either event loop."""
    async with process([*SERVICE, *LOCAL], tmp_path, RELAY_EVENT_LOOP=loop) as running:
        listening = await wait_for_event(running, "relay.listening")
        url = f"http://127.0.0.1:{listening['port']}/health"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            assert (await answer.json())["status"] == "healthy"
            # The connection is kept alive: it must not hold up the exit.
            running.send_signal(number)
            await wait_for_event(running, "relay.stopped")
            async with asyncio.timeout(EXIT_LIMIT_S):
                assert await running.wait() == 0


async def test_second_signal_exits_at_once(tmp_path: Path) -> None:
    """Whoever does not want to wait does not have to."""
    variables = {"RELAY_STOP_TIMEOUT_S": "600"}
    async with process([*HANGING_SERVICE, *LOCAL], tmp_path, **variables) as running:
        await wait_for_event(running, "relay.listening")
        running.send_signal(signal.SIGTERM)
        await wait_for_event(running, "relay.draining")
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(EXIT_LIMIT_S):
            assert await running.wait() == 128 + signal.SIGTERM


async def test_drain_that_hangs_is_ended_with_code_1(tmp_path: Path) -> None:
    """The process never outlives its time to stop by much, and does not call that success."""
    variables = {"RELAY_STOP_TIMEOUT_S": "0.1"}
    async with process([*HANGING_SERVICE, *LOCAL], tmp_path, **variables) as running:
        await wait_for_event(running, "relay.listening")
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(EXIT_LIMIT_S):
            assert await running.wait() == 1


class TestCommandLine:
    """What ends by itself, called in this process: exit code, output, nothing started."""

    @pytest.fixture(autouse=True)
    def _own_world(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        """An empty environment and directory; logging as it was, afterwards."""
        for name in [name for name in os.environ if name.startswith("RELAY_")]:
            monkeypatch.delenv(name)
        monkeypatch.chdir(tmp_path)
        with logging_restored():
            yield

    def test_taken_port_is_one_clear_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is wrong, and the two ways to choose another."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert main(["--host", "127.0.0.1", "--port", port]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert f"127.0.0.1 port {port}: the port is taken" in line
        assert "--port" in line
        assert "RELAY_PORT" in line

    @pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a..b"])
    def test_bad_host_is_one_clear_line(
        self, capsys: pytest.CaptureFixture[str], host: str
    ) -> None:
        """An address of another machine, and what is none at all."""
        assert main(["--host", host, "--port", "0"]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "not an address of this machine" in line

    def test_bad_settings_are_all_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No traceback, nothing started."""
        Path(".env").write_text("RELAY_WIDTH=1\n")
        monkeypatch.setenv("RELAY_COMFYSTREAM_URL", "gpu:8889")
        assert main(["--port", "http"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert [line.split(": ", 1)[1] for line in err.splitlines()] == [
            "--port must be a whole number, not 'http'",
            "RELAY_COMFYSTREAM_URL in the environment must begin with http:// or https://",
            "RELAY_WIDTH in .env must be at least 16, not '1'",
        ]

    def test_unusable_text_workflow_is_a_bad_setting(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The operator learns it now, not the first client."""
        monkeypatch.setenv("RELAY_TEXT_WORKFLOW", "missing.json")
        assert main([]) == 2
        err = capsys.readouterr().err
        assert "RELAY_TEXT_WORKFLOW: the text workflow missing.json can't be read" in err

    def test_print_config_shows_value_and_origin(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Flags, environment, file and defaults, and what was set in vain."""
        Path(".env").write_text("RELAY_WIDTH=640\n")
        monkeypatch.setenv("RELAY_HEIGHT", "360")
        monkeypatch.setenv("RELAY_HIGHT", "1")
        assert main(["--print-config", "--port", "9000"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
        assert rows["RELAY_PORT"] == ["9000", "flag"]
        assert rows["RELAY_HEIGHT"] == ["360", "env"]
        assert rows["RELAY_WIDTH"] == ["640", ".env"]
        assert rows["RELAY_HOST"] == ["0.0.0.0", "default"]
        assert "did you mean RELAY_HEIGHT?" in out

    @pytest.mark.parametrize(
        ("arguments", "code", "word"),
        [
            (["--version"], 0, f"trickle-relay {__version__}"),
            (["--help"], 0, "--print-config"),
            (["--log", "INFO"], 2, "unrecognized arguments: --log"),
        ],
    )
    def test_flags_that_end_at_once(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, word: str
    ) -> None:
        """Version and help answer; abbreviations are not guessed."""
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
        assert word in "".join(capsys.readouterr())
