"""A process that is told to end while sessions run."""

from __future__ import annotations

import asyncio
import signal
import threading
from itertools import takewhile

import aiohttp
import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.server import TrickleServer
from tests.e2e.relay_process import RelayProcess, relay_process
from tests.e2e.stack import Viewer, in_background
from tests.standin_process import standin_process

pytestmark = pytest.mark.timeout(120)
PATTERN = PatternOptions(frames=900, plain=True, audio=False)


async def assert_draining(relay: RelayProcess) -> None:
    """Not ready, no new sessions, and everything else as before."""
    status, answer, headers = await relay.call("GET", "/readyz")
    assert (status, answer["code"]) == (503, "draining")
    request = {"input_stream_url": "http://127.0.0.1:9/x", "prompts": []}
    status, answer, headers = await relay.call("POST", "/session/start", json=request)
    assert (status, answer["code"]) == (503, "draining")
    assert int(headers["Retry-After"]) > 0
    assert (await relay.call("GET", "/health"))[0] == 200


async def test_sessions_go_on_while_the_relay_drains_and_end_with_their_input() -> None:
    """SIGTERM with time to drain: no new sessions, the running one to its last frame, exit 0 as
    soon as it has ended."""
    viewer = Viewer()
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with relay_process(drain_timeout_s="600") as relay:
            assert (await relay.call("GET", "/readyz"))[0] == 200
            enough = threading.Event()
            chunks = takewhile(lambda _: not enough.is_set(), generate(PATTERN))
            async with in_background(publish_live(channel, chunks)):
                session = await relay.start(channel, standin.url)
                async with in_background(viewer.watch(f"{channel}-processed")):
                    await viewer.wait_for(lambda v: len(v.frames) > 10, 30)
                    relay.send(signal.SIGTERM)
                    await relay.logged("relay.draining")
                    seen = len(viewer.frames)
                    await assert_draining(relay)
                    await viewer.wait_for(lambda v: len(v.frames) > seen + 30)
                    enough.set()
                    assert await relay.exit_code() == 0
                    await viewer.wait_for(lambda v: v.ended)
            stopped = await relay.logged("session.state", new="stopped", session_id=session)
            assert stopped["reason"] == "input_ended"
    assert (viewer.frames[-1].number or 0) > seen + 30


async def test_a_second_signal_ends_the_sessions_and_a_third_the_process() -> None:
    """The second: now, but in good order: the output channel closed, ComfyStream told."""
    viewer = Viewer()
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with relay_process(drain_timeout_s="600") as relay:
            async with in_background(publish_live(channel, generate(PATTERN))):
                session = await relay.start(channel, standin.url)
                async with in_background(viewer.watch(f"{channel}-processed")):
                    await viewer.wait_for(lambda v: len(v.frames) > 10, 30)
                    relay.send(signal.SIGTERM)
                    await relay.logged("relay.draining")
                    relay.send(signal.SIGTERM)
                    assert await relay.exit_code(10) == 0
                    await viewer.wait_for(lambda v: v.ended)
            stopped = await relay.logged("session.state", new="stopped", session_id=session)
            assert stopped["reason"] == "drained"
        state = await standin.state()
        assert not any(connection["lost"] for connection in state["connections"])


async def silent_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes whatever comes and answers nothing."""
    try:
        while await reader.read(65536):
            pass
    finally:
        writer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_can_not_wait_is_not_kept(number: signal.Signals) -> None:
    """A session that can't end, its output's server hangs: the next signal ends the process at
    once, with the code of that signal."""
    server = await asyncio.start_server(silent_server, "127.0.0.1", 0)
    async with server, TrickleServer(host="127.0.0.1", port=0) as trickle:
        output = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/out"
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with standin_process() as standin, relay_process(stop_timeout_s="60") as relay:
            async with in_background(publish_live(channel, generate(PATTERN))):
                session = await relay.start(channel, standin.url, output_stream_url=output)
                await relay.wait_for_status(session, lambda s: s["output"]["fps_encoded"] > 0)
                relay.send(signal.SIGTERM)
                await relay.logged("session.state", new="stopping")
                await assert_draining(relay)
                relay.send(number)
                assert await relay.exit_code(10) == 128 + number
            assert relay.records[-1]["event"] == "relay.exit_at_once"
    server.close()


async def test_the_time_to_drain_ends() -> None:
    """A session whose input goes on is ended when the time is over."""
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with relay_process(drain_timeout_s="0.3") as relay:
            async with in_background(publish_live(channel, generate(PATTERN))):
                session = await relay.start(channel, standin.url)
                await relay.wait_for_status(session, lambda s: s["status"] == "active")
                relay.send(signal.SIGTERM)
                assert await relay.exit_code(12) == 0
            await relay.logged("session.state", new="stopped", reason="drained")


async def test_when_the_time_to_drain_is_over_a_signal_ends_the_process() -> None:
    """As if a second signal had ended that time: the sessions are being ended already."""
    server = await asyncio.start_server(silent_server, "127.0.0.1", 0)
    async with server, TrickleServer(host="127.0.0.1", port=0) as trickle:
        output = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/out"
        channel = f"{trickle.url.rstrip('/')}/camera"
        limits = {"drain_timeout_s": "0.3", "stop_timeout_s": "60"}
        async with standin_process() as standin, relay_process(**limits) as relay:
            async with in_background(publish_live(channel, generate(PATTERN))):
                session = await relay.start(channel, standin.url, output_stream_url=output)
                await relay.wait_for_status(session, lambda s: s["output"]["fps_encoded"] > 0)
                relay.send(signal.SIGTERM)
                await relay.logged("session.state", new="stopping")
                relay.send(signal.SIGTERM)
                assert await relay.exit_code(10) == 128 + signal.SIGTERM
    server.close()


async def test_without_sessions_the_end_comes_at_once() -> None:
    """However long a drain might take."""
    async with relay_process(drain_timeout_s="600") as relay:
        relay.send(signal.SIGTERM)
        assert await relay.exit_code(10) == 0


async def test_starts_at_the_same_moment_share_out_what_is_left() -> None:
    """Three places, ten starts at once: three sessions, seven times 503 with Retry-After."""
    async with relay_process(max_sessions="3") as relay:
        bodies = [
            {
                "input_stream_url": f"http://127.0.0.1:9/{number}",
                "comfystream_url": "http://127.0.0.1:9",
                "prompts": [],
            }
            for number in range(10)
        ]
        answers = await asyncio.gather(
            *(relay.call("POST", "/session/start", json=body) for body in bodies)
        )
        assert sorted(status for status, _, _ in answers) == [200] * 3 + [503] * 7
        for status, answer, headers in answers:
            if status == 503:
                assert answer["code"] == "full"
                assert int(headers["Retry-After"]) > 0
        assert (await relay.call("GET", "/readyz"))[1]["code"] == "full"
        _, listed, _ = await relay.call("GET", "/sessions")
        assert len(listed["sessions"]) == 3
        first = listed["sessions"][0]["session_id"]
        await relay.call("DELETE", f"/session/{first}")
        assert (await relay.call("POST", "/session/start", json=bodies[0]))[0] == 200
        relay.send(signal.SIGTERM)
        assert await relay.exit_code(12) == 0
        with pytest.raises(aiohttp.ClientConnectorError):
            await relay.call("GET", "/health")
