"""The HTTP contract of changing a session that runs, and of asking ComfyStream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.api import live_routes
from relay.changes.session_change import ChangeResult
from relay.errors import BusyError, RelayError, RequestError
from tests.fake_sessions import FakeSession, FakeSessions
from tests.integration.api_client import INVERT, Client, api_client, start_body


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
async def client(sessions: FakeSessions) -> AsyncIterator[Client]:
    async with api_client(sessions) as api:
        async with api.post("/session/start", json=start_body()) as answer:
            assert answer.status == 200
        yield api


@pytest.fixture
def session(client: Client, sessions: FakeSessions) -> FakeSession:
    [running] = sessions.list()
    return running


async def call(
    client: Client, method: str, path: str, body: object = None
) -> tuple[int, dict[str, Any]]:
    async with client.request(method, path, json=body) as answer:
        return answer.status, await answer.json()


async def test_a_change_is_answered_with_what_became_of_it(
    client: Client, session: FakeSession
) -> None:
    """applied and superseded 200; warnings along with them."""
    path, body = f"/session/{session.session_id}", {"prompts": [INVERT], "width": 320}
    for result in (ChangeResult.APPLIED, ChangeResult.SUPERSEDED):
        session.change_result = result
        assert await call(client, "PATCH", path, body) == (
            200,
            {"success": True, "session_id": session.session_id, "result": result.value},
        )
    assert session.changes == [body, body]
    session.change_warnings = ("odd",)
    assert (await call(client, "PATCH", path, body))[1]["warnings"] == ["odd"]


async def test_a_change_that_waits_is_held(
    client: Client, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202, when it is not in force in time."""
    monkeypatch.setattr(live_routes, "HELD_AFTER_S", 0.01)
    session.change_result = ChangeResult.HELD
    path = f"/session/{session.session_id}"
    status, answer = await call(client, "PATCH", path, {"paused": True})
    assert (status, answer["result"]) == (202, "held")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestError("no", code="update_failed", http_status=422), 422),
        (RequestError("taken", code="comfystream_busy", http_status=409), 409),
        (RequestError("over", code="session_ended", http_status=409), 409),
        (BusyError("late", code="update_timeout"), 503),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_change_that_fails_says_why(
    client: Client, session: FakeSession, error: RelayError, status: int, at_once: bool
) -> None:
    """With its status and code, also when it failed later."""
    if at_once:
        session.change_error = error
    else:
        session.change_result = error
    path = f"/session/{session.session_id}"
    async with client.patch(path, json={"paused": True}) as answer:
        assert answer.status == status
        assert ("Retry-After" in answer.headers) is (status == 503)
        body = await answer.json()
    assert (body["success"], body["code"], body["error"]) == (False, error.code, error.message)


async def test_nodes_are_comfystream_s_own(client: Client, session: FakeSession) -> None:
    """As recorded: by workflow, by node id."""
    nodes = {"0": {"2": {"class_type": "ImageInvert", "inputs": {}}}}
    session.reply = {"type": "nodes_info", "nodes": nodes}
    path = f"/session/{session.session_id}/nodes"
    assert await call(client, "GET", path) == (200, {"success": True, "nodes": nodes})
    assert session.asked == [{"type": "get_nodes"}]
    session.reply = BusyError("not connected", code="not_connected")
    status, answer = await call(client, "GET", path)
    assert (status, answer["code"]) == (503, "not_connected")


async def test_any_message_is_passed_through(client: Client, session: FakeSession) -> None:
    """With its reply, or null where there is none."""
    path = f"/session/{session.session_id}/control"
    message = {"type": "of_a_later_version", "x": [1]}
    assert await call(client, "POST", path, message) == (200, {"success": True, "reply": None})
    session.reply = {"type": "done", "success": False, "error": "as it came"}
    assert (await call(client, "POST", path, message))[1]["reply"] == session.reply
    assert session.asked == [message, message]
    for body in ({}, {"type": 7}, {"prompts": []}):
        status, answer = await call(client, "POST", path, body)
        assert (status, answer["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("message", "change", "reply"),
    [
        ({"type": "update_prompts", "prompts": []}, {"prompts": []}, "prompts_updated"),
        (
            {"type": "update_resolution", "width": 64, "height": 64},
            {"width": 64, "height": 64},
            "resolution_updated",
        ),
        ({"type": "pause_prompts"}, {"paused": True}, "prompts_paused"),
        ({"type": "stop_prompts"}, {"paused": True}, "prompts_stopped"),
        ({"type": "resume_prompts"}, {"paused": False}, "prompts_resumed"),
    ],
)
async def test_messages_that_change_the_session_are_changes(
    client: Client,
    session: FakeSession,
    message: dict[str, Any],
    change: dict[str, Any],
    reply: str,
) -> None:
    """Applied in order with all others, answered as ComfyStream would."""
    status, answer = await call(client, "POST", f"/session/{session.session_id}/control", message)
    assert (status, answer["reply"]) == (200, {"type": reply, "success": True})
    assert session.changes == [change]
    assert session.asked == []


@pytest.mark.parametrize(
    ("method", "suffix"), [("PATCH", ""), ("GET", "/nodes"), ("POST", "/control"), ("GET", "/text")]
)
async def test_a_session_that_is_not_there(client: Client, method: str, suffix: str) -> None:
    """404 on every call."""
    status, answer = await call(client, method, f"/session/nobody{suffix}", {"type": "x"})
    assert (status, answer["code"]) == (404, "session_not_found")


async def test_text_as_server_sent_events(client: Client, session: FakeSession) -> None:
    """An event a line, and one for the end; the reader is forgotten when it goes."""
    async with client.get(f"/session/{session.session_id}/text") as events:
        assert events.status == 200
        assert events.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert events.headers["Cache-Control"] == "no-store"
        session.text.see_picture(3000)
        session.text.receive('{"type": "text", "data": "zwei\\nZeilen ü"}')
        async with asyncio.timeout(5):
            line = json.loads((await events.content.readline()).removeprefix(b"data: "))
        assert (line["data"], line["pts"]) == ("zwei\nZeilen ü", 3000)
        assert session.text.status()["listeners"] == 1
        session.text.close()
        async with asyncio.timeout(5):
            assert await events.content.read() == b"\nevent: end\ndata: {}\n\n"
    assert session.text.status()["listeners"] == 0
