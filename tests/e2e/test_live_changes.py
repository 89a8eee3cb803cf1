"""Sessions that are changed while they run: prompts, size, pause, over HTTP and on a channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import INVERT, Stack, Viewer, in_background, running_stack

LOAD, SAVE = INVERT[0]["1"], INVERT[0]["3"]
PLAIN: list[dict[str, Any]] = [
    {
        "1": LOAD,
        "2": {
            "class_type": "ImageScale",
            "inputs": {"image": ["1", 0], "width": 512, "height": 512},
        },
        "3": SAVE,
    }
]
"""Leaves the picture as it is, by a node of its own."""
UNKNOWN: list[dict[str, Any]] = [
    {"1": LOAD, "2": {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}, "3": SAVE}
]


@asynccontextmanager
async def changing(
    *standin: str, prompts: Any = INVERT, settings: dict[str, Any] | None = None, **request: Any
) -> AsyncIterator[tuple[Stack, str, Viewer]]:
    """A session that streams, and its viewer."""
    options = PatternOptions(frames=1800, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack(*standin, requests_per_second=0, **(settings or {})) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera", prompts=prompts, **request)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await stack.wait_for_status(session, lambda s: s["status"] == "active")
                await viewer.wait_for(lambda v: len(v.frames) > 5)
                yield stack, session, viewer
                await stack.call("DELETE", f"/session/{session}")
    assert all(a.pts < b.pts for a, b in pairwise(viewer.frames))


async def change(stack: Stack, session: str, **fields: Any) -> dict[str, Any]:
    """A change that is answered 200."""
    status, answer = await stack.call("PATCH", f"/session/{session}", json=fields)
    assert status == 200, answer
    return answer


async def newest(viewer: Viewer, inverted: bool, count: int = 5) -> None:
    """The last `count` frames are so, all of them."""
    await viewer.wait_for(
        lambda v: len(v.frames) >= count and all(f.inverted is inverted for f in v.frames[-count:])
    )


@pytest.mark.timeout(60)
async def test_the_picture_changes_with_the_prompts() -> None:
    """PATCH is answered when ComfyStream has confirmed it; no frame is lost over it, and the
    connection is the same."""
    async with changing() as (stack, session, viewer):
        await newest(viewer, inverted=True)
        answer = await change(stack, session, prompts=PLAIN)
        assert answer == {"success": True, "session_id": session, "result": "applied"}
        await newest(viewer, inverted=False)
        await change(stack, session, prompts=INVERT[0])
        await newest(viewer, inverted=True)
        status = await stack.status(session)
    assert status["processing"]["reconnects"] == 0
    assert status["changes"]["applied"] == 2


@pytest.mark.timeout(60)
async def test_a_failed_update_leaves_the_picture_as_it_was() -> None:
    """ComfyStream stops on it; the relay makes it go on within two seconds, and says why."""
    async with changing(settings={"fallback": "none"}) as (stack, session, viewer):
        await newest(viewer, inverted=True)
        status, answer = await stack.call("PATCH", f"/session/{session}", json={"prompts": UNKNOWN})
        assert (status, answer["code"]) == (422, "update_failed"), answer
        failed_at, seen = time.monotonic(), len(viewer.frames)
        await viewer.wait_for(lambda v: len(v.frames) > seen + 10)
        assert time.monotonic() - failed_at < 2.0
        assert all(frame.inverted for frame in viewer.frames[seen:])
        await change(stack, session, prompts=PLAIN)
        await newest(viewer, inverted=False)
        state = await stack.comfystream.state()
        assert state["pipeline"]["state"] == "STREAMING"
        status_now = await stack.status(session)
    assert status_now["changes"]["failed"] == 1


@pytest.mark.timeout(60)
async def test_two_hundred_updates_a_second_last_wins() -> None:
    """Each caller gets a true answer, the last one's prompts run, and answers stay quick."""
    async with changing() as (stack, session, viewer):
        waits: list[float] = []

        async def one(number: int) -> str:
            began_at = time.monotonic()
            answer = await change(stack, session, prompts=PLAIN if number % 2 else INVERT)
            waits.append(time.monotonic() - began_at)
            return str(answer["result"])

        tasks = []
        for number in range(200):
            tasks.append(asyncio.ensure_future(one(number)))
            await asyncio.sleep(0.005)
        results = await asyncio.gather(*tasks)
        assert results[-1] == "applied"
        assert set(results) == {"applied", "superseded"}
        await newest(viewer, inverted=False)
        status = await stack.status(session)
        assert status["changes"]["applied"] == results.count("applied")
        assert status["changes"]["waiting"] == 0
    early, late = sorted(waits[:100])[50], sorted(waits[100:])[50]
    assert late < early + 1.0


@pytest.mark.timeout(60)
async def test_another_size_takes_a_new_connection() -> None:
    """The server sees the new size, the output has it, time goes on rising, and it holds."""
    async with changing() as (stack, session, viewer):
        assert (await change(stack, session, width=320, height=240))["result"] == "applied"
        await viewer.wait_for(lambda v: (v.frames[-1].width, v.frames[-1].height) == (320, 240))
        await newest(viewer, inverted=True)
        status = await stack.status(session)
        assert (status["width"], status["height"]) == (320, 240)
        assert status["processing"]["reconnects"] == 1
        state = await stack.comfystream.state()
        assert (state["pipeline"]["width"], state["pipeline"]["height"]) == (320, 240)


@pytest.mark.timeout(60)
async def test_from_passthrough_to_a_workflow_and_back() -> None:
    """A session without prompts gets a lease on the server with its first, and gives it back."""
    async with changing(prompts=[]) as (stack, session, viewer):
        await newest(viewer, inverted=False)
        await change(stack, session, prompts=INVERT)
        await newest(viewer, inverted=True)
        other = await stack.call(
            "POST",
            "/session/start",
            json={
                "input_stream_url": stack.channel("other"),
                "comfystream_url": stack.comfystream.url,
                "prompts": INVERT,
            },
        )
        assert (other[0], other[1]["code"]) == (409, "comfystream_busy")
        await change(stack, session, prompts=[])
        await newest(viewer, inverted=False)
        assert (await stack.status(session))["mode"] == "passthrough"
        second = await stack.start("other")
        status, answer = await stack.call("PATCH", f"/session/{session}", json={"prompts": INVERT})
        assert (status, answer["code"]) == (409, "comfystream_busy")
        await stack.call("DELETE", f"/session/{second}")


@pytest.mark.timeout(60)
async def test_paused_shows_the_source_and_resumes() -> None:
    """ComfyStream rests meanwhile; the output goes on with the source's own frames."""
    async with changing() as (stack, session, viewer):
        await newest(viewer, inverted=True)
        await change(stack, session, paused=True)
        await newest(viewer, inverted=False, count=10)
        status = await stack.status(session)
        assert (status["paused"], status["health"]) == (True, "ok")
        state = await stack.comfystream.state()
        assert state["pipeline"]["state"] == "READY"
        await stack.wait_for_status(
            session, lambda s: s["frames_dropped"]["decoded_frames"].get("paused", 0) > 75
        )
        await change(stack, session, paused=False)
        await newest(viewer, inverted=True, count=10)
        status = await stack.status(session)
    assert status["processing"]["reconnects"] == 0
