"""Which server of the pool a session gets, why nobody does, and warming up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from relay.comfystream.leases import ServerLeases
from relay.comfystream.pool import COOLDOWN_FIRST_S, ServerPool
from relay.comfystream.quarantine import QuarantineRules
from relay.comfystream.warm_up import ATTEMPTS, WarmUp
from relay.config.settings import Settings
from relay.errors import BusyError, ProcessingError
from relay.processing.server_choice import ServerChoice
from relay.session_config import SessionConfig
from tests.peers.probed_server import ProbedServer, probed_server
from tests.peers.waiting import until

WORKFLOW = {"1": {"class_type": "LoadTensor", "inputs": {}}}
DEADLINE_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pool:
    """A pool on a clock of its own, with two servers that are there and the address of a third
    where nobody listens."""

    def __init__(self, http: aiohttp.ClientSession, servers: list[ProbedServer], gone: str) -> None:
        self.clock = Clock()
        self.http = http
        self.first, self.second = servers
        self.gone = gone
        self.leases = ServerLeases(QuarantineRules(settle_s=0.0), http, clock=self.clock)

    def of(self, *urls: str) -> ServerPool:
        return ServerPool(urls, self.leases, self.http, clock=self.clock)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def pools() -> AsyncIterator[Pool]:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(probed_server()) for _ in range(2)]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Pool(http, servers, f"http://127.0.0.1:{closed_port()}")


async def test_the_one_that_can_be_used_is(pools: Pool) -> None:
    """F70: one is down, one is used by a stranger, the third is taken."""
    pools.first.streams = {"stranger": {}}
    pool = pools.of(pools.gone, pools.first.url, pools.second.url)
    assert (await pool.choose(prompts=True)).url == pools.second.url


async def test_why_nobody_is_free_is_said_of_each(pools: Pool) -> None:
    """F70: every server's own reason, and when to ask again."""
    pools.first.streams = {"stranger": {}}
    pools.leases.acquire(pools.second.url, "session-7")
    pool = pools.of(pools.gone, pools.first.url, pools.second.url)
    with pytest.raises(BusyError) as caught:
        await pool.choose(prompts=True)
    assert (caught.value.http_status, caught.value.code) == (503, "no_server_free")
    assert caught.value.retry_after_s >= 1
    problems = [entry["problem"] for entry in caught.value.details["servers"]]
    assert "connection refused" in problems[0]
    assert "somebody else" in problems[1]
    assert "session-7" in problems[2]
    assert all(problem in caught.value.message for problem in problems)


async def test_readiness_is_told_from_the_last_answers(pools: Pool) -> None:
    """Nobody is asked for it: not ready before the first answers, ready with one that is free, and
    with its lease gone, the reasons again."""
    settings = Settings(comfystream_urls=(pools.gone, pools.first.url))
    choice = ServerChoice(settings, pools.leases, pools.http)
    assert choice.why_none_free() is not None
    choice.start()
    try:
        await until(lambda: choice.why_none_free() is None)
        assert choice.reachable == 1
        pools.leases.acquire(pools.first.url, "session-7")
        problem = choice.why_none_free()
        assert problem is not None
        assert (problem.http_status, problem.code) == (503, "no_server_free")
        assert "session-7" in problem.message
    finally:
        await choice.aclose()
    alone = ServerChoice(Settings(), pools.leases, pools.http)
    assert (alone.why_none_free(), alone.reachable) == (None, None)


async def test_they_take_turns(pools: Pool) -> None:
    """The one that rested longest is next; the same server under two names is one."""
    pool = pools.of(pools.first.url, pools.second.url, f"{pools.first.url}/live")
    assert len(pool.servers) == 2
    given = []
    for _ in range(4):
        pools.clock.now += 1
        given.append((await pool.choose(prompts=True)).url)
    assert given == [pools.first.url, pools.second.url] * 2


async def test_sessions_without_prompts_share(pools: Pool) -> None:
    """They need no lease; the server with the fewest is next."""
    pools.leases.acquire(pools.first.url, "session-7")
    pool = pools.of(pools.first.url, pools.second.url)
    pool.given(pools.first.url, "session-7")
    assert (await pool.choose(prompts=False)).url == pools.second.url
    pool.given(pools.second.url, "session-8")
    pool.given(pools.second.url, "session-9")
    assert (await pool.choose(prompts=False)).url == pools.first.url
    pool.returned("session-8")
    assert pool.status()[1]["sessions"] == ["session-9"]


