"""A gateway's stream through the whole relay: channels of the orchestrator's, events, stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import DEADLINE_S, INVERT, Stack, Viewer, in_background, running_stack
from tests.peers.gateway import SILENCE_LIMIT_S, Gateway, trickle_options

pytestmark = pytest.mark.timeout(60)
PASS = [
    {
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
    }
]
PICTURES = PatternOptions(frames=1800, plain=True, audio=False)


@asynccontextmanager
async def gateway_on(stack: Stack) -> AsyncIterator[Gateway]:
    """A gateway with its channels made and its events watched."""
    gateway = Gateway(stack.trickle, stack.relay_url, stack.http)
    gateway.make_channels()
    try:
        async with in_background(gateway.watch_events()):
            yield gateway
    finally:
        gateway.close_channels()


def states(gateway: Gateway) -> list[str]:
    """The words of the status events, each once in a row."""
    words = [event["state"] for event in gateway.of_type("status")]
    return [word for before, word in pairwise([None, *words]) if word != before and word]


async def test_a_stream_from_start_to_stop() -> None:
    """Inverted by default, on channels that only the orchestrator may make; the gateway sees it
    load, run and end, and its first segments; keepalives on the control channel disturb nothing."""
    viewer = Viewer()
    async with running_stack(trickle_options=trickle_options()) as stack:
        async with gateway_on(stack) as gateway:
            async with in_background(publish_live(gateway.channel(), generate(PICTURES))):
                status, answer = await gateway.start(width=512, height=512)
                assert (status, answer["request_id"]) == (200, "s1"), answer
                await gateway.wait_for(lambda _: gateway.of_type("status"))
                assert gateway.of_type("status")[0]["state"] == "LOADING"
                async with in_background(viewer.watch(gateway.channel("-out"))):
                    await viewer.wait_for(lambda v: sum(f.inverted for f in v.frames) > 20, 30)
                    await gateway.send_control({"keep": "alive"}, {"keep": "alive"})
                    await gateway.wait_for(lambda _: "ONLINE" in states(gateway))
                    assert await gateway.start(width=512, height=512) == (status, answer)
                    assert (await gateway.stop("done"))[0] == 200
                    assert (await gateway.stop("done"))[0] == 200
                    await gateway.wait_for(lambda _: "OFFLINE" in states(gateway))
                    await viewer.wait_for(lambda v: v.ended)
        assert states(gateway) == ["LOADING", "ONLINE", "OFFLINE"]
        assert gateway.unreadable == []
        for trace in (
            "runner_receive_stream_request",
            "runner_receive_first_ingest_segment",
            "runner_send_first_processed_segment",
            "stream_stopped",
        ):
            assert len(gateway.of_type(trace)) == 1, trace
        [first] = gateway.of_type("runner_send_first_processed_segment")
        [request] = gateway.of_type("runner_receive_stream_request")
        assert 0 < first["timestamp"] - request["timestamp"] < 30_000
        assert gateway.of_type("stream_stopped")[0]["reason"] == "requested"


async def test_parameters_change_by_both_ways_and_are_told() -> None:
    """F50: by /stream/params to pass through, by the control channel to invert again; the gateway
    hears of each."""
    viewer = Viewer()
    async with running_stack(trickle_options=trickle_options()) as stack:
        async with gateway_on(stack) as gateway:
            async with in_background(publish_live(gateway.channel(), generate(PICTURES))):
                session_id = (await gateway.start())[1]["session_id"]
                async with in_background(viewer.watch(gateway.channel("-out"))):
                    await viewer.wait_for(lambda v: v.frames and v.frames[-1].inverted, 30)
                    status, answer = await gateway.update(prompts=PASS)
                    assert (status, answer["status"]) == (200, "success"), answer
                    await viewer.wait_for(lambda v: not v.frames[-1].inverted, 30)
                    await gateway.send_control({"keep": "alive"}, {"prompts": INVERT})
                    await viewer.wait_for(lambda v: v.frames[-1].inverted, 30)
                    await gateway.wait_for(
                        lambda _: len(gateway.of_type("params_updated")) == 2, timeout_s=20
                    )
                    # As at each new orchestrator: the same again, three times.
                    await gateway.send_control(*[{"prompts": INVERT}] * 3)
                    session = await stack.wait_for_status(
                        session_id,
                        lambda s: (
                            s["channels"]["control"]["applied"]
                            + s["channels"]["control"]["superseded"]
                            == 4
                        ),
                    )
                    assert session["processing"]["reconnects"] == 0
                    assert (await gateway.stop())[0] == 200
    told = [event["params"]["prompts"] for event in gateway.of_type("params_updated")]
    assert told == [PASS, INVERT]


async def test_events_come_though_nothing_else_does() -> None:
    """No picture in, no server there: the gateway hears of it within its 30 s, and why."""
    async with running_stack(
        trickle_options=trickle_options(), comfystream_url="http://127.0.0.1:9"
    ) as stack:
        async with gateway_on(stack) as gateway:
            assert (await gateway.start())[0] == 200
            await gateway.wait_for(lambda _: gateway.of_type("error"))
            assert "comfystream_unreachable" in [e["code"] for e in gateway.of_type("error")]
            await gateway.wait_for(lambda _: len(gateway.heard_at) >= 4)
            assert (await gateway.stop())[0] == 200
        gaps = [b - a for a, b in pairwise(gateway.heard_at)]
        assert max(gaps) < SILENCE_LIMIT_S / 2


async def test_a_stream_ends_with_its_channels() -> None:
    """The orchestrator closes them: no stop is needed, and the name can be used again."""
    async with running_stack(trickle_options=trickle_options()) as stack:
        async with gateway_on(stack) as gateway:
            _, answer = await gateway.start()
            await gateway.wait_for(lambda events: events)
        ended = await stack.wait_for_status(
            answer["session_id"], lambda s: s["status"] in ("stopped", "failed")
        )
        assert ended["end_reason"] in ("input_ended", "control_ended", "output_gone")
        gateway.stream_id = "s2"  # the old names answer Closed for some seconds
        gateway.make_channels()
        status, again = await gateway.start()
        assert status == 200
        assert again["session_id"] != answer["session_id"]
        assert (await gateway.stop())[0] == 200
        gateway.close_channels()


async def test_channels_that_are_not_there_are_not_made() -> None:
    """They are the orchestrator's: the stream ends at once, and nothing was created."""
    async with running_stack() as stack:  # its trickle server would let us
        gateway = Gateway(stack.trickle, stack.relay_url, stack.http)
        _, answer = await gateway.start()
        await stack.wait_for_status(
            answer["session_id"], lambda s: s["status"] in ("stopped", "failed")
        )
        for suffix in ("", "-out", "-events"):
            async with stack.http.get(f"{gateway.channel(suffix)}/next") as reply:
                assert reply.status == 404


