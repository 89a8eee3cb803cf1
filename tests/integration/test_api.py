"""The HTTP contract: the calls, their answers, and what surrounds them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay import __version__
from relay.api.models import session_config_from
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import INVERT, Client, api_client, start_body

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
async def client(sessions: FakeSessions) -> AsyncIterator[Client]:
    async with api_client(sessions) as api:
        yield api


async def start(client: Client, **changes: Any) -> dict[str, Any]:
    async with client.post("/session/start", json=start_body(**changes)) as answer:
        assert answer.status == 200
        return dict(await answer.json())


async def get(client: Client, path: str) -> dict[str, Any]:
    async with client.get(path) as answer:
        assert answer.status == 200
        return dict(await answer.json())


async def test_start_answers_with_the_session_id_and_nothing_else(
    client: Client, sessions: FakeSessions
) -> None:
    """The answer clients of the original relay expect, to the field."""
    answer = await start(client, prompts=[INVERT], width=640, height=480)
    assert answer.keys() == {"success", "session_id"}
    assert answer["success"] is True
    assert UUID.fullmatch(answer["session_id"])
    config = sessions.sessions[answer["session_id"]].config
    assert config.prompts == [INVERT]
    assert (config.width, config.height) == (640, 480)
    assert config.output_stream_url == "http://127.0.0.1:3389/camera-processed"


async def test_start_warns_of_what_was_understood_differently(client: Client) -> None:
    """Warnings come in the answer and stay in the status."""
    answer = await start(client, width=513, prompts={"text": "a cat"})
    assert len(answer["warnings"]) == 2
    status = await get(client, f"/session/{answer['session_id']}/status")
    assert status["session"]["warnings"] == answer["warnings"]


async def test_text_prompts_use_the_operators_workflow(
    sessions: FakeSessions, tmp_path: Path
) -> None:
    """With a text workflow the words reach ComfyStream, and there is nothing to warn of."""
    workflow = INVERT | {"4": {"class_type": "Style", "inputs": {"text": "{{prompt}}"}}}
    path = tmp_path / "text.json"
    path.write_text(json.dumps(workflow))
    async with api_client(sessions, text_workflow=path) as client:
        answer = await start(client, prompts={"text": "a cat"})
    assert "warnings" not in answer
    [session] = sessions.started
    assert session.config.prompts[0]["4"]["inputs"]["text"] == "a cat"


async def test_status_lists_and_stop(client: Client) -> None:
    """A session's life over the API."""
    session_id = (await start(client))["session_id"]
    status = await get(client, f"/session/{session_id}/status")
    assert status["success"] is True
    assert status["session"].keys() >= {
        "session_id",
        "status",
        "input_stream_url",
        "output_stream_url",
        "comfystream_url",
        "width",
        "height",
        "created_at",
        "queue_sizes",
        "webrtc_state",
    }
    listed = await get(client, "/sessions")
    assert listed["success"] is True
    [entry] = listed["sessions"]
    assert entry.keys() == {
        "session_id",
        "status",
        "input_stream_url",
        "output_stream_url",
        "created_at",
    }
    async with client.delete(f"/session/{session_id}") as answer:
        assert answer.status == 200
        assert await answer.json() == {
            "success": True,
            "message": f"Session {session_id} stopped",
        }
    assert await get(client, "/sessions") == {"success": True, "sessions": []}


async def test_sessions_that_ended_are_listed_on_demand(client: Client) -> None:
    """`?ended=true` lists them instead of those that run; another word is refused by name."""
    running = (await start(client))["session_id"]
    stopped = (await start(client, output_stream_url="http://h/other"))["session_id"]
    async with client.delete(f"/session/{stopped}"):
        pass
    for query, expected in (("", running), ("?ended=false", running), ("?ended=true", stopped)):
        [entry] = (await get(client, f"/sessions{query}"))["sessions"]
        assert entry["session_id"] == expected
    async with client.get("/sessions?ended=perhaps") as answer:
        assert answer.status == 422
        assert (await answer.json())["details"][0]["field"] == "ended"


async def test_second_stop_finds_no_session(client: Client) -> None:
    """Stopping twice is a 404, not a failure."""
    session_id = (await start(client))["session_id"]
    async with client.delete(f"/session/{session_id}"):
        pass
    async with client.delete(f"/session/{session_id}") as answer:
        assert answer.status == 404
        assert (await answer.json())["code"] == "session_not_found"


async def test_health_and_version(client: Client) -> None:
    """What probes and people ask first."""
    assert (await get(client, "/health"))["status"] == "healthy"
    assert (await get(client, "/version"))["version"] == __version__


