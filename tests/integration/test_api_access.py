"""Who may call the API, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fake_sessions import FakeSessions
from tests.integration.api_client import Client, api_client, start_body

TOKEN = "s3cret-Token/with+signs=="
CALLS = [
    ("GET", "/"),
    ("GET", "/sessions"),
    ("GET", "/version"),
    ("POST", "/session/start"),
    ("DELETE", "/session/x"),
    ("GET", "/session/x/status"),
    ("GET", "/no-such-path"),
    ("PUT", "/health/x"),
]


async def call(client: Client, method: str, path: str, **request: Any) -> tuple[int, Any, Any]:
    async with client.request(method, path, **request) as answer:
        body = await answer.json() if answer.content_type == "application/json" else None
        return answer.status, body, answer.headers


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    ("given", "challenge"),
    [
        (None, 'Bearer realm="trickle-relay"'),
        ("Bearer", 'Bearer realm="trickle-relay"'),
        ("Bearer wrong", 'Bearer realm="trickle-relay", error="invalid_token"'),
        (f"Bearer {TOKEN}x", 'Bearer realm="trickle-relay", error="invalid_token"'),
        (f"Basic {TOKEN}", 'Bearer realm="trickle-relay", error="invalid_token"'),
        (f"Bearer {TOKEN} {TOKEN}", 'Bearer realm="trickle-relay", error="invalid_token"'),
        ("Bearer \u00fc\u20ac", 'Bearer realm="trickle-relay", error="invalid_token"'),
    ],
)
async def test_without_the_token_nothing_but_the_probe(
    method: str, path: str, given: str | None, challenge: str
) -> None:
    """401 with a challenge, on every path, before anything is looked at."""
    sessions = FakeSessions()
    headers = {"Authorization": given} if given else {}
    async with api_client(sessions, api_token=TOKEN) as client:
        status, body, answered = await call(
            client, method, path, headers=headers, json=start_body()
        )
        assert (status, body["code"], body["success"]) == (401, "unauthorized", False)
        assert answered["WWW-Authenticate"] == challenge
        assert TOKEN not in body["error"]
        assert (await call(client, "GET", "/health", headers=headers))[0] == 200
    assert sessions.started == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_with_the_token_all_is_as_without_one(scheme: str) -> None:
    """The name of the scheme may be written in any case (RFC 9110, 11.1)."""
    sessions = FakeSessions()
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    async with api_client(sessions, api_token=TOKEN) as client:
        status, body, _ = await call(
            client, "POST", "/session/start", headers=headers, json=start_body()
        )
        assert status == 200, body
        assert (await call(client, "GET", "/nothing", headers=headers))[0] == 404


async def test_a_page_of_an_allowed_origin_may_ask_before_it_sends_the_token() -> None:
    """A preflight can't carry the token; what follows must, and a refusal can be read."""
    origin = "https://app.example"
    ask = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with api_client(FakeSessions(), api_token=TOKEN, cors_origins=(origin,)) as client:
        status, _, headers = await call(client, "OPTIONS", "/session/start", headers=ask)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == origin
        assert "AUTHORIZATION" in headers["Access-Control-Allow-Headers"].upper()
        status, _, headers = await call(client, "GET", "/sessions", headers={"Origin": origin})
        assert status == 401
        assert headers["Access-Control-Allow-Origin"] == origin


async def test_an_options_call_that_is_no_preflight_needs_the_token() -> None:
    """The exception is for browsers' questions alone."""
    async with api_client(FakeSessions(), api_token=TOKEN) as client:
        assert (await call(client, "OPTIONS", "/sessions"))[0] == 401


async def test_a_client_that_asks_too_often_is_told_when_to_come_back() -> None:
    """429 with Retry-After beyond the burst; the probe is always answered."""
    async with api_client(FakeSessions(), requests_per_second=1) as client:
        answers = [await call(client, "GET", "/version") for _ in range(4)]
        assert [status for status, _, _ in answers[:2]] == [200, 200]
        status, body, headers = answers[-1]
        assert (status, body["code"]) == (429, "too_many_requests")
        assert headers["Retry-After"] == "1"
        assert (await call(client, "GET", "/health"))[0] == 200


async def test_wrong_tokens_count_too() -> None:
    """Guessing is limited like everything else."""
    async with api_client(FakeSessions(), requests_per_second=1, api_token=TOKEN) as client:
        statuses = {(await call(client, "GET", "/sessions"))[0] for _ in range(4)}
        assert statuses == {401, 429}


async def test_zero_switches_the_limit_off() -> None:
    """As an operator behind a limiting proxy has it."""
    async with api_client(FakeSessions(), requests_per_second=0) as client:
        assert {(await call(client, "GET", "/version"))[0] for _ in range(500)} == {200}


async def test_more_headers_than_the_bound_are_refused() -> None:
    """So are longer ones than a server has to read; the next client is served on."""
    async with api_client(FakeSessions()) as client:
        for extra in (
            b"".join(b"X-%d: 1\r\n" % number for number in range(200)),
            b"X-Long: " + b"a" * 20_000 + b"\r\n",
            b"X" * 20_000 + b": 1\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(b"GET /sessions HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\n")
            async with asyncio.timeout(10):
                line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert b" 400 " in line, line
        assert (await call(client, "GET", "/sessions"))[0] == 200
