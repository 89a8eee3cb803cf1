"""Metrics of real sessions: they say what happened, and go on when sessions end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.stack import Stack
from tests.faults.scene import scene
from tests.peers.ports import free_port
from tests.standin_process import standin_process

pytestmark = pytest.mark.timeout(90)

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(stack: Stack) -> Values:
    async with stack.http.get(f"{stack.relay_url}/metrics") as response:
        text = await response.text()
    return {
        (sample.name.removeprefix("trickle_relay_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values.get((name, frozenset(labels.items())), 0.0)


async def test_the_way_of_the_frames_is_in_the_metrics() -> None:
    """Each stage has counted them; connection, round trip and delays are there."""
    async with scene(watched=False, warm=False, audio=True) as found:
        await found.wait_processing(lambda p: p["frames_processed"] > 60)
        values = await scrape(found.stack)
        status = await found.status()
        for stage in ("decoded", "sent", "returned", "processed", "encoded", "published"):
            assert value(values, "frames_total", stage=stage, kind="video") > 50, stage
        assert value(values, "frames_total", stage="published", kind="audio") > 20
        assert value(values, "sessions", state="active") == 1
        for direction, result in (("in", "read"), ("out", "published")):
            assert value(values, "segments_total", direction=direction, result=result) > 1
            assert value(values, "segment_bytes_total", direction=direction) > 10_000
        assert value(values, "webrtc_connections", state="connected") == 1
        assert value(values, "webrtc_ice_connections", state="completed") == 1
        assert value(values, "webrtc_dtls_connections", state="connected") == 1
        assert 0 < value(values, "webrtc_rtt_seconds") < 5
        for stage in ("decode", "send_encode", "comfystream", "encode"):
            assert value(values, "stage_duration_seconds_count", stage=stage) > 50
        assert value(values, "end_to_end_latency_seconds_count") > 50
        assert value(values, "codec_busy_seconds_total") > 0
        assert value(values, "queue_capacity", queue="decoded_frames") == 100
        assert status["output"]["frames"] >= value(
            values, "frames_total", stage="published", kind="video"
        )


async def test_totals_survive_connections_and_sessions() -> None:
    """The server is killed and comes back, the session ends: no total ever goes back, and what
    stands now is gone."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    seen: list[Values] = []
    async with standin_process("--port", str(port)) as server:
        async with scene(request={"comfystream_url": url}, watched=False, warm=False) as found:
            await found.wait_processing(lambda p: p["frames_processed"] > 20)
            seen.append(await scrape(found.stack))
            server.kill()
            await found.wait_processing(lambda p: p["error_code"] == "comfystream_unreachable")
            seen.append(await scrape(found.stack))
            async with standin_process("--port", str(port)):
                await found.wait_processing(lambda p: p["reconnects"] == 1)
                before = (await found.status())["processing"]["frames_processed"]
                await found.wait_processing(lambda p: p["frames_processed"] > before + 10)
                seen.append(await scrape(found.stack))
                await found.stack.call("DELETE", f"/session/{found.session_id}")
                seen.append(await scrape(found.stack))
    for earlier, later in pairwise(seen):
        for (name, labels), count in earlier.items():
            if name.endswith(("_total", "_bucket", "_count")):
                assert later.get((name, labels), 0.0) >= count, (name, labels)
    last = seen[-1]
    assert value(last, "webrtc_reconnects_total", reason="comfystream_unreachable") == 1
    assert value(last, "webrtc_failures_total", code="media_timeout") == 1
    assert value(last, "sessions_ended_total", reason="requested") == 1
    assert value(last, "sessions", state="active") == 0
    assert value(last, "webrtc_connections", state="connected") == 0
    assert value(last, "frames_total", stage="fallback", kind="video") > 0
