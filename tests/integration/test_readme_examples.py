"""The examples of README.md and docs/api.md, run as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.trickle.publisher import TricklePublisher
from relay.trickle.server import TrickleServer
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import api_client

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
DEADLINE_S = 20.0


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def bodies() -> list[str]:
    """What the curl calls of the README send."""
    return [
        body
        for block in blocks(README, "bash")
        for body in re.findall(r"-d '(.*?)'", block, re.DOTALL)
    ]


async def run_program(source: str) -> asyncio.subprocess.Process:
    """A Python program of the README, in the checkout, its output piped."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-c", source),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_exchange_prints_what_the_readme_shows() -> None:
    """The second program, unchanged, against its own server."""
    _, program = blocks(README, "python")
    shown = README.split(program)[1].split("```\n")[2]
    process = await run_program(program)
    async with asyncio.timeout(DEADLINE_S):
        output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode() == shown


async def test_the_reader_shows_what_a_channel_carries() -> None:
    """The first program, on another port: a line for what was written, and it ends with the
    channel."""
    program, _ = blocks(README, "python")
    async with TrickleServer(port=0) as server:
        url = f"{server.url}demo-processed"
        async with TricklePublisher(url) as publisher:
            async with await publisher.next_segment() as segment:
                await segment.write(bytes(1880))
                process = await run_program(
                    program.replace("http://127.0.0.1:3389/demo-processed", url)
                )
                assert process.stdout is not None
                async with asyncio.timeout(DEADLINE_S):
                    line = await process.stdout.readline()
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await process.communicate()
    assert line == b"0 1880 bytes\n"
    assert (process.returncode, errors) == (0, b"")


async def test_the_session_starts_as_the_readme_says() -> None:
    """Its request is taken, and the answer has the fields that are shown."""
    sessions = FakeSessions()
    async with api_client(sessions) as client:
        response = await client.post("/session/start", data=bodies()[0])
        answer = await response.json()
    shown = json.loads(blocks(README, "json")[0])
    assert (response.status, list(answer)) == (200, list(shown))
    assert sessions.started[0].config.output_stream_url.endswith("/camera-processed")


@pytest.mark.parametrize("page", [README, API], ids=["README.md", "api.md"])
async def test_the_refusal_is_the_one_that_is_shown(page: str) -> None:
    """Word for word, but for the id of the request."""
    [shown] = [
        example
        for example in map(json.loads, blocks(page, "json"))
        if example.get("success") is False
    ]
    async with api_client(FakeSessions()) as client:
        response = await client.post("/session/start", data=bodies()[1])
        answer: dict[str, Any] = await response.json()
    assert response.status == 422
    assert answer | {"request_id": shown["request_id"]} == shown


async def test_short_answers_have_the_fields_that_are_shown() -> None:
    """Of /health and /version, and of a session's end."""
    examples = [json.loads(block) for block in blocks(API, "json")]
    async with api_client(FakeSessions()) as client:
        for path, mark in (("/health", "status"), ("/readyz", "status"), ("/version", "libraries")):
            answer = await (await client.get(path)).json()
            assert list(answer) in [list(example) for example in examples if mark in example]
        started = await (await client.post("/session/start", data=bodies()[0])).json()
        session_id = started["session_id"]
        answer = await (await client.delete(f"/session/{session_id}")).json()
    [shown] = [example for example in examples if "message" in example]
    assert list(answer) == list(shown)
    assert answer["message"] == f"Session {session_id} stopped"
    assert re.fullmatch(r"Session [0-9a-f-]{36} stopped", shown["message"])
