"""The description of the API: it is the file in docs/, and the API does as it says."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relay.api.answers import SessionStatus, SessionSummary
from relay.api.app import build_app
from relay.api.openapi import openapi
from relay.config.settings import Settings
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import api_client
from tests.unit.test_docs import real_status

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "docs" / "openapi.json"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


def test_the_file_in_docs_is_what_the_relay_says() -> None:
    """After a change of a route or a model: `make openapi`, and look at the difference."""
    assert json.loads(GOLDEN.read_text()) == openapi(build_app(Settings(), FakeSessions()))


async def test_it_is_made_once_and_not_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many ask at the same time: media runs on that loop."""
    made_in: list[threading.Thread] = []

    def make(app: web.Application) -> dict[str, Any]:
        made_in.append(threading.current_thread())
        return {"openapi": "3.1.0"}

    monkeypatch.setattr("relay.api.openapi.openapi", make)
    async with api_client(FakeSessions()) as client:

        async def ask() -> Any:
            async with client.get("/openapi.json") as answer:
                assert answer.content_type == "application/json"
                return await answer.json()

        assert await asyncio.gather(ask(), ask(), ask()) == [{"openapi": "3.1.0"}] * 3
    assert len(made_in) == 1
    assert made_in[0] is not threading.main_thread()


def test_every_route_is_described() -> None:
    """Each has words, a shape for its answer, and a name of its own."""
    document = openapi(build_app(Settings(), FakeSessions()))
    operations = [
        (f"{method} {path}", entry)
        for path, methods in document["paths"].items()
        for method, entry in methods.items()
    ]
    assert [name for name, entry in operations if not entry["summary"]] == []
    names = [entry["operationId"] for _, entry in operations]
    assert len(set(names)) == len(names)
    assert {"post /session/start", "post /api/stream/start"} <= {name for name, _ in operations}


async def test_a_real_session_has_the_shape() -> None:
    """The contract's fields, of the types that they are said to have."""
    status = await real_status()
    SessionStatus.model_validate(status, strict=True)
    SessionSummary.model_validate(status, strict=True)


@pytest.mark.timeout(150)
async def test_the_api_does_as_it_says(tmp_path: Path) -> None:
    """Schemathesis sends what the description allows, and what it does not: no answer is a 500, of
    a status or a shape that is not described."""
    async with api_client(FakeSessions(), requests_per_second=0) as client:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "schemathesis.cli", "run"],
            f"http://127.0.0.1:{client.port}/openapi.json",
            *["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"],
            *["--max-examples", "5", "--seed", "1", "--generation-database", "none"],
            # They go on until the session, or the relay, ends.
            *["--exclude-path-regex", "/text$|/events$|mjpeg$|/previews$|ts$"],
            *["--suppress-health-check", "all", "--continue-on-failure", "--no-color"],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,  # it keeps what it found where it runs
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")[-6000:]
