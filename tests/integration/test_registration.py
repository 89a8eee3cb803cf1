"""Registering with an orchestrator: what it is sent, when, and what may go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import structlog

from relay.api.app import drain
from relay.config.settings import Settings
from relay.registration import Capability, Registration, capacity_of
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import api_client
from tests.peers.orchestrator import SECRET, Orchestrator
from tests.peers.waiting import until

CAPABILITY = Capability(
    orchestrator_url="",
    secret=SECRET,
    name="comfystream",
    description="in words",
    url="http://relay:8890",
    capacity=3,
    price_per_unit=5,
    price_scaling=1,
)


@pytest.fixture
async def orchestrator() -> AsyncIterator[Orchestrator]:
    peer = Orchestrator()
    await peer.start()
    yield peer
    await peer.stop()


def registration(orchestrator: Orchestrator, **options: Any) -> Registration:
    """One that is quick."""
    changes = {n: options.pop(n) for n in ("secret",) if n in options}
    capability = replace(CAPABILITY, orchestrator_url=orchestrator.url, **changes)
    quick = {"repeat_s": 0.02, "retry_first_s": 0.01, "ready_interval_s": 0.01}
    return Registration(
        capability,
        options.pop("capacity_now", lambda: 9),
        http=aiohttp.ClientSession(),
        **(quick | options),
    )


async def test_what_is_registered_and_unregistered(orchestrator: Orchestrator) -> None:
    """The object of pytrickle's client, the bare secret; the bare name at the end."""
    it = registration(orchestrator, token="t0ken")
    it.start()
    await orchestrator.wait_for(lambda: orchestrator.capabilities)
    assert orchestrator.capabilities["comfystream"] == {
        "name": "comfystream",
        "description": "in words",
        "url": "http://relay:8890",
        "capacity": 3,
        "price_per_unit": 5,
        "price_scaling": 1,
        "token": "t0ken",
    }
    await until(lambda: it.registered)
    await it.aclose()
    assert orchestrator.capabilities == {}
    path, authorization, body = orchestrator.requests[-1]
    assert (path, authorization, body) == ("/capability/unregister", SECRET, b"comfystream")
    await it.aclose()
    assert orchestrator.requests[-1][0] == "/capability/unregister"


async def test_it_is_registered_again_after_the_orchestrator_restarted(
    orchestrator: Orchestrator,
) -> None:
    """It has forgotten its workers, and tells nobody."""
    it = registration(orchestrator)
    it.start()
    await orchestrator.wait_for(lambda: orchestrator.capabilities)
    await orchestrator.stop()
    await orchestrator.start()
    await orchestrator.wait_for(lambda: orchestrator.capabilities)
    await it.aclose()


async def test_an_orchestrator_that_comes_late_is_waited_for() -> None:
    """F80: nothing is fatal, and it is told once that nobody is there."""
    peer = Orchestrator()
    await peer.start()
    await peer.stop()
    with structlog.testing.capture_logs() as logs:
        it = registration(peer)
        it.start()
        await until(lambda: it.last_problem)
        assert "refused" in str(it.last_problem).lower()
        await peer.start()
        await peer.wait_for(lambda: peer.capabilities)
        await until(lambda: it.registered)
        await it.aclose()
    await peer.stop()
    failed = [entry for entry in logs if entry["event"] == "registration.failed"]
    assert [entry["reason"] for entry in failed] == ["unreachable"]


async def test_a_wrong_secret_is_told_from_other_refusals(orchestrator: Orchestrator) -> None:
    """Both are 400; neither is repeated in the log; the secret is in none of it, and a corrected
    one on the orchestrator's side is noticed."""
    with structlog.testing.capture_logs() as logs:
        it = registration(orchestrator, secret="wr0ng-secret")
        it.start()
        await orchestrator.wait_for(lambda: len(orchestrator.requests) >= 3)
        await until(lambda: it.last_problem)
        assert not it.registered
        orchestrator.secret = "wr0ng-secret"
        await orchestrator.wait_for(lambda: orchestrator.capabilities)
        await until(lambda: it.registered)
        await it.aclose()
    failed = [entry for entry in logs if entry["event"] == "registration.failed"]
    assert [entry["reason"] for entry in failed] == ["wrong_secret"]
    assert "ORCH_SECRET" in failed[0]["error"]
    assert "wr0ng-secret" not in repr(logs)


async def test_only_what_is_ready_is_registered(orchestrator: Orchestrator) -> None:
    """While the servers load there is nothing to send streams to; nor when they are gone."""
    ready = 0
    it = registration(orchestrator, capacity_now=lambda: ready)
    it.start()
    await asyncio.sleep(0)
    assert orchestrator.requests == []
    ready = 9
    await orchestrator.wait_for(lambda: orchestrator.capabilities)
    await until(lambda: it.registered)
    ready = 0
    await orchestrator.wait_for(lambda: orchestrator.requests[-1][0] == "/capability/unregister")
    await it.aclose()


async def test_the_capacity_is_what_is_there_now(orchestrator: Orchestrator) -> None:
    """No more than the operator said, and no more than the pool has servers; a change is told
    long before the minute is over."""
    there = 9
    it = registration(orchestrator, capacity_now=lambda: there, repeat_s=60.0)
    it.start()
    for servers, capacity in ((9, 3), (2, 2), (3, 3), (1, 1)):
        there = servers
        await orchestrator.wait_for(
            lambda: (
                orchestrator.capabilities.get("comfystream", {}).get("capacity") == capacity  # noqa: B023
            )
        )
    there = 0
    await orchestrator.wait_for(lambda: orchestrator.requests[-1][0] == "/capability/unregister")
    await it.aclose()


async def test_the_service_registers_and_unregisters_first(orchestrator: Orchestrator) -> None:
    """By the settings of pytrickle's names; when it drains, before its streams end."""
    sessions = FakeSessions()
    settings = {
        "orch_url": orchestrator.url,
        "orch_secret": SECRET,
        "capability_url": "http://relay:8890",
        "api_token": "t0ken",
    }
    async with api_client(sessions, **settings) as client:
        await orchestrator.wait_for(lambda: orchestrator.capabilities)
        assert orchestrator.capabilities["comfystream"]["token"] == "t0ken"
        app = client.server.app  # type: ignore[attr-defined]
        await drain(app, asyncio.Event())
        assert orchestrator.capabilities == {}


async def test_the_service_ends_though_the_orchestrator_is_gone() -> None:
    """In time; the registration is never the relay's end."""
    settings = {
        "orch_url": "http://127.0.0.1:9",
        "orch_secret": SECRET,
        "capability_url": "http://relay:8890",
    }
    async with api_client(FakeSessions(), **settings) as client, client.get("/health") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("settings", "capacity"),
    [
        ({}, 1),
        ({"comfystream_urls": ("http://a:1", "http://b:1", "http://c:1")}, 3),
        ({"comfystream_urls": ("http://a:1", "http://b:1"), "max_sessions": 1}, 1),
        ({"capability_capacity": 7}, 7),
        ({"capability_capacity": 7, "max_sessions": 4}, 4),
    ],
)
def test_the_capacity_is_the_pools(settings: dict[str, Any], capacity: int) -> None:
    """One stream a server, unless the operator says otherwise."""
    assert capacity_of(Settings(**settings)) == capacity


def test_without_an_orchestrator_nothing_is_registered() -> None:
    """As without the other two that it takes."""
    assert Capability.of(Settings()) is None
    with pytest.raises(ValueError, match="CAPABILITY_URL"):
        Settings(orch_url="http://orch:8935", orch_secret=SECRET)
