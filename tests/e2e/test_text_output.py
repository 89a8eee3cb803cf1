"""Text beside the pictures: on the data channel and as server-sent events, with its time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from tests.e2e.stack import INVERT, Stack, Viewer, in_background, running_stack

NUMBERS: list[dict[str, Any]] = [
    {
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "FrameNumber", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
        "4": {"class_type": "SaveTextTensor", "inputs": {"data": ["2", 0]}},
    }
]
"""Tells the number of each picture."""
OPTIONS = PatternOptions(frames=1800, plain=True, audio=False)


@asynccontextmanager
async def texts_of(stack: Stack, url: str, seen: list[dict[str, Any]]) -> AsyncIterator[None]:
    """Reads the data channel into `seen`, with the moment at which each line came."""

    async def read() -> None:
        options = SubscriberOptions(wait_for_channel_s=10.0)
        async with TrickleSubscriber(url, start=0, options=options) as subscriber:
            async for segment in subscriber:
                lines = (await segment.read()).splitlines()
                seen.extend(json.loads(line) | {"at_ms": time.time() * 1000} for line in lines)

    async with in_background(read()):
        yield


async def at_least(seen: list[Any], count: int) -> None:
    async with asyncio.timeout(45.0):
        while len(seen) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.timeout(90)
async def test_each_text_has_the_time_of_its_picture() -> None:
    """The text says which picture it was made of; the line's pts is the one that the picture has on
    the output, and the line is here within half a second of the text."""
    seen: list[dict[str, Any]] = []
    viewer = Viewer()
    async with running_stack() as stack:
        url = stack.channel("camera-data")
        async with in_background(publish_live(stack.channel("camera"), generate(OPTIONS))):
            session = await stack.start("camera", prompts=NUMBERS, data_url=url)
            watching = viewer.watch(stack.channel("camera-processed"))
            async with in_background(watching), texts_of(stack, url, seen):
                await at_least(seen, 150)
                status = await stack.status(session)
                dropped_inside = (await stack.comfystream.state())["frames"]["replaced"]
                await stack.call("DELETE", f"/session/{session}")
                await viewer.wait_for(lambda v: v.ended)
    texts = [line for line in seen if line.get("type") == "text"][60:]
    numbers = [int(line["data"]) for line in texts]
    assert numbers == sorted(set(numbers))
    shown = {frame.number: frame.pts for frame in viewer.frames}
    off = [
        abs(line["pts"] - shown[int(line["data"])]) for line in texts if int(line["data"]) in shown
    ]
    assert len(off) > len(texts) // 2
    # A machine without time for it loses frames on the way or in the server, and each shifts the
    # count until the next bursts.
    assert max(off) <= 2 * 90_000, off
    skipped = status["frames_dropped"].get("decoded_frames", {}).get("server_busy", 0)
    if not dropped_inside and not skipped and not status["processing"]["frames_abandoned"]:
        assert max(off) <= 8 * (OPTIONS.pts(1) - OPTIONS.pts(0)), off
        assert sum(o == 0 for o in off) > 0.1 * len(off), off
    assert min(line["at_ms"] - line["timestamp"] for line in texts) < 500
    assert status["channels"]["data"]["lines_dropped"] == 0


@pytest.mark.timeout(60)
async def test_text_that_a_change_brings_is_heard() -> None:
    """ComfyStream sends text only on connections that begin with some: a new one is made. Then the
    same lines come as server-sent events, until the session ends."""
    async with running_stack() as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(OPTIONS))):
            session = await stack.start("camera", prompts=INVERT)
            await stack.wait_for_status(session, lambda s: s["status"] == "active")
            async with stack.http.get(f"{stack.relay_url}/session/{session}/text") as events:
                assert events.content_type == "text/event-stream"
                status, answer = await stack.call(
                    "PATCH", f"/session/{session}", json={"prompts": NUMBERS}
                )
                assert (status, answer["result"]) == (200, "applied")
                lines: list[dict[str, Any]] = []
                async with asyncio.timeout(30.0):
                    while len(lines) < 20:
                        event = await events.content.readline()
                        if event.startswith(b"data: "):
                            lines.append(json.loads(event[6:]) | {"at_ms": time.time() * 1000})
                assert all(int(line["data"]) >= 0 for line in lines)
                assert lines[-1]["pts"] > 0  # null before the first picture
                assert min(line["at_ms"] - line["timestamp"] for line in lines) < 500
                assert (await stack.status(session))["text"]["listeners"] == 1
                await stack.call("DELETE", f"/session/{session}")
                async with asyncio.timeout(5.0):
                    rest = await events.content.read()
                assert rest.endswith(b"event: end\ndata: {}\n\n")
