"""Numbered frames through the real path where coded pictures are passed on as they are."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import pytest

from demo import barcode
from demo.live_publisher import publish_live
from demo.segment_writer import SourceChunk
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import (
    INVERT,
    Stack,
    Viewer,
    assert_every_frame_once_with_its_time,
    in_background,
    running_stack,
)
from tests.peers.lossy_udp import lossy_udp

FRAMES = 120
SIZE = 256
FPS = Fraction(20)
"""Little to do for those who share a machine with other tests."""
SMALL: dict[str, Any] = {"width": SIZE, "height": SIZE}
COPIED: dict[str, Any] = {**SMALL, "prompts": [], "ingest": "copy", "egress": "copy"}
PLAIN = PatternOptions(SIZE, SIZE, FPS, plain=True, audio=False)


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
    [
        ({"egress": "copy"}, INVERT),
        ({"ingest": "copy", "egress": "copy"}, INVERT),
        ({"ingest": "auto", "egress": "auto"}, []),
    ],
    ids=["egress", "workflow", "passthrough"],
)
async def test_every_frame_arrives_once_with_its_time(
    coding: dict[str, str], prompts: list[dict[str, Any]]
) -> None:
    """As exactly as if it had been decoded and encoded; each segment can be played by itself; and
    it was copied."""
    options = replace(PLAIN, frames=FRAMES, audio=True)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(live_pattern(stack, options)) as (source,):
            session = await stack.start("camera", **SMALL, prompts=prompts, **coding)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: len(v.frames) > 20)
                if not prompts:  # on a busy machine a workflow may be slower than the input
                    await stack.wait_for_status(session, copies_all)
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    assert_every_frame_once_with_its_time(viewer, options.pts, FRAMES - 1, status, server)
    assert status["copying"]["egress"]["frames"] > 0
    assert viewer.frames[-1].inverted is bool(prompts)
    apart = [number for segment in viewer.segments for number in decoded_alone(segment)]
    assert apart == [frame.number for frame in viewer.frames]
    assert len(viewer.segments) >= 5, "half a second each"


@pytest.mark.timeout(60)
async def test_the_mode_changes_while_frames_flow() -> None:
    """By PATCH, there and back; no frame is missing, none comes twice, each has its time."""
    options = PLAIN
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(live_pattern(stack, options)):
            session = await stack.start("camera", **SMALL, prompts=[])
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                for mode in ("copy", "transcode", "copy"):
                    seen = len(viewer.frames)
                    await viewer.wait_for(lambda v, seen=seen: len(v.frames) > seen + 10)
                    change = {"ingest": mode, "egress": mode}
                    code, answer = await stack.call("PATCH", f"/session/{session}", json=change)
                    assert (code, answer["result"]) == (200, "applied")
                    await stack.wait_for_status(
                        session,
                        lambda s, mode=mode: all(
                            side["mode"] == mode and side["copies"] == (mode != "transcode")
                            for side in s["copying"].values()
                        ),
                    )
                seen = len(viewer.segments)
                await viewer.wait_for(lambda v: len(v.segments) > seen + 2)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    numbers = [frame.number for frame in viewer.frames]
    last = numbers[-1]
    assert last is not None
    assert_every_frame_once_with_its_time(viewer, options.pts, last, status, server)
    apart = [number for segment in viewer.segments for number in decoded_alone(segment)]
    assert apart == numbers[: len(apart)]


@pytest.mark.timeout(60)
async def test_while_nothing_is_processed_the_source_is_shown() -> None:
    """The server is away, or the session paused: decoded pictures in between, then copies again;
    a preview is there all along."""
    options = PLAIN
    viewer = Viewer()
    async with running_stack(reconnect_first_wait_s=0.2, media_timeout_s=0.6) as stack:
        async with in_background(live_pattern(stack, options)):
            session = await stack.start("camera", **COPIED)
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
                attempts = (await stack.status(session))["processing"]["attempts"]
                await stack.call("PATCH", f"/session/{session}", json={"paused": True})
                # A second later a picture is sent again, to keep the connection alive.
                await stack.wait_for_status(
                    session, lambda s: s["copying"]["ingest"]["reason"] == "input_paused"
                )
                await stack.call("PATCH", f"/session/{session}", json={"paused": False})
                status = await stack.wait_for_status(session, copies_all)
                seen = len(viewer.frames)
                await viewer.wait_for(lambda v: len(v.frames) > seen + 10)
    assert reason == "fallback"
    assert status["processing"]["attempts"] == attempts
    numbers = [frame.number for frame in viewer.frames]
    assert None not in numbers
    assert [f.pts for f in viewer.frames] == [options.pts(n) for n in numbers if n is not None]
    assert numbers == sorted(set(numbers))


def one_after_another(*parts: PatternOptions) -> Iterator[SourceChunk]:
    """Several patterns as one stream."""
    segment, due_s = 0, 0.0
    for options in parts:
        for chunk in generate(options):
            yield replace(chunk, segment=segment + chunk.segment, due_s=due_s + chunk.due_s)
        segment += chunk.segment + 1
        due_s += (options.frames or 0) / float(options.fps)


@pytest.mark.timeout(90)
async def test_what_can_not_be_copied_is_transcoded_and_says_why() -> None:
    """High profile in slices goes as it is; another size, and B-frames, do not; and in each change
    of the source, in the middle of the session, no frame is lost or has another's time."""
    kinds: list[dict[str, Any]] = [
        {"profile": "high", "slices": 4, "preset": "superfast"},
        {"width": 320, "height": 192},
        {"profile": "main", "b_frames": 2, "preset": "superfast"},
        {},
    ]
    frames = 60
    parts = [
        replace(
            PLAIN,
            frames=frames,
            first_number=frames * n,
            start_pts=PLAIN.pts(frames * n),
            gop=10,
            **kind,
        )
        for n, kind in enumerate(kinds)
    ]
    viewer = Viewer()
    async with running_stack() as stack:
        source = publish_live(stack.channel("camera"), one_after_another(*parts))
        async with in_background(source):
            session = await stack.start("camera", **COPIED)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                reasons = set()
                while (
                    not viewer.ended
                ):  # a busy server adds reasons of its own, and takes none away
                    ingest = (await stack.status(session))["copying"]["ingest"]
                    reasons.add(ingest["reason"])
                    await asyncio.sleep(0.02)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    assert_every_frame_once_with_its_time(viewer, PLAIN.pts, 4 * frames - 1, status, server)
    assert {(frame.width, frame.height) for frame in viewer.frames} == {(SIZE, SIZE)}
    assert reasons >= {None, "size", "b_frames"}


