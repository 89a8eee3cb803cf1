"""`check` on the command line: a line for each thing, the remedy, the exit code."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relay.check import preflight
from relay.check.preflight import Finding, Level
from relay.config.settings import Settings
from relay.config.sources import LoadedSettings
from relay.media import self_test
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.peers.ports import free_port
from tests.standin_process import standin_process
from trickle_relay_service import main

pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).parents[2]


async def run_check(*arguments: str) -> tuple[int, str, str]:
    """The command as operators run it: exit code, standard output and error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "trickle_relay_service.py", "check", *arguments],
        cwd=ROOT,
        env={**kept, "RELAY_HOST": "127.0.0.1", "RELAY_PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def found(
    comfystream_url: str, trickle_url: str | None = None, **settings: Any
) -> list[Finding]:
    """The findings, in this process."""
    values = {"host": "127.0.0.1", "port": 0, **settings}
    loaded = LoadedSettings(Settings(**values), {}, ())
    checks = preflight.preflight(loaded, [comfystream_url] if comfystream_url else [], trickle_url)
    return [finding async for finding in checks]


def failures(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.level is Level.FAIL]


async def test_all_is_well() -> None:
    """Against the stand-in and a trickle server, as a process: every line ok, exit 0, and nothing
    is left on either."""
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        code, output, errors = await run_check(
            "--comfystream-url", standin.url, "--trickle-url", trickle.url
        )
        lines = output.splitlines()
        assert (code, errors) == (0, ""), output + errors
        assert [line for line in lines if not line.startswith("ok ")] == []
        assert any(f"{standin.url} returns media: " in line for line in lines)
        assert any("gives the segment back" in line for line in lines)
        state = await standin.wait_state(
            lambda s: not any(c["state"] == "connected" for c in s["connections"])
        )
        assert not any(connection["lost"] for connection in state["connections"])
        assert trickle.stats.channels == 0


async def test_all_is_wrong_as_json() -> None:
    """Nobody listens anywhere: what, the remedy, exit 1; for programs one object."""
    nobody = f"http://127.0.0.1:{free_port()}"
    code, output, errors = await run_check(
        "--json", "--comfystream-url", nobody, "--trickle-url", f"{nobody}/"
    )
    answer = json.loads(output)
    assert (code, errors, answer["success"]) == (1, "", False)
    failed = [finding for finding in answer["findings"] if finding["level"] == "FAIL"]
    assert len(failed) == 2
    assert all(nobody in finding["what"] and finding["remedy"] for finding in failed)


