"""Sessions whose ComfyStream server fails them for good, and others of the pool are free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import INVERT, Stack, Viewer, in_background, running_stack
from tests.peers.lossy_udp import lossy_udp
from tests.standin_process import StandIn, standin_process

pytestmark = pytest.mark.timeout(90)
QUICK = {"reconnect_first_wait_s": 0.1, "reconnect_longest_wait_s": 0.5}
PICTURES = PatternOptions(frames=2400, plain=True, audio=False)


@asynccontextmanager
async def pool_of_two(**settings: Any) -> AsyncIterator[tuple[Stack, StandIn, StandIn]]:
    """A relay with two servers, and a source on the channel `camera`. The first to be given away is
    the first."""
    async with AsyncExitStack() as both:
        starts = (both.enter_async_context(standin_process()) for _ in range(2))
        first, second = await asyncio.gather(*starts)
        settings = QUICK | settings | {"comfystream_urls": (first.url, second.url)}
        async with running_stack(comfystream=first, **settings) as stack:
            async with in_background(publish_live(stack.channel("camera"), generate(PICTURES))):
                yield stack, first, second


async def start(stack: Stack, channel: str = "camera", **request: Any) -> str:
    """A session that leaves the choice of the server to the relay."""
    return await stack.start(channel, comfystream_url=None, **request)


async def servers(stack: Stack) -> list[tuple[str, list[str]]]:
    """State and sessions of each."""
    _, answer = await stack.call("GET", "/servers")
    return [(server["state"], server["sessions"]) for server in answer["servers"]]


async def inverted_again(viewer: Viewer) -> None:
    seen = len(viewer.frames)
    await viewer.wait_for(lambda v: sum(f.inverted for f in v.frames[seen:]) > 20, 30)


async def test_a_session_goes_on_on_another_server_when_its_own_dies() -> None:
    """Killed in the middle: the source is shown meanwhile, never twice and never backwards, the
    lease goes along, and nobody else is given the new server."""
    viewer = Viewer()
    async with pool_of_two() as (stack, first, second):
        session = await start(stack)
        async with in_background(viewer.watch(stack.channel("camera-processed"))):
            await inverted_again(viewer)
            assert (await stack.status(session))["comfystream_url"] == first.url
            first.kill()
            status = await stack.wait_for_status(session, lambda s: s["processing"]["moves"])
            await inverted_again(viewer)
            status = await stack.status(session)
            assert (status["status"], status["comfystream_url"]) == ("active", second.url)
            assert status["processing"]["error"] is None
            gone, taken = await servers(stack)
            assert (gone[1], taken) == ([], ("in_use", [session]))
            refused = await stack.call(
                "POST",
                "/session/start",
                json={
                    "input_stream_url": stack.channel("other"),
                    "prompts": [{"text": "rain"}],
                },
            )
            assert (refused[0], refused[1]["code"]) == (503, "no_server_free")
            assert session in refused[1]["error"]
            assert (await stack.call("DELETE", f"/session/{session}"))[0] == 200
            assert (await servers(stack))[1][1] == []
            await viewer.wait_for(lambda v: v.ended)
    assert all(a.pts < b.pts for a, b in pairwise(viewer.frames))
    numbers = [frame.number for frame in viewer.frames if frame.number is not None]
    assert numbers == sorted(set(numbers))
    shown = [frame.inverted for frame in viewer.frames]
    assert shown[shown.index(True) :].count(False) > 0  # the source, while nothing came back
    assert max(b.seen_at - a.seen_at for a, b in pairwise(viewer.frames)) < 3.0


async def test_a_server_that_refuses_is_left_for_the_next() -> None:
    """As one does that lacks a model; it is free for others again."""
    viewer = Viewer()
    async with pool_of_two() as (stack, first, second):
        await first.set_faults(offer_failure="500")
        session = await start(stack)
        async with in_background(viewer.watch(stack.channel("camera-processed"))):
            await inverted_again(viewer)
        status = await stack.status(session)
        assert (status["comfystream_url"], status["processing"]["moves"]) == (second.url, 1)
        left, taken = await servers(stack)
        assert (left, taken) == (("free", []), ("in_use", [session]))
        await stack.call("DELETE", f"/session/{session}")


async def test_what_every_server_refuses_names_them_all() -> None:
    """Each is tried once; then the session stays where it is, tries on, and gets there."""
    async with pool_of_two() as (stack, first, second):
        for server in (first, second):
            await server.set_faults(offer_failure="500")
        session = await start(stack)
        status = await stack.wait_for_status(
            session, lambda s: first.url in (s["processing"]["error"] or "")
        )
        assert status["processing"]["error_code"] == "comfystream_refused"
        assert status["processing"]["moves"] == 1
        assert "answered 500" in status["processing"]["error"]
        assert second.url in status["processing"]["error"]
        await second.clear_faults()
        status = await stack.wait_for_status(session, lambda s: s["status"] == "active")
        assert status["comfystream_url"] == second.url
        await stack.call("DELETE", f"/session/{session}")


async def test_a_server_that_hangs_is_left_and_given_to_nobody() -> None:
    """Its offer is never answered: it takes a restart, and the session does not wait for that."""
    async with pool_of_two(offer_timeout_s=1.0) as (stack, first, second):
        await first.set_faults(wedged=True)
        session = await start(stack)
        status = await stack.wait_for_status(session, lambda s: s["status"] == "active")
        assert (status["comfystream_url"], status["processing"]["moves"]) == (second.url, 1)
        code, refused = await stack.call(
            "POST",
            "/session/start",
            json={"input_stream_url": stack.channel("other"), "prompts": [{"text": "rain"}]},
        )
        assert (code, refused["code"]) == (503, "no_server_free")
        await stack.call("DELETE", f"/session/{session}")


async def test_a_server_that_was_left_uncleanly_is_not_waited_for() -> None:
    """It still lists our client, whose goodbye was lost with all the rest: forty seconds of
    quarantine there, or another server now."""
    viewer = Viewer()
    with lossy_udp() as way:
        async with pool_of_two(media_timeout_s=1.0) as (stack, first, second):
            session = await start(stack)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await inverted_again(viewer)
                way.loss = 1.0
                await stack.wait_for_status(session, lambda s: s["processing"]["attempts"] == 2)
                assert (await first.state())["connections"]
                way.loss = 0.0
                await stack.wait_for_status(session, lambda s: s["comfystream_url"] == second.url)
                await inverted_again(viewer)
                await stack.call("DELETE", f"/session/{session}")
    assert all(a.pts < b.pts for a, b in pairwise(viewer.frames))


async def test_prompts_for_a_session_whose_server_is_taken_take_it_to_another() -> None:
    """Sessions without prompts share a server with one that has some; a change gives them one of
    their own, as long as there is one."""
    viewer = Viewer()
    async with pool_of_two() as (stack, first, second):
        plain = await start(stack, prompts=[])
        sharing = await start(stack, "second", prompts=[])
        taking = await start(stack, "third")
        assert (await stack.status(plain))["comfystream_url"] == first.url
        assert (await stack.status(taking))["comfystream_url"] == first.url
        await stack.wait_for_status(plain, lambda s: s["status"] == "active")
        async with in_background(viewer.watch(stack.channel("camera-processed"))):
            answer = await stack.call("PATCH", f"/session/{plain}", json={"prompts": INVERT})
            assert (answer[0], answer[1].get("result")) == (200, "applied"), answer
            await inverted_again(viewer)
            status = await stack.status(plain)
            assert (status["comfystream_url"], status["mode"]) == (second.url, "workflow")
            assert [names for _, names in await servers(stack)] == [
                [taking],
                sorted([sharing, plain]),
            ]
            refused = await stack.call("PATCH", f"/session/{sharing}", json={"prompts": INVERT})
            assert (refused[0], refused[1]["code"]) == (409, "comfystream_busy")
        for session in (plain, sharing, taking):
            await stack.call("DELETE", f"/session/{session}")
    assert all(a.pts < b.pts for a, b in pairwise(viewer.frames))
