"""Jobs that have not every channel, and channels that end one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import av
import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.media.access_unit import DecodedFrame
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.trickle.subscriber import TrickleSubscriber
from tests.e2e.stack import Stack, Viewer, in_background, running_stack
from tests.e2e.test_text_output import NUMBERS
from tests.peers.gateway import Gateway, trickle_options

pytestmark = pytest.mark.timeout(60)
PICTURES = PatternOptions(frames=1800, plain=True, audio=False)


@asynccontextmanager
async def stream(**job: bool) -> AsyncIterator[tuple[Stack, Gateway]]:
    """A gateway whose job has these channels, on a relay of its own."""
    async with running_stack(trickle_options=trickle_options()) as stack:
        gateway = Gateway(stack.trickle, stack.relay_url, stack.http, **job)  # type: ignore[arg-type]
        gateway.make_channels()
        yield stack, gateway
        gateway.close_channels()


async def brightness(url: str, count: int) -> tuple[list[int], list[float]]:
    """The pts and the mean luma of the next `count` pictures of a channel."""
    decoder = TrickleStreamDecoder(None, None)
    times: list[int] = []
    means: list[float] = []
    try:
        async with TrickleSubscriber(url) as source:
            async for segment in source:
                async for chunk in segment:
                    for item in decoder.feed(bytes(chunk)):
                        if isinstance(item, DecodedFrame):
                            times.append(item.pts)
                            means.append(luma(item.frame))
                    if len(means) >= count:
                        return times, means
        raise AssertionError("the channel ended")
    finally:
        decoder.close()


def luma(frame: av.VideoFrame) -> float:
    return float(frame.to_ndarray(format="gray").mean())


async def ended(stack: Stack, session_id: str) -> dict[str, Any]:
    return await stack.wait_for_status(session_id, lambda s: s["status"] in ("stopped", "failed"))


async def test_a_job_without_video_in_runs_its_workflow_on_black() -> None:
    """The default inverts: white comes out, at the size and the rate asked for, on a time line of
    its own, in time for the gateway; and the stream ends with its output."""
    async with stream(video_in=False, data=False) as (stack, gateway):
        status, answer = await gateway.start(width=320, height=240, max_framerate=15)
        assert (status, answer["config"]["subscribe_url"]) == (200, None), answer
        async with asyncio.timeout(20):
            while True:
                times, means = await brightness(gateway.channel("-out"), 20)
                if min(means) > 200:
                    break
        steps = [b - a for a, b in pairwise(times)]
        assert min(steps) > 0
        assert sorted(steps)[len(steps) // 2] == 6000
        session = await stack.status(answer["session_id"])
        assert (session["status"], session["health"]) == ("active", "ok")
        assert (session["width"], session["height"]) == (320, 240)
        stack.trickle.delete_channel("s1-out")
        assert (await ended(stack, answer["session_id"]))["end_reason"] == "output_gone"


async def test_a_job_without_video_out_gives_its_text() -> None:
    """What the workflow says of each picture comes on the data channel; nothing is encoded for
    nobody, and the stream ends with that channel."""
    async with stream(video_out=False) as (stack, gateway):
        async with in_background(publish_live(gateway.channel(), generate(PICTURES))):
            status, answer = await gateway.start(prompts=NUMBERS)
            assert (status, answer["config"]["publish_url"]) == (200, None), answer
            numbers: list[int] = []
            async with asyncio.timeout(20):
                async with TrickleSubscriber(gateway.channel("-data"), start=0) as source:
                    async for segment in source:
                        lines = map(json.loads, (await segment.read()).splitlines())
                        numbers += [int(line["data"]) for line in lines if "data" in line]
                        if len(numbers) > 60:
                            break
            assert numbers == sorted(set(numbers))
            session = await stack.status(answer["session_id"])
            assert (session["status"], session["health"]) == ("active", "ok")
            assert session["output"]["frames"] >= 60
            assert session["output"]["segments"] == 0
            details = (await stack.call("GET", "/stream/s1/status"))[1]
            assert (details["publish_url"], details["pipeline_ready"]) == (None, True)
            stack.trickle.delete_channel("s1-data")
            assert (await ended(stack, answer["session_id"]))["end_reason"] == "output_gone"


async def test_a_job_of_text_alone() -> None:
    """Neither video in nor out: the workflow runs all the same, and what it says is heard."""
    async with stream(video_in=False, video_out=False) as (stack, gateway):
        _, answer = await gateway.start(prompts=NUMBERS)
        await stack.wait_for_status(answer["session_id"], lambda s: s["text"]["received"] > 10)
        assert (await gateway.stop())[0] == 200


async def test_a_stream_ends_with_its_events_channel() -> None:
    """A gateway that hears nothing has gone."""
    async with stream() as (stack, gateway):
        async with in_background(publish_live(gateway.channel(), generate(PICTURES))):
            _, answer = await gateway.start()
            await stack.wait_for_status(answer["session_id"], lambda s: s["status"] == "active")
            stack.trickle.delete_channel("s1-events")
            status = await ended(stack, answer["session_id"])
        assert (status["status"], status["end_reason"]) == ("stopped", "events_ended")


async def test_a_frame_rate_at_the_most_is_kept_and_changed() -> None:
    """max_framerate: of the source's 30 a second 10 are processed, each under its own time; then
    all, by the control channel."""
    viewer = Viewer()
    async with stream() as (stack, gateway):
        async with in_background(publish_live(gateway.channel(), generate(PICTURES))):
            _, answer = await gateway.start(max_framerate="10")
            async with in_background(viewer.watch(gateway.channel("-out"))):
                await viewer.wait_for(lambda v: len(v.frames) > 25, 30)
                assert spacing(viewer) == 9000
                numbers = [frame.number for frame in viewer.frames if frame.number is not None]
                # A busy machine may lose one, but shows none that is between.
                assert {(b - a) % 3 for a, b in pairwise(numbers)} == {0}
                await gateway.send_control({"max_framerate": 30})
                await viewer.wait_for(lambda v: spacing(v) == 3000, 30)
                session = await stack.status(answer["session_id"])
                assert session["processing"]["reconnects"] == 0
                assert session["frames_dropped"]["decoded_frames"]["frame_limit"] > 20
                assert (await gateway.stop())[0] == 200


def spacing(viewer: Viewer) -> int:
    """The usual time between the last pictures."""
    return sorted(b.pts - a.pts for a, b in pairwise(viewer.frames[-20:]))[9]
