"""ComfyStream goes wrong in every way it is known to; the viewer keeps a picture, time only rises,
and the server is never asked in a way that hangs it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.stack import INVERT
from tests.faults.scene import (
    FREEZE_S,
    NOTICE_S,
    SHORT_CONSENT,
    Scene,
    for_a_while,
    scene,
)
from tests.peers.ports import free_port
from tests.standin_process import standin_process

pytestmark = pytest.mark.timeout(60)

UNKNOWN: list[dict[str, Any]] = [{**INVERT[0], "2": {**INVERT[0]["2"], "class_type": "NotThere"}}]


async def assert_never_endangered(found: Scene) -> None:
    """The server saw no offer that could have hung it."""
    state = await found.stack.comfystream.state()
    assert state["hazards"] == []
    assert not state["pipeline"]["wedged"]


async def test_offers_that_are_refused_are_repeated() -> None:
    """A few 500s: starting, with the reason, the source seen meanwhile; then it works."""
    faults = ("--offer-failure", "500", "--offer-failures", "4")
    async with scene(*faults, warm=False) as found:
        began = time.monotonic()
        status = await found.wait_status(lambda s: s["processing"]["error"])
        assert time.monotonic() - began < NOTICE_S
        assert status["status"] == "starting"
        assert status["processing"]["error_code"] == "comfystream_refused"
        await found.wait_processed()
        status = await found.wait_status(
            lambda s: s["status"] == "active" and not s["processing"]["error"]
        )
        assert (status["processing"]["attempts"], status["processing"]["reconnects"]) == (5, 0)
        await found.assert_unharmed()
        await assert_never_endangered(found)


async def test_a_workflow_that_loads_for_long_is_waited_for() -> None:
    """State loading, the source seen with its sound, then processed, nothing in between lost."""
    async with scene("--offer-delay-s", "3", audio=True, warm=False) as found:
        await found.wait_status(lambda s: s["status"] == "loading")
        await found.wait_unprocessed()
        await found.wait_processed()
        status = await found.status()
        assert (status["status"], status["processing"]["attempts"]) == ("active", 1)
        await found.assert_unharmed()
        found.assert_sound_is_whole()


async def test_a_session_that_loads_stops_at_once() -> None:
    """DELETE does not wait for the offer's answer."""
    async with scene("--offer-delay-s", "30", warm=False) as found:
        await found.wait_status(lambda s: s["status"] == "loading")
        began = time.monotonic()
        assert (await found.stack.call("DELETE", f"/session/{found.session_id}"))[0] == 200
        assert time.monotonic() - began < NOTICE_S
        assert (await found.status())["end_reason"] == "requested"


async def test_a_server_that_hangs_in_an_offer_is_left_alone_until_it_restarts() -> None:
    """One offer, not two: it is wedged, says the status; after a restart it goes on by itself."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with standin_process("--port", str(port), "--wedged") as wedged:
        async with scene(
            request={"comfystream_url": url}, warm=False, offer_timeout_s=1.0
        ) as found:
            await found.wait_processing(lambda p: p["error_code"] == "comfystream_wedged")
            await found.wait_unprocessed()
            await for_a_while(1.5)
            assert (await wedged.state())["offers"] == 1
            await wedged.stop()
            await found.wait_processing(lambda p: p["error_code"] == "comfystream_unreachable")
            async with standin_process("--port", str(port)) as found.server:
                await found.wait_processed()
                await found.assert_unharmed()
                await found.stack.call("DELETE", f"/session/{found.session_id}")


async def test_a_killed_server_is_noticed_and_taken_up_again() -> None:
    """SIGKILL: noticed within the limit, the source with its sound meanwhile, and after a restart
    the same prompts; every freeze is short."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with standin_process("--port", str(port)) as server:
        async with scene(
            request={"comfystream_url": url}, audio=True, media_timeout_s=2.0
        ) as found:
            killed_at = time.monotonic()
            server.kill()
            await found.wait_status(lambda s: s["status"] == "reconnecting")
            assert time.monotonic() - killed_at < NOTICE_S
            await found.wait_unprocessed()
            assert (await found.status())["processing"]["fallback_active"]
            async with standin_process("--port", str(port)) as again:
                found.server = again
                await found.wait_processed()
                await found.assert_unharmed(killed_at)
                found.assert_sound_is_whole()
                status = await found.status()
                assert status["processing"]["reconnects"] == 1
                assert (await again.state())["pipeline"]["prompts"][0]["2"]["class_type"]
                await found.stack.call("DELETE", f"/session/{found.session_id}")
    assert status["processing"]["frames_fallback"] > 0