@pytest.mark.timeout(60)
async def test_what_is_lost_on_the_way_is_not_published_as_if_it_were_there() -> None:
    """With packets lost both ways: every segment can be decoded from its start without a fault,
    each frame has its own time, and once nothing is lost any more all is copied again."""
    options = PLAIN
    viewer = Viewer()
    with lossy_udp() as way:
        async with running_stack(media_timeout_s=8.0) as stack:
            async with in_background(live_pattern(stack, options)):
                session = await stack.start(
                    "camera", **SMALL, prompts=[], ingest="copy", egress="copy"
                )
                async with in_background(viewer.watch(stack.channel("camera-processed"))):
                    await stack.wait_for_status(session, copies_all)
                    way.loss = 0.03
                    seen = len(viewer.frames)
                    await viewer.wait_for(lambda v: len(v.frames) > seen + 60)
                    way.loss = 0.0
                    await stack.wait_for_status(session, copies_all)
                    status = await stack.status(session)
                    seen = len(viewer.segments)
                    await viewer.wait_for(lambda v: len(v.segments) > seen + 2)
    assert way.lost > 0
    assert status["processing"]["reconnects"] == 0
    times = [frame.pts for frame in viewer.frames]
    assert times == sorted(set(times))
    for segment in viewer.segments:
        decoded_alone(segment)
    wrong = [f for f in viewer.frames if f.number is not None and f.pts != options.pts(f.number)]
    assert len(wrong) <= len(viewer.frames) // 10, "what a loss leaves of a picture"


def copies_all(status: dict[str, Any]) -> bool:
    return all(side["copies"] for side in status["copying"].values() if side["mode"] != "transcode")
