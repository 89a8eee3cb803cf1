"""How peers of the stand-in end, what it does to the others, and what wedges the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable

from demo.standin import ComfyStreamStandIn, Faults, StandInSettings
from tests.integration.standin_client import (
    INVERT,
    PASS,
    STEP,
    connect,
    get,
    post,
    until,
)
from tests.standin_process import REPOSITORY

CHANNELS = ["control", "data"]


@contextlib.asynccontextmanager
async def doomed_client(url: str) -> AsyncIterator[Callable[[], None]]:
    """A streaming prompt client in a process of its own; call what is yielded to kill it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.standin_client",
        url,
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"streaming\n"
        yield process.kill
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def hangs(url: str) -> bool:
    """Whether a prompt request gets no answer."""
    try:
        async with asyncio.timeout(0.4):
            await post(url, "/prompt", PASS)
    except TimeoutError:
        return True
    return False


async def test_a_clean_close_is_seen_at_once_and_leaves_nothing() -> None:
    """Stats are empty, the pipeline is reset, and the close counts as clean."""
    async with ComfyStreamStandIn() as standin:
        async with connect(standin.url, [INVERT]) as peer:
            await peer.send_in_step(range(5), [n * STEP for n in range(5)])
        state = await until(standin, lambda s: s["pipeline"]["state"] == "UNINITIALIZED")
        assert json.loads((await get(standin.url, "/streams/stats"))[2]) == {}
        assert state["connections"] == []
        assert state["last_close_clean"] is True
        assert not any(state["queues"].values())
        assert state["hazards"] == []


async def test_a_vanished_peer_is_noticed_when_consent_expires() -> None:
    """A killed client stays connected until its consent checks have failed; then all is well."""
    settings = StandInSettings(
        port=0, consent_interval_s=0.4, consent_failures=2, safe_reoffer_gap_s=0.1
    )
    async with ComfyStreamStandIn(settings) as standin:
        async with doomed_client(standin.url) as kill:
            kill()
            state = standin.state()
            assert [c["state"] for c in state["connections"]] == ["connected"]
            state = await until(standin, lambda s: len(s["ended"]) == 1)
        assert state["last_close_clean"] is False
        await until(standin, lambda s: s["pipeline"]["state"] == "UNINITIALIZED")
        await asyncio.sleep(0.15)
        assert (await post(standin.url, "/prompt", PASS))[0] == 200
        assert standin.state()["hazards"] == []