async def test_streams_get_servers_of_the_pool_until_none_is_left() -> None:
    """F69: one server, two streams: the second is told 503 at once; it gets in after the first."""
    async with running_stack(trickle_options=trickle_options()) as one:
        pool = (one.comfystream.url,)
        async with running_stack(
            trickle_options=trickle_options(), comfystream_urls=pool, quarantine_s=1.0
        ) as stack:
            first, second = (
                Gateway(stack.trickle, stack.relay_url, stack.http, stream_id=name)
                for name in ("s1", "s2")
            )
            for gateway in (first, second):
                gateway.make_channels()
            async with in_background(publish_live(first.channel(), generate(PICTURES))):
                _, answer = await first.start()
                await stack.wait_for_status(answer["session_id"], lambda s: s["status"] == "active")
                status, refused = await second.start()
                assert (status, refused["code"]) == (503, "no_server_free")
                [server] = (await stack.call("GET", "/servers"))[1]["servers"]
                assert (server["state"], server["sessions"]) == (
                    "in_use",
                    [answer["session_id"]],
                )
                assert (await first.stop())[0] == 200
            async with in_background(publish_live(second.channel(), generate(PICTURES))):
                async with asyncio.timeout(DEADLINE_S):
                    while (await second.start())[0] != 200:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                status, answer = await second.start()  # the same, once more
                assert status == 200
                await stack.wait_for_status(answer["session_id"], lambda s: s["status"] == "active")
                assert (await second.stop())[0] == 200
