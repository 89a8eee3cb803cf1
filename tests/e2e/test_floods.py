"""More messages than anybody needs, and large ones: the media does not feel it."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import CreatePolicy, PublisherOptions
from tests.e2e.stack import INVERT, Stack, Viewer, in_background, running_stack
from tests.e2e.test_live_changes import PLAIN, change, changing, newest
from tests.peers.gateway import Gateway, trickle_options
from tests.peers.lossy_udp import lossy_udp

pytestmark = pytest.mark.timeout(90)
PATIENCE_S = 45.0
"""So much work takes its time on a machine that has much else to do."""
LINES = 1000
PICTURES = PatternOptions(frames=1800, plain=True, audio=False)
LOUD: list[dict[str, Any]] = [
    {
        **INVERT[0],
        "7": {"class_type": "PrimitiveString", "inputs": {"value": "x" * 35_000}},
        "8": {"class_type": "SaveTextTensor", "inputs": {"data": ["7", 0]}},
    }
]
"""Says 35 kB of each picture: a megabyte a second."""


async def flood(gateway: Gateway, stack: Stack, session_id: str) -> dict[str, Any]:
    """Send too much on the control channel; the session's status when it has coped."""
    url, options = gateway.channel("-control"), PublisherOptions(create=CreatePolicy.NEVER)
    control = TricklePublisher(url, options=options)
    await control.start()
    try:
        for number in range(100):
            async with await control.next_segment() as segment:
                message = {"prompts": INVERT if number % 2 else PLAIN, "n": number}
                await segment.write(json.dumps(message).encode())
            await asyncio.sleep(0.005)
        lines = [{"prompts": PLAIN if number % 2 else INVERT} for number in range(LINES)]
        text = "\n".join(json.dumps(line) for line in lines) + "\nthat was it"
        async with await control.next_segment() as segment:
            await segment.write(text.encode())
        return await stack.wait_for_status(
            session_id,
            lambda s: s["channels"]["control"]["bad"] and not s["changes"]["waiting"],
            PATIENCE_S,
        )
    finally:
        await control.aclose(delete=False)


async def test_a_flood_on_the_control_channel_ends_in_its_last_message() -> None:
    """A hundred segments at two hundred a second, then a thousand lines in one: those are all read,
    few are applied, nothing waits but the newest, and no picture is lost over it."""
    viewer = Viewer()
    async with running_stack(trickle_options=trickle_options()) as stack:
        gateway = Gateway(stack.trickle, stack.relay_url, stack.http, data=False)
        gateway.make_channels()
        async with in_background(publish_live(gateway.channel(), generate(PICTURES))):
            _, answer = await gateway.start()
            async with in_background(viewer.watch(gateway.channel("-out"))):
                await newest(viewer, inverted=True)
                seen = len(viewer.frames)
                status = await flood(gateway, stack, answer["session_id"])
                await newest(viewer, inverted=False)
                told = status["channels"]["control"]
                assert told["messages"] > LINES
                assert told["superseded"] > told["applied"] > 1
                assert (told["failed"], told["bad"]) == (0, 1)
                assert status["processing"]["reconnects"] == 0
                assert (await gateway.stop())[0] == 200
        gateway.close_channels()
    numbers = [frame.number for frame in viewer.frames[seen:] if frame.number is not None]
    assert numbers == sorted(set(numbers))
    assert all(a.pts < b.pts for a, b in pairwise(viewer.frames))
    assert max(b.seen_at - a.seen_at for a, b in pairwise(viewer.frames[seen:])) < 5.0


async def test_a_prompt_of_a_hundred_kilobytes_where_packets_are_small() -> None:
    """F48: on a way with an MTU of 1280 the data channels send nothing that is too large for it,
    and the update is confirmed."""
    with lossy_udp() as way:
        way.largest_dtls = 1280 - 40 - 8  # IPv6 and UDP headers
        async with changing() as (stack, session, viewer):
            long = json.loads(json.dumps(PLAIN))
            long[0]["9"] = {"class_type": "PrimitiveString", "inputs": {"value": "x" * 100_000}}
            answer = await change(stack, session, prompts=long)
            assert answer["result"] == "applied"
            await newest(viewer, inverted=False)
            assert (await stack.status(session))["processing"]["reconnects"] == 0
        assert way.too_large == 0


async def test_a_flood_of_text_is_passed_on_or_counted() -> None:
    """F53: a megabyte a second from ComfyStream; the connection stands, the pictures go on, and a
    channel that takes nothing costs no more than its share of memory."""
    async with changing(prompts=LOUD) as (stack, session, viewer):
        url = f"{stack.relay_url}/session/{session}/text"
        async with stack.http.get(url) as idle:  # connected, and never read
            assert idle.status == 200
            await stack.wait_for_status(session, lambda s: s["text"]["received"] > 60, PATIENCE_S)
            await newest(viewer, inverted=True, count=10)
            status = await stack.status(session)
            assert status["processing"]["reconnects"] == 0
            assert status["status"] == "active"
            assert status["text"]["unreadable"] == 0
