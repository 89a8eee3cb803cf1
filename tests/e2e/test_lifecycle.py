"""Sessions that begin badly, and a process that is told to end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
import structlog

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.server import TrickleServer
from tests.e2e.stack import DEADLINE_S, INVERT, Viewer, in_background, running_stack
from tests.peers.ports import free_port
from tests.standin_process import standin_process

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.mark.timeout(60)
async def test_a_server_that_is_down_at_start_is_waited_for() -> None:
    """The session is made, says why it can't connect, shows the source meanwhile, keeps trying,
    and gets there."""
    port = free_port()
    options = PatternOptions(frames=900, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack(reconnect_first_wait_s=0.1, reconnect_longest_wait_s=0.5) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera", comfystream_url=f"http://127.0.0.1:{port}")
            status = await stack.wait_for_status(session, lambda s: s["processing"]["error"])
            assert status["status"] == "starting"
            assert status["processing"]["error_code"] == "comfystream_unreachable"
            assert "start it" in status["processing"]["error"]
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: bool(v.frames), 30)
                assert not viewer.frames[0].inverted
                async with standin_process("--port", str(port)):
                    await viewer.wait_for(lambda v: sum(f.inverted for f in v.frames) > 10, 30)
                    status = await stack.status(session)
                    assert status["status"] == "active"
                    assert status["processing"]["error"] is None
            assert all(a.pts < b.pts for a, b in pairwise(viewer.frames))
            assert (await stack.call("DELETE", f"/session/{session}"))[0] == 200


@pytest.mark.timeout(60)
async def test_an_input_that_never_comes_ends_the_session_with_that_reason() -> None:
    """After `input_timeout_s` without a channel: stopped, input_timeout."""
    async with running_stack(input_timeout_s=0.5) as stack:
        session = await stack.start("nobody")
        status = await stack.wait_for_status(session, lambda s: s["status"] == "stopped")
        assert status["end_reason"] == "input_timeout"


@pytest.mark.timeout(60)
async def test_a_session_whose_output_can_not_be_reached_stops_at_once() -> None:
    """DELETE does not wait for an output server that is not there."""
    options = PatternOptions(frames=900, plain=True, audio=False)
    nowhere = f"http://127.0.0.1:{free_port()}/out"
    with structlog.testing.capture_logs() as logs:
        async with running_stack() as stack:
            async with in_background(publish_live(stack.channel("camera"), generate(options))):
                session = await stack.start("camera", output_stream_url=nowhere)
                await stack.wait_for_status(session, lambda s: s["status"] == "active")
                assert (await stack.call("DELETE", f"/session/{session}"))[0] == 200
    assert not [entry for entry in logs if entry["event"] == "session.stop_timeout"]


@pytest.mark.timeout(60)
async def test_two_sessions_can_not_write_one_channel() -> None:
    """The second gets 409 and names the first; once that is stopped it may."""
    async with running_stack() as stack:
        session = await stack.start("camera")
        request = {
            "input_stream_url": stack.channel("other"),
            "output_stream_url": stack.channel("camera-processed"),
            "comfystream_url": stack.comfystream.url,
            "prompts": [],
        }
        status, answer = await stack.call("POST", "/session/start", json=request)
        assert (status, answer["code"]) == (409, "output_in_use")
        assert session in answer["error"]
        await stack.call("DELETE", f"/session/{session}")
        status, answer = await stack.call("POST", "/session/start", json=request)
        assert status == 200, answer


@pytest.mark.timeout(60)
async def test_sigterm_ends_every_session_within_two_seconds() -> None:
    """The real process, streaming: exit code 0, the output channel ended, the server told."""
    options = PatternOptions(frames=900, plain=True)
    viewer = Viewer()
    port = free_port()
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        relay = await asyncio.create_subprocess_exec(
            *[sys.executable, "trickle_relay_service.py", "--host", "127.0.0.1"],
            *["--port", str(port)],
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        lines: list[str] = []
        try:
            async with in_background(publish_live(channel, generate(options))):
                await start_session(port, channel, standin.url)
                async with in_background(viewer.watch(f"{channel}-processed")):
                    await viewer.wait_for(lambda v: len(v.frames) > 20, 30)
                    relay.send_signal(signal.SIGTERM)
                    async with asyncio.timeout(3.0):
                        assert await relay.wait() == 0
                    await viewer.wait_for(lambda v: v.ended)
                    state = await standin.state()
                    assert not any(connection["lost"] for connection in state["connections"])
        finally:
            if relay.returncode is None:
                relay.kill()
            assert relay.stdout is not None
            lines = (await relay.stdout.read()).decode().splitlines()
            await relay.wait()
    records = [json.loads(line) for line in lines]
    ended = [r for r in records if r["event"] == "session.state" and r["new"] == "stopped"]
    assert [r["reason"] for r in ended] == ["drained"]
    of_session = [r for r in records if r["event"].startswith(("session.", "trickle.publisher"))]
    assert all("session_id" in r for r in of_session)
    assert not [r for r in records if r["level"] in ("warning", "error")]


async def start_session(port: int, channel: str, comfystream_url: str) -> None:
    request = {"input_stream_url": channel, "comfystream_url": comfystream_url, "prompts": INVERT}
    async with aiohttp.ClientSession() as http, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                url = f"http://127.0.0.1:{port}/session/start"
                async with http.post(url, json=request) as response:
                    assert response.status == 200, await response.text()
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0)