async def test_page_lists_sessions_and_runs_nothing_of_theirs(
    client: Client, sessions: FakeSessions
) -> None:
    """A stream's address is text on the page, whatever it holds."""
    await start(client, input_stream_url="http://h/<script>alert(1)</script>")
    async with client.get("/") as answer:
        text = await answer.text()
        assert answer.content_type == "text/html"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script>" not in text
    assert next(iter(sessions.sessions)) in text


async def test_head_works_where_get_does(client: Client) -> None:
    """Load balancers probe with HEAD."""
    async with client.head("/health") as answer:
        assert answer.status == 200


async def test_request_id_is_given_back_or_made(client: Client) -> None:
    """Every answer can be found in the log again; a hostile id is replaced."""
    async with client.get("/health", headers={"X-Request-ID": "gateway-7"}) as answer:
        assert answer.headers["X-Request-ID"] == "gateway-7"
    async with client.get("/nowhere", headers={"X-Request-ID": "a b\tc"}) as answer:
        made = answer.headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        assert (await answer.json())["request_id"] == made
    async with client.post("/session/start", json=start_body()) as answer:
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])


async def test_log_line_names_request_and_session_but_no_query(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    """What an operator greps for is there; what a caller put in the query is not."""
    session_id = (await start(client))["session_id"]
    headers = {"X-Request-ID": "gateway-7"}
    async with client.delete(f"/session/{session_id}?token=hunter2", headers=headers):
        pass
    [line] = [x for x in capfd.readouterr().out.splitlines() if "DELETE" in x]
    assert f"session_id={session_id}" in line
    assert "request_id=gateway-7" in line
    assert "status=200" in line
    assert "hunter2" not in line


async def test_sessions_live_with_the_server(sessions: FakeSessions) -> None:
    """They are started with it and drained before it is gone, in less than the time to stop."""
    async with api_client(sessions, stop_timeout_s=2.0) as client:
        assert sessions.running
        await start(client)
    assert not sessions.running
    assert sessions.sessions == {}
    assert sessions.drain_timeout_s is not None
    assert 1.0 <= sessions.drain_timeout_s < 2.0


@pytest.mark.parametrize("close_after", ["start_is_under_way", "body_is_half_sent"])
async def test_client_that_goes_away_leaves_no_session(
    client: Client, sessions: FakeSessions, close_after: str
) -> None:
    """A session whose id nobody learnt would run for ever."""
    sessions.may_start.clear()
    body = json.dumps(start_body()).encode()
    head = f"POST /session/start HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    if close_after == "start_is_under_way":
        writer.write(head.encode() + body)
        await asyncio.wait_for(sessions.entered.wait(), 5)
    else:
        writer.write(head.encode() + body[: len(body) // 2])
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    # The server has seen the close when it has served another connection after it.
    for _ in range(3):
        async with client.get("/health"):
            pass
    sessions.may_start.set()
    if close_after == "start_is_under_way":
        await asyncio.wait_for(sessions.stopped.wait(), 5)
        assert len(sessions.started) == 1
    assert sessions.sessions == {}


class TestCors:
    """Pages of other origins: only those the operator named."""

    async def test_no_origin_is_allowed_by_default(self, client: Client) -> None:
        """Nothing in the answers invites a browser."""
        async with client.get("/sessions", headers={"Origin": "https://a.example"}) as answer:
            assert not [name for name in answer.headers if name.startswith("Access-Control")]

    async def test_named_origin_is_allowed_without_credentials(
        self, sessions: FakeSessions
    ) -> None:
        """Preflight, answer and error answer carry the origin; never a star, never cookies."""
        origin = {"Origin": "https://a.example"}
        async with api_client(sessions, cors_origins=("https://a.example",)) as client:
            async with client.options(
                "/session/start",
                headers=origin
                | {
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "content-type",
                },
            ) as preflight:
                assert preflight.status == 200
                assert preflight.headers["Access-Control-Allow-Origin"] == "https://a.example"
                assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
                assert "Access-Control-Allow-Credentials" not in preflight.headers
            for body in (start_body(), {}):
                async with client.post("/session/start", json=body, headers=origin) as answer:
                    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
                    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]

    async def test_foreign_origin_gets_nothing(self, sessions: FakeSessions) -> None:
        """Neither the preflight nor the answer lets it in."""
        origin = {"Origin": "https://evil.example"}
        async with api_client(sessions, cors_origins=("https://a.example",)) as client:
            async with client.options(
                "/session/start", headers=origin | {"Access-Control-Request-Method": "POST"}
            ) as preflight:
                assert preflight.status == 403
                assert (await preflight.json())["success"] is False
            async with client.get("/sessions", headers=origin) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1"])
    async def test_foreign_page_can_not_start_blindly(
        self, client: Client, sessions: FakeSessions, origin: str
    ) -> None:
        """A page may post text/plain without asking first; its Origin header gives it away."""
        async with client.post(
            "/session/start",
            data=json.dumps(start_body()),
            headers={"Origin": origin, "Content-Type": "text/plain"},
        ) as answer:
            assert answer.status == 403
            assert (await answer.json())["code"] == "origin_not_allowed"
        assert sessions.started == []

    async def test_own_page_may(self, client: Client) -> None:
        """The relay's own page has its address as origin."""
        origin = {"Origin": f"http://127.0.0.1:{client.port}"}
        async with client.post("/session/start", json=start_body(), headers=origin) as answer:
            assert answer.status == 200


async def test_a_start_is_checked_off_the_event_loop(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workflows may be megabytes, and media runs on that loop."""
    checked_in: list[threading.Thread] = []

    def check(*arguments: Any) -> Any:
        checked_in.append(threading.current_thread())
        return session_config_from(*arguments)

    monkeypatch.setattr("relay.api.session_routes.session_config_from", check)
    async with client.post("/session/start", json=start_body()) as answer:
        assert answer.status == 200
    assert checked_in
    assert threading.main_thread() not in checked_in


PAGE = {"Accept-Language": "", "Accept-Encoding": "gzip, deflate"}
"""What no page can take away from its GET over plain HTTP, as measured with Chromium."""


class TestNames:
    """A page whose name was made to resolve to the relay is of no other origin to the browser."""

    @pytest.mark.parametrize("path", ["/", "/sessions", "/openapi.json"])
    @pytest.mark.parametrize("sent", [PAGE, {"Sec-Fetch-Site": "same-origin"}])
    async def test_a_strange_name_is_refused(
        self, client: Client, path: str, sent: dict[str, str]
    ) -> None:
        """Also what only reads, and with what to do."""
        for host in ("evil.example", "evil.example:8890", "127.0.0.1.evil.example", "[::1", ""):
            async with client.get(path, headers=sent | {"Host": host}) as answer:
                assert answer.status == 403
                error = await answer.json()
            assert error["code"] == "origin_not_allowed"
            assert "RELAY_API_TOKEN" in error["error"]

    async def test_a_strange_name_may_start_nothing(
        self, client: Client, sessions: FakeSessions
    ) -> None:
        """Origin and Host are the same, and neither is the relay's."""
        headers = {"Origin": "http://evil.example:8890", "Host": "evil.example:8890"}
        async with client.post("/session/start", json=start_body(), headers=headers) as answer:
            assert answer.status == 403
        assert sessions.started == []

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1:8890", "[fd00::1]:8890", "10.1.2.3", "LOCALHOST:8890", "relay.localhost"],
    )
    async def test_the_relay_s_own_names(self, client: Client, host: str) -> None:
        """No stranger's DNS answers for them."""
        async with client.get("/sessions", headers=PAGE | {"Host": host}) as answer:
            assert answer.status == 200

    async def test_names_of_the_operator(self, sessions: FakeSessions) -> None:
        """The one it listens on, hosts of named origins, and what pages of those ask."""
        origins = ("https://a.example", "http://gpu-box:8890")
        async with api_client(sessions, cors_origins=origins, host="Relay.example") as client:
            for headers in (
                PAGE | {"Host": "gpu-box:8890"},
                PAGE | {"Host": "relay.example:8890"},
                {"Origin": "https://a.example", "Host": "somewhere.example"},
            ):
                async with client.get("/sessions", headers=headers) as answer:
                    assert answer.status == 200

    async def test_a_token_is_enough(self, sessions: FakeSessions) -> None:
        """A strange page does not have it."""
        headers = PAGE | {"Host": "evil.example", "Authorization": "Bearer secret-token"}
        async with api_client(sessions, api_token="secret-token") as client:
            async with client.get("/sessions", headers=headers) as answer:
                assert answer.status == 200

    @pytest.mark.parametrize(
        "sent",
        [
            {"Accept-Encoding": "gzip, deflate"},  # aiohttp, requests, Prometheus, probes
            {"Accept-Language": "en", "Accept-Encoding": "identity"},  # players
            {"Accept-Language": "*", "Accept-Encoding": "gzip", "Sec-Fetch-Mode": "cors"},  # Node
        ],
    )
    async def test_programs_may_use_any_name(self, client: Client, sent: dict[str, str]) -> None:
        """As a service of compose, of Kubernetes, or in anybody's DNS."""
        async with client.get("/sessions", headers=sent | {"Host": "relay:8890"}) as answer:
            assert answer.status == 200