async def test_a_frozen_server_is_replaced_and_not_hung_when_it_thaws() -> None:
    """SIGSTOP and SIGCONT: no offer into the frozen process, and none before it is safe."""
    async with scene(*SHORT_CONSENT) as found:
        frozen_at = time.monotonic()
        found.stack.comfystream.freeze()
        await found.wait_status(lambda s: s["status"] == "reconnecting")
        assert time.monotonic() - frozen_at < NOTICE_S
        await found.wait_unprocessed()
        found.stack.comfystream.thaw()
        await found.wait_processed()
        await found.assert_unharmed(frozen_at)
        assert (await found.status())["processing"]["reconnects"] == 1
        await assert_never_endangered(found)


async def test_a_short_standstill_does_not_cost_the_connection() -> None:
    """The workflow stands for less than the limit: the source is seen, nothing reconnects."""
    async with scene(media_timeout_s=5.0) as found:
        stood_at = time.monotonic()
        await found.stack.comfystream.set_faults(frozen=True)
        await found.wait_unprocessed()
        await found.stack.comfystream.set_faults(frozen=False)
        await found.wait_processed()
        assert (await found.status())["processing"]["reconnects"] == 0
        await found.assert_unharmed(stood_at)


async def test_a_video_sender_that_dies_gets_a_new_connection() -> None:
    """Still "connected", nothing comes: noticed by what comes back, replaced cleanly."""
    async with scene("--video-sender-dies-after", "40") as found:
        await found.wait_status(lambda s: s["status"] == "reconnecting")
        status = await found.wait_status(lambda s: s["processing"]["error"])
        assert status["processing"]["error_code"] == "media_timeout"
        await found.wait_unprocessed()
        assert found.longest_freeze_s(found.viewer.frames[0].seen_at) < FREEZE_S
        await found.stack.comfystream.clear_faults()
        await found.wait_processed()
        await found.assert_unharmed()
        await assert_never_endangered(found)


@pytest.mark.parametrize("egress", ["transcode", "copy"])
async def test_media_that_can_not_be_decoded_is_no_answer(egress: str) -> None:
    """The source is seen instead, and the connection is replaced; also where pictures are passed
    on as they come, which shows the end of it to nobody who does not decode them."""
    async with scene(request={"egress": egress}) as found:
        broken_at = time.monotonic()
        await found.stack.comfystream.set_faults(undecodable=True)
        await found.wait_processing(lambda p: p["error_code"] == "media_undecodable")
        assert time.monotonic() - broken_at < NOTICE_S
        await found.wait_unprocessed()
        await found.stack.comfystream.clear_faults()
        await found.wait_processed()
        await found.assert_unharmed(broken_at)


async def test_a_workflow_that_the_server_does_not_run_is_told() -> None:
    """An unknown class: ComfyStream says 200 and passes the pictures through."""
    async with scene(request={"prompts": UNKNOWN}, warm=False) as found:
        began = time.monotonic()
        status = await found.wait_status(lambda s: s["processing"]["error_code"])
        assert time.monotonic() - began < NOTICE_S
        assert status["processing"]["error_code"] == "workflow_not_running"
        assert "NotThere" in status["processing"]["error"]
        assert status["status"] == "active"
        await found.wait_status(lambda s: s["health"] == "degraded_processing")
        found.inverts = False
        await found.assert_unharmed()


