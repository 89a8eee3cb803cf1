"""Numbered frames through the real path where coded pictures are passed on as they are."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest

from demo import barcode
from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import (
    INVERT,
    Stack,
    Viewer,
    assert_every_frame_once_with_its_time,
    in_background,
    running_stack,
)

FRAMES = 150


def live_pattern(stack: Stack, options: PatternOptions) -> object:
    return publish_live(stack.channel("camera"), generate(options))


def decoded_alone(segment: bytes) -> list[int | None]:
    """The numbers in a segment's pictures, for a player that begins with it."""
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        frames = list(container.decode(video=0))
    assert not any(frame.is_corrupt for frame in frames)
    readings = [barcode.read(frame) for frame in frames]
    return [reading.number if reading else None for reading in readings]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("coding", "prompts"),
    [({"egress": "copy"}, INVERT), ({"egress": "auto"}, [])],
    ids=["copy-workflow", "auto-passthrough"],
)
async def test_every_frame_arrives_once_with_its_time(
    coding: dict[str, str], prompts: list[dict[str, Any]]
) -> None:
    """As exactly as if it had been decoded and encoded; each segment can be played by itself; and
    it was copied."""
    options = PatternOptions(frames=FRAMES, plain=True)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(live_pattern(stack, options)) as (source,):
            session = await stack.start("camera", prompts=prompts, **coding)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: len(v.frames) > 60)
                flowing = (await stack.status(session))["copying"]
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    assert_every_frame_once_with_its_time(viewer, options.pts, FRAMES - 1, status, server)
    assert len(viewer.frames) >= 100
    assert all(frame.inverted is bool(prompts) for frame in viewer.frames)
    for side, mode in coding.items():
        assert flowing[side] == {"mode": mode, "copies": True, "reason": None}
    apart = [number for segment in viewer.segments for number in decoded_alone(segment)]
    assert apart == [frame.number for frame in viewer.frames]
    assert len(viewer.segments) >= 5, "half a second each"


@pytest.mark.timeout(60)
async def test_the_mode_changes_while_frames_flow() -> None:
    """By PATCH, there and back; no frame is missing, none comes twice, each has its time."""
    options = PatternOptions(frames=240, plain=True)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(live_pattern(stack, options)) as (source,):
            session = await stack.start("camera")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                for mode in ("copy", "transcode", "auto"):
                    seen = len(viewer.frames)
                    await viewer.wait_for(lambda v, seen=seen: len(v.frames) > seen + 10)
                    change = {"egress": mode}
                    code, answer = await stack.call("PATCH", f"/session/{session}", json=change)
                    assert (code, answer["result"]) == (200, "applied")
                    await stack.wait_for_status(
                        session,
                        lambda s, mode=mode: all(
                            side["mode"] == mode and side["copies"] == (mode != "transcode")
                            for side in s["copying"].values()
                        ),
                    )
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    assert_every_frame_once_with_its_time(viewer, options.pts, 239, status, server)
    apart = [number for segment in viewer.segments for number in decoded_alone(segment)]
    assert apart == [frame.number for frame in viewer.frames]


@pytest.mark.timeout(60)
async def test_while_the_server_is_away_the_source_is_shown() -> None:
    """Decoded pictures in between, then copies again; a preview is there all along."""
    options = PatternOptions(frames=None, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack(reconnect_first_wait_s=0.2, media_timeout_s=0.6) as stack:
        async with in_background(live_pattern(stack, options)):
            session = await stack.start("camera", prompts=[], egress="copy")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await stack.wait_for_status(session, copies_all)
                await stack.comfystream.set_faults(withhold_media=True)
                await stack.wait_for_status(session, lambda s: s["processing"]["fallback_active"])
                reason = (await stack.status(session))["copying"]["egress"]["reason"]
                await stack.comfystream.clear_faults()
                await stack.wait_for_status(session, copies_all)
                async with stack.http.get(
                    f"{stack.relay_url}/session/{session}/preview/output.jpg"
                ) as response:
                    assert (response.status, response.content_type) == (200, "image/jpeg")
                seen = len(viewer.frames)
                await viewer.wait_for(lambda v: len(v.frames) > seen + 10)
    assert reason == "fallback"
    numbers = [frame.number for frame in viewer.frames]
    assert None not in numbers
    assert [f.pts for f in viewer.frames] == [options.pts(n) for n in numbers if n is not None]
    assert numbers == sorted(set(numbers))


def copies_all(status: dict[str, Any]) -> bool:
    return all(side["copies"] for side in status["copying"].values() if side["mode"] != "transcode")
