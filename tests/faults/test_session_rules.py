"""One session with prompts a ComfyStream server, never before it is safe: shown by a stand-in that
hangs at each offer that comes too early."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.journal import Journal
from relay.trickle.server import TrickleServer
from tests.e2e.stack import DEADLINE_S, INVERT, Stack, in_background, running_stack
from tests.faults.scene import QUICK, SHORT_CONSENT, for_a_while, scene
from tests.peers.ports import free_port
from tests.standin_process import StandIn, standin_process

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = PatternOptions(width=256, height=256, plain=True, audio=False)

pytestmark = pytest.mark.timeout(60)


async def assert_never_endangered(server: StandIn) -> None:
    state = await server.state()
    assert state["hazards"] == []
    assert not state["pipeline"]["wedged"]


async def start_anyway(stack: Stack, channel: str, **request: Any) -> tuple[int, dict[str, Any]]:
    body = {
        "input_stream_url": stack.channel(channel),
        "comfystream_url": stack.comfystream.url,
        "prompts": INVERT,
        **request,
    }
    return await stack.call("POST", "/session/start", json=body)


async def test_a_second_session_with_prompts_is_refused_and_others_are_not() -> None:
    """409 names the session that has the server; without prompts, or elsewhere, there is room."""
    async with running_stack(**QUICK) as stack:
        first = await stack.start("one")
        same = stack.comfystream.url.replace("127.0.0.1", "localhost") + "/live/"
        for url in (stack.comfystream.url, same):
            status, answer = await start_anyway(stack, "two", comfystream_url=url)
            assert (status, answer["code"]) == (409, "comfystream_busy")
            assert first in answer["error"]
        assert (await start_anyway(stack, "three", prompts=[]))[0] == 200
        assert (await start_anyway(stack, "four", comfystream_url="http://127.0.0.1:1"))[0] == 200
        await stack.call("DELETE", f"/session/{first}")
        assert (await start_anyway(stack, "two"))[0] == 200


async def test_a_session_that_follows_another_waits_its_second_inside() -> None:
    """Started right after a DELETE it is starting, for about a second, and then active."""
    async with scene() as found:
        stack = found.stack
        await stack.call("DELETE", f"/session/{found.session_id}")
        began = time.monotonic()
        follower = await stack.start("camera", width=256, height=256)
        assert (await stack.status(follower))["status"] == "starting"
        await stack.wait_for_status(follower, lambda s: s["status"] == "active")
        assert time.monotonic() - began > 0.8
        await assert_never_endangered(stack.comfystream)


async def test_twenty_starts_and_stops_in_quick_succession_hang_nothing() -> None:
    """Every answer is right, and at the end a session gets through."""
    async with running_stack(*SHORT_CONSENT, **QUICK) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(SOURCE))):
            for _ in range(20):
                session = await stack.start("camera", width=256, height=256)
                await for_a_while(0.05)
                status, _ = await stack.call("DELETE", f"/session/{session}")
                assert status == 200
            session = await stack.start("camera", width=256, height=256)
            await stack.wait_for_status(session, lambda s: s["processing"]["frames_processed"] > 5)
            await assert_never_endangered(stack.comfystream)
            _, ended = await stack.call("GET", "/sessions?ended=true")
            assert {entry["end_reason"] for entry in ended["sessions"]} == {"requested"}
            assert len(ended["sessions"]) == 20


async def test_an_offer_that_was_broken_off_is_brought_to_its_end_first() -> None:
    """A session stopped while its workflow loads: DELETE is quick, the next session waits and says
    so, and the server is told goodbye before it is asked again."""
    async with running_stack("--offer-delay-s", "1.5", **QUICK) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(SOURCE))):
            first = await stack.start("camera", width=256, height=256)
            await stack.comfystream.wait_state(lambda state: state["offers"] == 1)
            await stack.comfystream.clear_faults()
            await stack.call("DELETE", f"/session/{first}")
            second = await stack.start("camera", width=256, height=256)
            status = await stack.wait_for_status(second, lambda s: s["processing"]["error_code"])
            assert status["processing"]["error_code"] == "comfystream_quarantined"
            third = await start_anyway(stack, "other")
            assert third[1]["code"] == "comfystream_busy"
            await stack.wait_for_status(second, lambda s: s["processing"]["frames_processed"] > 5)
            state = await stack.comfystream.state()
            assert (state["offers"], state["last_close_clean"]) == (2, True)
            await assert_never_endangered(stack.comfystream)


async def test_the_end_of_the_relay_does_not_wait_for_a_workflow_to_load(tmp_path: Path) -> None:
    """Shut down in the middle of an offer: in time, and the journal knows."""
    began = 0.0
    async with running_stack("--offer-delay-s", "30", state_dir=tmp_path, **QUICK) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(SOURCE))):
            await stack.start("camera", width=256, height=256)
            await stack.comfystream.wait_state(lambda state: state["offers"] == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 8.0
    [entry] = Journal(tmp_path).read("servers").values()
    assert entry["abandoned"]


async def test_somebody_else_s_client_on_the_server_is_respected() -> None:
    """Two relays, one server: the second waits, says why, and gets its turn."""
    async with scene() as found:
        server = found.stack.comfystream.url
        async with running_stack(**QUICK) as other:
            async with in_background(publish_live(other.channel("camera"), generate(SOURCE))):
                second = await other.start("camera", comfystream_url=server)
                status = await other.wait_for_status(second, lambda s: s["processing"]["error"])
                assert status["processing"]["error_code"] == "comfystream_busy"
                await found.wait_processed()
                await found.stack.call("DELETE", f"/session/{found.session_id}")
                await other.wait_for_status(
                    second, lambda s: s["processing"]["frames_processed"] > 5
                )
                await assert_never_endangered(found.stack.comfystream)
                await other.call("DELETE", f"/session/{second}")


@asynccontextmanager
async def relay_process(state_dir: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The service as a process, with its address; killed at the end if it still runs."""
    port = free_port()
    relay = await asyncio.create_subprocess_exec(
        *[sys.executable, "trickle_relay_service.py", "--host", "127.0.0.1", "--port", str(port)],
        cwd=REPOSITORY,
        env={
            "PATH": "/usr/bin:/bin",
            "RELAY_STATE_DIR": str(state_dir),
            "RELAY_QUARANTINE_S": "3",
            "RELAY_LOG_LEVEL": "ERROR",
        },
    )
    try:
        yield f"http://127.0.0.1:{port}", relay
    finally:
        if relay.returncode is None:
            relay.kill()
        await relay.wait()