async def test_a_session_that_leaves_a_server_is_given_another(pools: Pool) -> None:
    """Not the one that it left, under whatever address; and it is counted with one only."""
    pool = pools.of(pools.first.url, pools.second.url)
    pool.given(pools.first.url, "session-7")
    assert not pool.any_free(prompts=True)
    left = {f"{pools.first.url}/live"}
    assert (await pool.choose(prompts=True, without=left)).url == pools.second.url
    assert pool.any_free(prompts=True, without=left)
    assert not pool.any_free(prompts=True, without=[pools.first.url, pools.second.url])
    pool.given(pools.second.url, "session-7")
    assert [entry["sessions"] for entry in pool.status()] == [[], ["session-7"]]
    with pytest.raises(BusyError, match="of no use to this session"):
        await pool.choose(prompts=True, without=[pools.first.url, pools.second.url])


async def test_a_server_that_failed_a_session_cools_down(pools: Pool) -> None:
    """Longer each time in a row; a workflow's fault is not the server's."""
    pool = pools.of(pools.first.url)
    pool.failed(pools.first.url, ProcessingError("bad workflow", code="comfystream_refused"))
    await pool.choose(prompts=True)
    for times in (1, 2, 4):
        pool.failed(pools.first.url, ProcessingError("hangs", code="comfystream_wedged"))
        with pytest.raises(BusyError) as caught:
            await pool.choose(prompts=True)
        assert "hangs" in caught.value.message
        assert caught.value.retry_after_s == COOLDOWN_FIRST_S * times
        [entry] = pool.status()
        assert (entry["state"], entry["error_code"]) == ("cooling_down", "comfystream_wedged")
        pools.clock.now += COOLDOWN_FIRST_S * times
    assert (await pool.choose(prompts=True)).url == pools.first.url
    assert pool.status()[0]["state"] == "free"


async def test_a_server_that_hangs_is_not_given_away_until_it_restarts(pools: Pool) -> None:
    """An offer more would hang in it too; a process that was seen gone is a new one."""
    port = closed_port()
    url = f"http://127.0.0.1:{port}"
    lease = pools.leases.acquire(url, "session-7")
    await lease.begin_offer()
    lease.unanswered()
    lease.release()
    pool = pools.of(url)
    with pytest.raises(BusyError, match="may hang"):
        await pool.choose(prompts=True)
    pool.start()
    try:
        await until(lambda: pool.servers[0].answer is not None)
    finally:
        await pool.aclose()
    assert pools.leases.unsafe_for_s(url) == 0


async def test_a_session_without_an_address_gets_one(pools: Pool) -> None:
    """From the pool where there is one, else the operator's default; its own stays."""
    config = SessionConfig("http://h/in", "http://h/out", "", prompts=[WORKFLOW])
    for settings, expected in (
        (Settings(comfystream_urls=(pools.gone, pools.first.url)), pools.first.url),
        (Settings(comfystream_url="http://gpu:8889"), "http://gpu:8889"),
    ):
        choice = ServerChoice(settings, pools.leases, pools.http)
        assert (await choice.settle(config)).comfystream_url == expected
        mine = SessionConfig("http://h/in", "http://h/out", "http://mine:1")
        assert await choice.settle(mine) == mine


async def test_warming_up_runs_the_workflow_and_keeps_sessions_away(pools: Pool) -> None:
    """Meanwhile starts are told 503; afterwards the server is free, and safe to offer to."""
    pools.first.may_answer.clear()
    settings = Settings(comfystream_url=pools.first.url, warm_pipeline=True)
    choice = ServerChoice(settings, pools.leases, pools.http)
    choice.start()
    try:
        await asyncio.wait_for(pools.first.asked.wait(), DEADLINE_S)
        assert not choice.ready
        config = SessionConfig("http://h/in", "http://h/out", "", prompts=[WORKFLOW])
        with pytest.raises(BusyError) as caught:
            await choice.settle(config)
        assert caught.value.code == "warming_up"
        pools.first.may_answer.set()
        await until(lambda: choice.ready)
        assert pools.leases.holder(pools.first.url) is None
        await choice.settle(config)
    finally:
        await choice.aclose()
    [workflow] = pools.first.prompts
    assert {node["class_type"] for node in workflow.values()} >= {"LoadTensor", "SaveTensor"}


async def test_a_server_that_refuses_to_warm_up_is_left_to_the_sessions(pools: Pool) -> None:
    """After some attempts the relay is ready all the same; a server that is leased is not
    disturbed."""
    pools.first.prompt_status = 500
    lease = pools.leases.acquire(pools.second.url, "session-7")
    warm_up = WarmUp(
        [pools.first.url, pools.second.url],
        WORKFLOW,
        pools.leases,
        pools.http,
        timeout_s=DEADLINE_S,
        retry_first_s=0.001,
    )
    warm_up.start()
    async with asyncio.timeout(DEADLINE_S):
        await warm_up.wait_ready()
    await until(lambda: len(pools.first.prompts) == ATTEMPTS)
    await until(lambda: pools.leases.holder(pools.first.url) is None)
    assert pools.second.prompts == []
    await warm_up.aclose()
    lease.release()
