"""A relay that is killed in mid-stream, and its successor."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import aiohttp
import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.journal import FILE_NAME
from relay.trickle.server import TrickleServer
from tests.e2e.relay_process import RelayProcess, relay_process
from tests.e2e.stack import Viewer, in_background
from tests.standin_process import standin_process

pytestmark = pytest.mark.timeout(180)
PATTERN = PatternOptions(frames=1800, plain=True, audio=False)


def journalled(directory: Path) -> list[str]:
    """Ids of the sessions in the journal."""
    return list(json.loads((directory / FILE_NAME).read_text()).get("sessions", {}))


async def kill(relay: RelayProcess) -> None:
    relay.send(signal.SIGKILL)
    assert await relay.exit_code() == -signal.SIGKILL


async def edge(channel: str) -> int:
    """The number of the segment that begins next on a channel."""
    async with aiohttp.ClientSession() as http, http.get(f"{channel}/next") as response:
        assert response.status == 200
        return int(response.headers["Lp-Trickle-Latest"])


async def test_left_over_channels_are_closed_by_the_next_run(tmp_path: Path) -> None:
    """Viewers of what a killed relay was publishing see the end, and the session is forgotten."""
    viewer = Viewer()
    state = {"state_dir": str(tmp_path)}
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with in_background(publish_live(channel, generate(PATTERN))):
            async with in_background(viewer.watch(f"{channel}-processed")):
                async with relay_process(**state) as relay:
                    session = await relay.start(channel, standin.url, prompts=[])
                    await viewer.wait_for(lambda v: len(v.frames) > 10, 30)
                    assert journalled(tmp_path) == [session]
                    await kill(relay)
                assert not viewer.ended
                async with relay_process(**state) as relay:
                    await viewer.wait_for(lambda v: v.ended)
                    assert (await relay.call("GET", "/sessions"))[1]["sessions"] == []
                    assert (await relay.call("GET", f"/session/{session}/status"))[0] == 404
                    assert journalled(tmp_path) == []
                    again = await relay.start(channel, standin.url, prompts=[])
                    await relay.wait_for_status(again, lambda s: s["output"]["frames"] > 5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_sessions_are_taken_up_again_under_their_ids(
    number: signal.Signals, tmp_path: Path
) -> None:
    """With RELAY_RESUME, after a crash and after an orderly end: the same id, the same viewers,
    numbers that go on rising; no channel is closed in between."""
    viewer = Viewer()
    settings = {"state_dir": str(tmp_path), "resume": "true", "segment_seconds": "0.5"}
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        output = f"{channel}-processed"
        async with in_background(publish_live(channel, generate(PATTERN))):
            async with in_background(viewer.watch(output)):
                async with relay_process(**settings) as relay:
                    session = await relay.start(
                        channel, standin.url, prompts=[], data_url=f"{channel}-data"
                    )
                    await viewer.wait_for(lambda v: len(v.frames) > 30, 30)
                    relay.send(number)
                    expected = 0 if number is signal.SIGTERM else -number
                    assert await relay.exit_code() == expected
                assert journalled(tmp_path) == [session]
                assert not viewer.ended
                await edge(f"{channel}-data")
                before = await edge(output)
                assert before > 0
                async with relay_process(**settings) as relay:
                    await relay.logged("session.resumed", session_id=session)
                    seen = len(viewer.frames)
                    await viewer.wait_for(lambda v: len(v.frames) > seen + 30, 30)
                    status = await relay.wait_for_status(
                        session, lambda s: (s["output"]["last_seq"] or 0) > before
                    )
                    assert status["status"] == "active"
                    assert await edge(output) > before
                    assert not viewer.ended
                    assert journalled(tmp_path) == [session]
                    assert (await relay.call("DELETE", f"/session/{session}"))[0] == 200
                    await viewer.wait_for(lambda v: v.ended)
                    assert journalled(tmp_path) == []
    times = [frame.pts for frame in viewer.frames]
    assert times == sorted(times)


async def test_an_orderly_end_leaves_nothing_to_take_up(tmp_path: Path) -> None:
    """Without RELAY_RESUME SIGTERM closes what is open itself, so the next run begins empty."""
    viewer = Viewer()
    async with TrickleServer(host="127.0.0.1", port=0) as trickle, standin_process() as standin:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with in_background(publish_live(channel, generate(PATTERN))):
            async with in_background(viewer.watch(f"{channel}-processed")):
                async with relay_process(state_dir=str(tmp_path)) as relay:
                    await relay.start(channel, standin.url, prompts=[])
                    await viewer.wait_for(lambda v: len(v.frames) > 5, 30)
                    relay.send(signal.SIGTERM)
                    assert await relay.exit_code() == 0
                await viewer.wait_for(lambda v: v.ended)
            assert journalled(tmp_path) == []


async def test_a_session_that_was_stopped_is_not_taken_up_again(tmp_path: Path) -> None:
    """Stopped, then SIGTERM: what the user ended stays ended."""
    settings = {"state_dir": str(tmp_path), "resume": "true"}
    async with TrickleServer(host="127.0.0.1", port=0) as trickle:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with relay_process(**settings) as relay:
            session = await relay.start(channel, "http://127.0.0.1:9", prompts=[])
            assert (await relay.call("DELETE", f"/session/{session}"))[0] == 200
            relay.send(signal.SIGTERM)
            assert await relay.exit_code() == 0
        assert journalled(tmp_path) == []


async def test_a_session_that_may_not_be_taken_up_is_closed(tmp_path: Path) -> None:
    """The rules are those of the new run: a host that is no longer allowed is not connected to,
    and nothing but the log tells."""
    async with TrickleServer(host="127.0.0.1", port=0) as trickle:
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with relay_process(state_dir=str(tmp_path)) as relay:
            session = await relay.start(channel, "http://127.0.0.1:9", prompts=[])
            await kill(relay)
        settings = {"state_dir": str(tmp_path), "resume": "true", "allowed_hosts": "elsewhere"}
        async with relay_process(**settings) as relay:
            await relay.logged("session.not_resumed", session_id=session)
            await relay.logged("relay.left_over_open")
            assert journalled(tmp_path) == []
            assert (await relay.call("GET", "/readyz"))[0] == 200
