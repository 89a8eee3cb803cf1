"""Events as server-sent events, and logs, over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from relay.api import event_stream
from relay.observe.event_hub import EVENTS_FOR_A_LISTENER, MOST_LISTENERS, EventKind
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import Client, api_client, start_body


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
async def client(sessions: FakeSessions) -> AsyncIterator[Client]:
    async with api_client(sessions) as api:
        yield api


async def start(client: Client) -> str:
    async with client.post("/session/start", json=start_body()) as answer:
        return str((await answer.json())["session_id"])


async def block(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event, with its JSON; a comment has its text only."""
    event: dict[str, Any] = {}
    async with asyncio.timeout(10.0):
        while line := (await response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            event[name or "comment"] = json.loads(value) if name == "data" else value
    return event


async def listening(sessions: FakeSessions, count: int = 1) -> None:
    async with asyncio.timeout(10.0):
        while sessions.events.listeners != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_event_has_an_id_a_name_and_data(client: Client, sessions: FakeSessions) -> None:
    """As a browser's EventSource reads them; nothing on the way may keep or collect them."""
    async with client.get("/events") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        sessions.events.publish(EventKind.STATE, "a", new="active", text="zwei\nZeilen")
        event = await block(response)
        assert event["event"] == "state"
        assert event["id"] == f"{sessions.events.run_id}-1"
        assert event["data"]["session_id"] == "a"
        assert event["data"]["text"] == "zwei\nZeilen"
        sessions.events.close()
        assert await block(response) == {"event": "end", "data": {}}
        assert await response.content.read() == b""


async def test_a_lost_connection_loses_no_event(client: Client, sessions: FakeSessions) -> None:
    """The browser names the last event that it read, and gets those since."""
    session_id = await start(client)
    async with client.get(f"/session/{session_id}/events") as response:
        sessions.events.publish(EventKind.STATE, session_id, new="1")
        last = (await block(response))["id"]
    sessions.events.publish(EventKind.STATE, session_id, new="2")
    sessions.events.publish(EventKind.STATE, "another", new="3")
    headers = {"Last-Event-ID": last}
    async with client.get(f"/session/{session_id}/events", headers=headers) as response:
        assert (await block(response))["data"]["new"] == "2"
        sessions.events.end_of(session_id)
        assert (await block(response))["event"] == "end"


async def test_of_a_session_that_has_ended_there_is_its_history(
    client: Client, sessions: FakeSessions
) -> None:
    """Then the end, at once."""
    session_id = await start(client)
    sessions.events.publish(EventKind.STATE, session_id, new="stopped")
    await (await client.delete(f"/session/{session_id}")).read()
    async with client.get(f"/session/{session_id}/events?history=true") as response:
        assert (await block(response))["data"]["new"] == "stopped"
        assert (await block(response))["event"] == "end"


async def test_silence_has_a_heartbeat(
    client: Client, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment now and then, so that nobody on the way takes the connection for dead."""
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    async with client.get("/events") as response:
        assert "comment" in await block(response)


async def test_a_reader_that_goes_makes_room(
    client: Client, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed with the next thing that is sent to him; he was not too slow."""
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    async with client.get("/events"):
        await listening(sessions)
    await listening(sessions, 0)
    assert sessions.events.listeners_too_slow == 0


async def test_a_reader_that_does_not_read_is_let_go_of(
    client: Client, sessions: FakeSessions
) -> None:
    """His connection ends, and others never wait."""
    with socket.create_connection(("127.0.0.1", client.port or 0)) as raw:
        raw.sendall(b"GET /events HTTP/1.1\r\nHost: relay\r\n\r\n")
        await listening(sessions)
        async with client.get("/events") as response:
            for number in range(4 * EVENTS_FOR_A_LISTENER):
                sessions.events.publish(EventKind.STATE, "a", new=number, filler="x" * 50_000)
                assert (await block(response))["data"]["new"] == number
            assert sessions.events.listeners_too_slow == 1
            assert sessions.events.listeners == 1


async def test_too_many_are_told_to_come_later(client: Client, sessions: FakeSessions) -> None:
    """With 503 and Retry-After."""
    for _ in range(MOST_LISTENERS):
        sessions.events.listen()
    async with client.get("/events") as response:
        assert response.status == 503
        assert (await response.json())["code"] == "too_many_listeners"
        assert "Retry-After" in response.headers


async def test_wrong_questions_are_refused(client: Client) -> None:
    """No such session; a word that is neither yes nor no."""
    for path in ("/session/nobody/events", "/session/nobody/logs"):
        async with client.get(path) as response:
            assert (response.status, (await response.json())["code"]) == (404, "session_not_found")
    async with client.get("/events?history=perhaps") as response:
        assert response.status == 422


async def test_the_log_of_a_session(client: Client, sessions: FakeSessions) -> None:
    """Its lines as objects, also when it has ended."""
    session_id = await start(client)
    sessions.logs.begin(session_id)
    line = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "event": "session.state"}
    sessions.logs.keep(line | {"session_id": session_id, "new": "active"})
    await (await client.delete(f"/session/{session_id}")).read()
    async with client.get(f"/session/{session_id}/logs") as response:
        assert await response.json() == {
            "success": True,
            "session_id": session_id,
            "lines": [line | {"session_id": session_id, "new": "active"}],
            "lines_before": 0,
        }