async def test_a_node_that_fails_later_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server switches to its own workflow in the middle of the stream."""
    monkeypatch.setattr("relay.processing.workflow_watch.CHECK_INTERVAL_S", 0.2)
    async with scene("--fail-after-runs", "50", media_timeout_s=8.0) as found:
        assert (await found.status())["processing"]["error_code"] is None
        await found.wait_unprocessed()
        failed_at = time.monotonic()
        await found.wait_processing(lambda p: p["error_code"] == "workflow_not_running")
        assert time.monotonic() - failed_at < NOTICE_S
        assert (await found.status())["processing"]["reconnects"] == 0
        # What the failing run dropped shifts the labels of what the server passes through.
        await found.assert_unharmed(own_times=False)


async def test_a_server_that_does_not_answer_on_its_control_channel_does_no_harm() -> None:
    """Nothing is known about its nodes then, and nothing said."""
    async with scene("--control-silent") as found:
        await found.wait_processed(20)
        assert (await found.status())["processing"]["error_code"] is None


def probe(stream: bytes) -> tuple[list[tuple[int, int]], list[int]]:
    """Sizes and times of the pictures of a transport stream, by ffprobe, which may not complain."""
    done = subprocess.run(
        [
            *("ffprobe", "-v", "error", "-select_streams", "v", "-of", "json"),
            *("-show_entries", "frame=width,height,pts", "-"),
        ],
        input=stream,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b"", done.stderr.decode()
    frames = json.loads(done.stdout)["frames"]
    sizes = [(frame["width"], frame["height"]) for frame in frames]
    return sizes, [frame["pts"] for frame in frames]


async def test_another_size_comes_back_and_goes_out() -> None:
    """The output follows the server's pictures, and the source's when they take their place: one
    stream, whose every picture ffprobe decodes without a complaint."""
    async with scene() as found:
        began = time.monotonic()
        await found.stack.comfystream.set_faults(output_width=192, output_height=128)
        await found.viewer.wait_for(lambda v: v.frames[-1].width == 192)
        await found.stack.comfystream.set_faults(frozen=True)
        await found.viewer.wait_for(lambda v: v.frames[-1].width == 256)
        await found.stack.comfystream.set_faults(frozen=False)
        await found.viewer.wait_for(lambda v: v.frames[-1].width == 192)
        await found.assert_unharmed(began)
        await found.stack.call("DELETE", f"/session/{found.session_id}")
        await found.viewer.wait_for(lambda v: v.ended)
        sizes, times = await asyncio.to_thread(probe, b"".join(found.viewer.segments))
    changes = [size for size, before in zip(sizes, [None, *sizes], strict=False) if size != before]
    # The server may still have had frames of the other size under way.
    assert changes[0] == changes[2] == (256, 256)
    assert changes[1] == changes[3] == (192, 128)
    assert times == [frame.pts for frame in found.viewer.frames]
    assert times == sorted(set(times))


async def test_an_odd_size_that_kills_the_server_s_sender_is_survived() -> None:
    """No video for the rest of the connection: the source is seen, then a new connection."""
    async with scene() as found:
        await found.stack.comfystream.set_faults(output_width=255, output_height=129)
        broken_at = time.monotonic()
        await found.wait_status(lambda s: s["status"] == "reconnecting")
        assert time.monotonic() - broken_at < NOTICE_S
        await found.stack.comfystream.clear_faults()
        await found.wait_processed()
        await found.assert_unharmed(broken_at)


async def test_without_a_fallback_the_picture_stands() -> None:
    """`none`: nothing goes out until processed frames come again."""
    async with scene(request={"fallback": "none"}) as found:
        frozen_at = time.monotonic()
        await found.stack.comfystream.set_faults(frozen=True)
        await found.wait_status(lambda s: s["status"] == "reconnecting")
        assert time.monotonic() - frozen_at < NOTICE_S
        await found.stack.comfystream.clear_faults()
        await found.wait_processed()
        await found.assert_time_rises()
        assert all(frame.inverted for frame in found.viewer.frames)
        assert (await found.status())["processing"]["frames_fallback"] == 0


async def test_with_repeat_the_last_processed_picture_stays_and_time_goes_on() -> None:
    """`repeat`: the same picture under new times, nothing unprocessed, until frames come again."""
    async with scene(request={"fallback": "repeat"}) as found:
        await found.stack.comfystream.set_faults(frozen=True)
        await found.wait_processing(lambda p: p["frames_fallback"] > 10)
        await found.stack.comfystream.clear_faults()
        await found.wait_processing(lambda p: not p["fallback_active"])
        await found.wait_processed(20)
        frames = found.viewer.frames
        assert all(frame.inverted for frame in frames)
        await found.assert_unharmed(own_times=False)
        assert any(a.number == b.number for a, b in pairwise(frames))


async def test_a_warm_server_shows_no_unprocessed_frame() -> None:
    """From the first frame on the output is processed."""
    async with scene() as found:
        await found.wait_processed(20)
        assert all(frame.inverted for frame in found.viewer.frames)
        assert (await found.status())["processing"]["frames_fallback"] == 0


async def test_processing_that_fails_for_too_long_ends_the_session() -> None:
    """After RELAY_RECONNECT_LIMIT_S: failed, processing_failed, with the last reason."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with scene(
        request={"comfystream_url": nowhere}, warm=False, reconnect_limit_s=1.5
    ) as found:
        began = time.monotonic()
        status = await found.wait_status(lambda s: s["status"] == "failed")
        assert time.monotonic() - began < 1.5 + NOTICE_S
        assert status["end_reason"] == "processing_failed"
        assert status["error_code"] == "comfystream_unreachable"
        await found.viewer.wait_for(lambda v: v.ended)
