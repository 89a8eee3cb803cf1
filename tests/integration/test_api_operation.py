"""What supervisors, load balancers and scrapers ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from relay.api.metrics_routes import metrics_app
from relay.config.settings import Settings
from relay.errors import BusyError
from relay.observe.event_hub import EventKind
from relay.observe.load_meter import Load
from relay.observe.loop_lag import LAGGING_S, LoopLag
from relay.observe.tally import Tally
from relay.session.admission import WINDOW_S
from relay.session.manager import SessionManager
from relay.session_config import SessionConfig
from tests.e2e.relay_process import relay_process
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import Client, api_client, start_body
from tests.peers.ports import free_port

CONFIG = SessionConfig("http://127.0.0.1:1/in", "http://127.0.0.1:1/out", "http://127.0.0.1:1")


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
async def client(sessions: FakeSessions) -> AsyncIterator[Client]:
    async with api_client(sessions) as api:
        yield api


async def scrape(client: Any, **headers: str) -> str:
    async with client.get("/metrics", headers=headers) as response:
        assert response.status == 200
        return str(await response.text())


async def test_requests_are_counted_without_what_strangers_choose(client: Client) -> None:
    """By route, whatever ids and paths are asked for; a method that is none is no label."""
    for path in ("/sessions", "/session/a/status", "/session/b/status", "/nothing/here"):
        await (await client.get(path)).read()
    await (await client.request("PROPFIND", "/sessions")).read()
    text = await scrape(client)
    count = 'trickle_relay_http_requests_total{method="%s",route="%s",status="%s"} %s'
    assert count % ("GET", "/sessions", 200, "1.0") in text
    assert count % ("GET", "/session/{session_id}/status", 404, "2.0") in text
    assert count % ("GET", "none", 404, "1.0") in text
    assert 'method="other"' in text
    assert "PROPFIND" not in text
    assert "/nothing" not in text


async def test_a_scrape_looks_first(client: Client, sessions: FakeSessions) -> None:
    """What only asking tells is asked for; sessions stay together unless that is wanted."""
    tally = Tally()
    tally.stands("queue_depth", "decoded_frames", at=3)
    sessions.session_tallies["abc"] = tally
    assert 'trickle_relay_queue_depth{queue="decoded_frames"} 3.0' in await scrape(client)
    assert sessions.measured == 1
    async with api_client(sessions, metrics_per_session=True) as apart:
        assert (
            'trickle_relay_queue_depth{queue="decoded_frames",session_id="abc"} 3.0'
            in await scrape(apart)
        )


async def test_metrics_want_the_token_except_on_their_own_port(sessions: FakeSessions) -> None:
    """Where the API has one; the other port has nothing else."""
    async with api_client(sessions, api_token="secret") as client:
        async with client.get("/metrics") as response:
            assert response.status == 401
        await scrape(client, Authorization="Bearer secret")
        for path in ("/healthz", "/readyz", "/health"):
            async with client.get(path) as response:
                assert response.status == 200
        async with client.get("/capacity") as response:
            assert response.status == 401
        server = client.server
        assert isinstance(server, TestServer)
        async with TestClient[web.Request, web.Application](
            TestServer(metrics_app(server.app))
        ) as alone:
            assert "trickle_relay_build_info" in await scrape(alone)
            async with alone.get("/sessions") as response:
                assert response.status == 404


async def test_a_dead_supervisor_is_a_reason_to_restart(
    client: Client, sessions: FakeSessions
) -> None:
    """503 with its name; until then 200."""
    async with client.get("/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "alive"})
    sessions.dead = ["watcher"]
    async with client.get("/healthz") as response:
        assert response.status == 503
        answer = await response.json()
        assert answer["code"] == "supervisor_died"
        assert "watcher" in answer["error"]


async def test_what_is_taken(client: Client, sessions: FakeSessions) -> None:
    """Sessions that run, of those that may."""
    await (await client.post("/session/start", json=start_body())).read()
    async with client.get("/capacity") as response:
        answer = await response.json()
    assert (answer["active"], answer["max"], answer["success"]) == (1, sessions.capacity, True)


# -- the real manager ------------------------------------------------------------------------------


@asynccontextmanager
async def manager(**settings: Any) -> AsyncIterator[SessionManager]:
    found = SessionManager(Settings(**settings))
    await found.start()
    try:
        yield found
    finally:
        await found.aclose(timeout_s=1.0)


async def test_nothing_is_ready_before_the_start_and_after_the_end() -> None:
    """Not ready is not dead: nobody is to restart what starts or ends."""
    found = SessionManager(Settings())
    assert (found.why_unready() or pytest.fail("ready")).code == "draining"
    assert found.dead_supervisors() == []
    await found.start()
    assert found.why_unready() is None
    assert found.health()["ready"] is True
    await found.aclose(timeout_s=1.0)
    assert (found.why_unready() or pytest.fail("ready")).code == "draining"
    assert found.dead_supervisors() == []
    assert found.health()["problem"] == "draining"


async def test_a_supervisor_that_died_is_named() -> None:
    """Whatever killed it."""
    async with manager() as found:
        assert found.dead_supervisors() == []
        await found._watcher.aclose()
        assert found.dead_supervisors() == ["watcher"]


async def test_full_is_not_ready_and_counts_as_load() -> None:
    """One of one: load 1.0; when it has ended its counts remain."""
    async with manager(max_sessions=1) as found:
        assert found.occupancy()["load"] < 1
        session = await found.start_session(CONFIG)
        assert (found.why_unready() or pytest.fail("ready")).code == "full"
        assert {"active": 1, "reserved": 0, "max": 1, "load": 1.0}.items() <= (
            found.occupancy().items()
        )
        await found.measure()
        [(_, own), (name, tally)] = await found.tallies()
        assert name == session.session_id
        assert tally.gauges["sessions", ("starting",)] == 1
        await found.stop_session(session.session_id)
        [(_, own)] = await found.tallies()
        assert own.totals["sessions_started_total", ()] == 1
        assert own.totals["sessions_ended_total", ("requested",)] == 1
        assert found.why_unready() is None


async def test_a_loop_that_lags_is_not_ready_and_recovers() -> None:
    """Late again and again; a single hiccup is forgiven. A start is not refused for it."""
    async with manager() as found:
        lag = found._load.loop_lag
        lag.note(5.0)
        assert found.why_unready() is None
        for _ in range(8):
            lag.note(LAGGING_S)
        problem = found.why_unready()
        assert problem is not None
        assert problem.code == "lagging"
        assert found.why_not_ready() is None
        for _ in range(50):
            lag.note(0.001)
        assert found.why_unready() is None
        assert found.occupancy()["event_loop_lag_ms"] == 1.0


async def test_a_busy_relay_takes_no_session_and_says_so() -> None:
    """503 `overloaded` for a start and for `/readyz`, told once at its beginning and its end; those
    that run go on."""
    async with manager() as found:
        session = await found.start_session(CONFIG)
        listener = found.events.listen(None)
        assert listener is not None
        for _ in range(WINDOW_S):
            found._load.note(Load(cpu=0.95))
        with pytest.raises(BusyError) as caught:
            await found.start_session(replace(CONFIG, output_stream_url="http://127.0.0.1:1/out2"))
        assert caught.value.code == "overloaded"
        assert (found.why_unready() or pytest.fail("ready")).code == "overloaded"
        assert found.occupancy()["problem"] == "overloaded"
        assert not session.state.final
        for _ in range(WINDOW_S):
            found._load.note(Load(cpu=0.1))
        assert found.why_unready() is None
        assert found.occupancy()["problem"] is None
        [(_, own), *_] = await found.tallies()
        assert own.totals["sessions_refused_total", ("overloaded",)] == 1
        told: list[Any] = []
        async with asyncio.timeout(5.0):
            while len(told) < 2:
                if (event := await listener.get()).kind is EventKind.RELAY:
                    told.append(json.loads(event.data)["problem"])
        assert told == ["overloaded", None]


async def test_a_start_counts_itself_once() -> None:
    """Two at 30 % leave room for a third, though the third is already being started."""
    async with manager() as found:
        for number in range(2):
            await found.start_session(
                replace(CONFIG, output_stream_url=f"http://127.0.0.1:1/out{number}")
            )
        for _ in range(WINDOW_S):
            found._load.note(Load(cpu=0.58))
        await found.start_session(CONFIG)
        assert len(found.list()) == 3


async def test_the_lag_is_measured() -> None:
    """A loop that is held for a tenth of a second is that late to what was due."""
    lag = LoopLag(interval_s=0.01)
    lag.start()
    assert lag.alive
    await asyncio.sleep(0)  # it sleeps now
    time.sleep(0.1)  # noqa: ASYNC251
    async with asyncio.timeout(5.0):
        while not sum(lag.histogram.counts):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await lag.aclose()
    await lag.aclose()
    assert not lag.alive
    assert lag.worst_s > 0.08


async def test_starts_under_way_are_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others must not count on any more."""
    async with manager(max_sessions=4) as found:
        may_go = asyncio.Event()
        checked = found._check_hosts

        async def slow(config: SessionConfig) -> None:
            await may_go.wait()
            await checked(config)

        monkeypatch.setattr(found, "_check_hosts", slow)
        starting = asyncio.ensure_future(found.start_session(CONFIG))
        await asyncio.sleep(0)
        assert found.occupancy()["reserved"] == 1
        assert found.occupancy()["load"] >= 0.25
        may_go.set()
        await starting
        assert found.occupancy()["reserved"] == 0


async def test_a_port_of_its_own() -> None:
    """As a process: RELAY_METRICS_PORT answers beside the API."""
    port = free_port()
    async with relay_process(metrics_port=str(port), api_token="secret") as relay:
        await relay.logged("relay.metrics_listening", port=port)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
                assert response.status == 200
                assert "trickle_relay_build_info" in await response.text()