async def ask(http: aiohttp.ClientSession, method: str, url: str, **request: Any) -> dict[str, Any]:
    """The JSON answer of a process that may not listen yet."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                async with http.request(method, url, **request) as response:
                    answer: dict[str, Any] = await response.json()
                    return answer
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


async def wait_frames(http: aiohttp.ClientSession, url: str, session_id: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await ask(http, "GET", f"{url}/session/{session_id}/status")
            processing: dict[str, Any] = answer["session"]["processing"]
            if processing["frames_processed"] > 5:
                return processing
            await asyncio.sleep(0.02)


async def test_a_relay_that_was_killed_does_not_hang_the_server_when_it_comes_back(
    tmp_path: Path,
) -> None:
    """SIGKILL, and at once a new one on the same server: its journal makes it wait."""
    async with (
        TrickleServer(host="127.0.0.1", port=0) as trickle,
        standin_process("--consent-interval", "0.5", "--consent-failures", "3") as server,
        aiohttp.ClientSession() as http,
    ):
        channel = f"{trickle.url.rstrip('/')}/camera"
        body = {
            "input_stream_url": channel,
            "comfystream_url": server.url,
            "prompts": INVERT,
            "width": 256,
            "height": 256,
        }
        async with in_background(publish_live(channel, generate(SOURCE))):
            async with relay_process(tmp_path) as (url, relay):
                first = await ask(http, "POST", f"{url}/session/start", json=body)
                await wait_frames(http, url, first["session_id"])
                relay.send_signal(signal.SIGKILL)
                await relay.wait()
            async with relay_process(tmp_path) as (url, relay):
                body["output_stream_url"] = f"{channel}-again"
                second = await ask(http, "POST", f"{url}/session/start", json=body)
                await wait_frames(http, url, second["session_id"])
                await assert_never_endangered(server)
                relay.send_signal(signal.SIGTERM)
                async with asyncio.timeout(5):
                    assert await relay.wait() == 0