async def test_an_offer_beside_a_silent_peer_wedges_in_the_worst_case() -> None:
    """A prompt peer that sends nothing may be a dead one; the default assumes that it is."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, [INVERT]) as peer:
        await peer.send_in_step(range(3), [n * STEP for n in range(3)])
        await until(standin, lambda s: s["frames"]["last_received_s"] > 0.3)
        assert await hangs(standin.url)
        assert [h["kind"] for h in standin.state()["hazards"]] == ["offer_beside_silent_peer"]


async def test_an_offer_before_a_dead_peer_expired_wedges_for_good() -> None:
    """The dead peer's sender takes an output of the new warm-up, which then never ends.

    It waits for one because a frame was lost on the way in, which left a label over.
    """
    faults = Faults(race="chance", drop_inputs=1)
    async with ComfyStreamStandIn(faults=faults) as standin:
        async with doomed_client(standin.url) as kill:
            kill()
            await until(standin, lambda s: s["frames"]["last_received_s"] > 0.3)
            assert standin.state()["connections"][0]["state"] == "connected"
            request = asyncio.create_task(post(standin.url, "/offer", {"prompts": PASS}))
            state = await until(standin, lambda s: s["pipeline"]["wedged"])
        assert [hazard["kind"] for hazard in state["hazards"]] == ["offer_beside_silent_peer"]
        request.cancel()
        await asyncio.wait([request])
        assert await hangs(standin.url)
        assert (await get(standin.url, "/health"))[0] == 200
        standin.set_faults(drop_inputs=0)
        async with connect(standin.url) as peer:
            await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        assert standin.state()["pipeline"]["wedged"]


async def test_an_offer_right_after_a_close_wedges() -> None:
    """In the worst case a prompt offer too soon after a clean close never returns."""
    async with ComfyStreamStandIn() as standin:
        async with connect(standin.url, [INVERT]) as peer:
            await peer.send_in_step(range(3), [n * STEP for n in range(3)])
        await until(standin, lambda s: s["pipeline"]["state"] == "UNINITIALIZED")
        assert await hangs(standin.url)
        assert [h["kind"] for h in standin.state()["hazards"]] == ["offer_too_soon"]


async def test_an_offer_after_a_pause_is_fine() -> None:
    """A prompt client may come back a little later, and a noop client at once."""
    settings = StandInSettings(port=0, safe_reoffer_gap_s=0.2)
    async with ComfyStreamStandIn(settings) as standin:
        for _ in range(3):
            async with connect(standin.url, [INVERT]) as peer:
                await peer.send_in_step(range(4), [n * STEP for n in range(4)])
            await until(standin, lambda s: s["pipeline"]["state"] == "UNINITIALIZED")
            async with connect(standin.url) as peer:
                await peer.send_in_step(range(4), [n * STEP for n in range(4)])
            await asyncio.sleep(0.25)
        assert standin.state()["hazards"] == []


async def test_the_late_clean_up_of_one_peer_stops_the_warm_up_of_the_next() -> None:
    """Without any fault set, an offer that overlaps a close hangs: its runner is cancelled."""
    async with ComfyStreamStandIn(faults=Faults(race="chance")) as standin:
        async with connect(standin.url, [INVERT]) as peer:
            await peer.send_in_step(range(3), [n * STEP for n in range(3)])
            standin.set_faults(process_ms=500)
            offers = standin.state()["offers"]
            request = asyncio.create_task(post(standin.url, "/offer", {"prompts": PASS}))
            await until(standin, lambda s: s["offers"] > offers)
            await until(standin, lambda s: s["pipeline"]["state"] == "INITIALIZING")
        await until(standin, lambda s: s["pipeline"]["wedged"])
        request.cancel()
        await asyncio.wait([request])


async def test_a_second_prompt_client_shares_the_first_one_s_frames() -> None:
    """The second offer replaces the workflow for both; the first leaving stops them both."""
    async with (
        ComfyStreamStandIn(faults=Faults(race="chance")) as standin,
        connect(standin.url, [INVERT], channels=CHANNELS) as first,
    ):
        first.start(first.stream(range(1000)))
        await first.wait_pictures(5)
        assert first.pictures[0].inverted
        async with connect(standin.url, [PASS]) as second:
            second.start(second.stream(range(2000, 3000), fps=20))
            await second.wait_pictures(10)
            await first.wait_pictures(len(first.pictures) + 10)
            seen = [p for p in first.pictures[-10:] + second.pictures if p.number is not None]
            assert not any(p.inverted for p in first.pictures[-5:])
            foreign = [p for p in second.pictures if p.number is not None and p.number < 2000]
            foreign += [p for p in seen if p not in second.pictures and p.number >= 2000]
            assert foreign
        await until(standin, lambda s: s["pipeline"]["state"] == "UNINITIALIZED")
        for _ in range(2):
            before, received = len(first.pictures), standin.state()["frames"]["received"]
            await until(standin, lambda s, r=received: s["frames"]["received"] > r + 10)
        assert len(first.pictures) == before
        assert first.pc.connectionState == "connected"
        assert await first.ask("resume_prompts") == {
            "type": "prompts_resumed",
            "success": False,
            "error": "Cannot start streaming in state: UNINITIALIZED",
        }
        hazards = {hazard["kind"] for hazard in standin.state()["hazards"]}
        assert hazards == {"offer_beside_live_peer"}


async def test_stats_are_keyed_by_the_client_s_own_track_id() -> None:
    """Only prompt-mode video is in them; an unknown stream is an error with status 200."""
    settings = StandInSettings(port=0, monitor=True)
    async with (
        ComfyStreamStandIn(settings) as standin,
        connect(standin.url) as noop,
        connect(standin.url, [INVERT]) as peer,
    ):
        assert noop.pc.connectionState == "connected"
        peer.start(peer.stream(range(200)))
        await until(
            standin, lambda s: any(c["tracks"]["video"].get("fps") for c in s["connections"])
        )
        one = json.loads((await get(standin.url, f"/stream/{peer.video.id}/stats"))[2])
        assert set(one) == {"timestamp", "fps", "minute_avg_fps", "minute_fps_array"}
        assert 5 < one["fps"] < 60
        assert set(one["minute_fps_array"][0]) == {"timestamp", "fps"}
        everyone = json.loads((await get(standin.url, "/streams/stats"))[2])
        assert set(everyone) == {peer.video.id}
        unknown = await get(standin.url, "/live/stream/none/stats")
        assert unknown[::2] == (200, json.dumps({"error": "Stream not found"}))
        metrics = (await get(standin.url, "/metrics"))[2]
        assert f'stream_fps{{stream_id="{peer.video.id}"}}' in metrics


async def test_a_gap_ends_what_returns_without_prompts_but_not_with_them() -> None:
    """In noop the sender dies, still connected; in prompt mode it resumes by itself."""
    settings = StandInSettings(port=0, noop_timeout_s=1.0)
    async with (
        ComfyStreamStandIn(settings) as standin,
        connect(standin.url, [INVERT]) as prompted,
        connect(standin.url) as noop,
    ):
        for peer in (noop, prompted):
            await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        await until(
            standin,
            lambda s: (
                {c["tracks"]["video"]["sender"] for c in s["connections"]} == {"live", "ended"}
            ),
        )
        before = len(noop.pictures)
        for number in range(4, 10):
            noop.video.send(number, number * STEP)
        await prompted.send_in_step(range(4, 10), [n * STEP for n in range(4, 10)])
        assert len(noop.pictures) <= before + 1
        assert noop.pc.connectionState == "connected"