def test_settings_that_can_not_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each fault is a line, and nothing else is tried."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELAY_WIDTH", "511")
    monkeypatch.setenv("RELAY_HEIGHT", "x")
    assert main(["check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["FAIL", "RELAY_WIDTH"],
        ["FAIL", "RELAY_HEIGHT"],
    ]


async def test_a_comfystream_that_refuses() -> None:
    """It answers, and takes no offer: its log is named."""
    async with standin_process("--offer-failure", "500") as standin:
        findings = await found(standin.url)
    [failure] = failures(findings)
    assert "takes no offer: ComfyStream answered 500" in failure
    assert "log" in failure


async def test_a_comfystream_that_returns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected, and silent."""
    monkeypatch.setattr("relay.check.peers.MEDIA_TIMEOUT_S", 1.5)
    async with standin_process("--withhold-media") as standin:
        [failure] = failures(await found(standin.url))
    assert "returns too little media: 0 of 30 frames" in failure


async def test_another_server_than_comfystream() -> None:
    """It speaks HTTP and knows no offers."""
    async with TestServer(web.Application()) as server:
        findings = await found(str(server.make_url("/")))
    [failure] = failures(findings)
    assert "POST /offer is unknown there" in failure


async def test_trickle_servers_that_will_not() -> None:
    """One that makes no channels for us; one that wants a token; none at all."""
    async with standin_process() as standin:
        for options, words in (
            (ServerOptions(autocreate=False), "does not exist"),
            (ServerOptions(token="secret"), "refuses to be published to"),
        ):
            async with TrickleServer(host="127.0.0.1", port=0, options=options) as trickle:
                [failure] = failures(await found(standin.url, trickle.url))
                assert words in failure
        async with TestServer(web.Application()) as server:
            [failure] = failures(await found(standin.url, str(server.make_url("/"))))
            assert "takes no segments" in failure


async def test_names_and_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve; one to which the relay may not connect."""
    findings = failures(await found("http://no-such-host.invalid:8889"))
    assert any(line.startswith("FAIL DNS no-such-host.invalid") for line in findings)
    url = f"http://127.0.0.1:{free_port()}"
    findings = failures(await found(url, allowed_hosts="media.example.com"))
    assert any("RELAY_ALLOWED_HOSTS" in line for line in findings)


async def test_each_port_of_a_host_is_looked_at() -> None:
    """A host may be allowed on one port and not on the next."""
    one, two = free_port(), free_port()
    findings = await found(
        f"http://127.0.0.1:{one}",
        f"http://127.0.0.1:{two}/",
        allowed_hosts=f"127.0.0.1:{two}",
    )
    refused = [line for line in failures(findings) if "RELAY_ALLOWED_HOSTS" in line]
    assert any(f"host 127.0.0.1, port {one}" in line for line in refused)
    assert any(f"host 127.0.0.1, port {two}, resolves" in str(line) for line in findings)


async def test_addresses_that_are_none() -> None:
    """Each is a line; what else was asked for is tried."""
    nobody = f"http://127.0.0.1:{free_port()}"
    findings = failures(await found("http://[::1/x", "gpu:8889"))
    assert [line.split(":")[0] for line in findings] == [
        "FAIL --comfystream-url",
        "FAIL --trickle-url",
    ]
    findings = failures(await found(nobody, "http://h:port"))
    assert any(nobody in line for line in findings)


async def test_ports_that_are_taken(tmp_path: Path) -> None:
    """UDP ports, all of them: it can't work. The TCP port: a relay may run already."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        udp.bind(("0.0.0.0", 0))
        taken, port = udp.getsockname()[1], tcp.getsockname()[1]
        findings = await found(nobody, udp_ports=f"{taken}-{taken}", port=port)
    assert any(line.startswith("FAIL UDP: no port can be bound") for line in failures(findings))
    warnings = [str(finding) for finding in findings if finding.level is Level.WARN]
    assert any(f"port {port} can't be listened on" in line for line in warnings)


async def test_too_few_ports_are_a_warning() -> None:
    """Two sessions that reconnect need three."""
    first = free_port()
    findings = await found(
        f"http://127.0.0.1:{free_port()}", udp_ports=f"{first}-{first}", max_sessions=2
    )
    assert any("UDP: 1 ports are enough for 0 sessions" in str(finding) for finding in findings)


async def test_folders_and_files(tmp_path: Path) -> None:
    """What the settings name is looked at, too."""
    wrong = tmp_path / "text.json"
    wrong.write_text("{}")
    findings = await found(
        f"http://127.0.0.1:{free_port()}",
        text_workflow=wrong,
        workflow_dir=tmp_path / "nowhere",
        state_dir=tmp_path / "state",
    )
    failed = " ".join(failures(findings))
    assert "RELAY_TEXT_WORKFLOW" in failed
    assert "RELAY_WORKFLOW_DIR" in failed
    assert any(
        finding.level is Level.OK and "RELAY_STATE_DIR" in finding.what for finding in findings
    )
    assert not (tmp_path / "state").exists()


async def test_a_build_without_a_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried, not looked up: what raises, or gives nothing, fails."""

    def broken() -> int:
        raise ValueError("no encoder libx264")

    monkeypatch.setitem(self_test.TESTS, "H.264, encode and decode", (broken, 5))
    monkeypatch.setitem(self_test.TESTS, "HEVC, decode", (lambda: 0, 5))
    failed = failures(await found(f"http://127.0.0.1:{free_port()}"))
    assert "FAIL codec H.264, encode and decode: no encoder libx264" in failed[0]
    assert "0 of 5 frames came out" in failed[1]


@pytest.mark.parametrize("name", self_test.TESTS)
def test_this_build_has_every_codec(name: str) -> None:
    """Each really encodes and decodes."""
    assert self_test.try_codec(name) is None
