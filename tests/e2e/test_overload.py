"""More frames than the workflow takes, or fewer than the output should have."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.media.access_unit import AccessUnit, DecodedFrame
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.observe.load_meter import CODEC_WAIT_LIMIT_S, Load
from relay.session.shedding import PATIENCE_S
from tests.e2e.stack import (
    SeenFrame,
    Viewer,
    assert_every_frame_once_with_its_time,
    held_open,
    in_background,
    running_stack,
)


@pytest.mark.timeout(60)
async def test_wait_keeps_every_frame_of_a_source_that_is_too_fast() -> None:
    """30 fps into a workflow of 50 ms with room for four frames: each comes out once, in order,
    with its time; nothing is dropped anywhere."""
    options = PatternOptions(frames=90, plain=True)
    viewer = Viewer()
    last_segment_reached = threading.Event()

    async with running_stack("--process-ms", "50", decoded_frames_capacity=4) as stack:
        chunks = held_open(generate(options), last_segment_reached)
        async with in_background(publish_live(stack.channel("camera"), chunks)):
            session = await stack.start("camera", on_overload="wait")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: any((f.number or 0) >= 60 for f in v.frames), 30)
                last_segment_reached.set()
                await viewer.wait_for(lambda v: v.ended, 30)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    numbers = [frame.number for frame in viewer.frames]
    first = numbers[0]
    assert first is not None
    assert server["frames"]["replaced"] == 0
    assert numbers == list(range(first, options.frames or 0))
    assert len(numbers) > 60
    assert [frame.pts for frame in viewer.frames] == [
        options.pts(n) for n in numbers if n is not None
    ]
    assert status["on_overload"] == "wait"
    assert status["processing"]["fallback"] == "none"
    assert status["frames_dropped"] == {}


@pytest.mark.timeout(60)
async def test_wait_tells_of_segments_that_the_server_had_given_up() -> None:
    """A channel that keeps three short segments, and a workflow of 0.3 s: where the relay
    had to go on without some, it says how many and how often."""
    options = PatternOptions(frames=600, gop=6, segment_s=0.2, plain=True, audio=False)
    async with running_stack("--process-ms", "300", decoded_frames_capacity=1) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera", on_overload="wait")
            status = await stack.wait_for_status(session, lambda s: s["input"]["jumps"] > 0)
            assert status["input"]["segments_skipped"] > 0
            assert (await stack.call("DELETE", f"/session/{session}"))[0] == 200


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fps", [15, 60])
async def test_the_output_has_the_rate_that_was_asked_for(fps: int) -> None:
    """A source of 30 fps: the output's times are a grid of that rate, strictly rising, and each
    place shows the source's picture of that time, or the one before it. Without a workflow: one
    that drops frames, on a busy machine, would put wrong times on others."""
    options = PatternOptions(frames=150, plain=True)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera", output_fps=fps, prompts=[])
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: v.ended, 30)
        status = await stack.status(session)
    step = 90_000 // fps
    times = [frame.pts for frame in viewer.frames]
    steps = [after - before for before, after in pairwise(times)]
    assert len(times) > 3 * fps
    assert all(gap > 0 and gap % step == 0 for gap in steps)
    assert steps.count(step) > 0.6 * len(steps)
    for frame in viewer.frames:
        assert frame.number is not None
        assert frame.pts - options.pts(frame.number) >= -step // 2
    assert status["output_fps"] == fps
    assert status["output"]["frames_repeated"] >= (60 if fps == 60 else 0)
    dropped = status["frames_dropped"].get("processed_frames", {}).get("output_rate", 0)
    assert dropped > 0 or fps > options.fps


@pytest.mark.timeout(60)
async def test_a_relay_with_too_much_to_do_sheds_and_takes_it_back() -> None:
    """Previews, then every second frame of the session that came last, and not of the one before;
    what goes out is right all the same. Then the frames come back, then the previews."""
    options = PatternOptions(plain=True, audio=False)
    overloaded, calm = Load(cpu=1.0, codec_wait_s=2 * CODEC_WAIT_LIMIT_S), Load(cpu=0.1)
    viewer = Viewer()

    def shed(status: dict[str, Any]) -> int:
        return int(status["frames_dropped"].get("decoded_frames", {}).get("shed", 0))

    async with running_stack(shed=True) as stack:
        await stack.sessions._load.aclose()  # all figures are the test's
        async with (
            in_background(publish_live(stack.channel("first"), generate(options))),
            in_background(publish_live(stack.channel("second"), generate(options))),
        ):
            first = await stack.start("first", prompts=[])
            second = await stack.start("second", prompts=[])
            await stack.wait_for_status(second, lambda s: s["fps_out"] > 0)
            preview = f"/session/{second}/preview/input.jpg"
            for _ in range(6):
                stack.sessions._load.note(overloaded)
            await stack.wait_for_status(second, lambda s: s["shed"] and shed(s) > 8)
            assert (await stack.call("GET", "/capacity"))[1]["shed"] == {
                "previews": True,
                "sessions": [second],
            }
            status, answer = await stack.call("GET", preview)
            assert (status, answer["code"]) == (503, "overloaded")
            assert shed(await stack.status(first)) == 0
            async with in_background(viewer.watch(stack.channel("second-processed"))):
                await viewer.wait_for(lambda v: len(v.frames) > 10)
            for _ in range(3 * PATIENCE_S):
                stack.sessions._load.note(calm)
            count = shed(await stack.wait_for_status(second, lambda s: not s["shed"]))
            assert (await stack.call("GET", "/capacity"))[1]["shed"] == {
                "previews": False,
                "sessions": [],
            }
            before = (await stack.status(second))["output"]["frames"]
            status_now = await stack.wait_for_status(
                second, lambda s: s["output"]["frames"] > before + 10
            )
            assert shed(status_now) == count
            async with stack.http.get(stack.relay_url + preview) as response:
                assert response.status == 200
    for frame in viewer.frames:
        assert frame.number is not None
        assert frame.pts == options.pts(frame.number)


@pytest.mark.timeout(60)
async def test_a_decoder_that_falls_behind_goes_on_with_a_keyframe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decoding takes three times as long as there is: pictures are left out up to a keyframe and
    counted, those that come out are not old, the sound is whole; then all come again."""
    behind_s = 0.6
    monkeypatch.setattr("relay.pipeline.decoding.BEHIND_S", behind_s)
    options = PatternOptions(gop=10, plain=True)
    slow = threading.Event()
    decode = TrickleStreamDecoder.decode

    def decode_slowly(self: TrickleStreamDecoder, unit: AccessUnit) -> list[DecodedFrame]:
        if slow.is_set() and threading.current_thread().name.startswith("codec"):
            time.sleep(float(3 / options.fps))
        return decode(self, unit)

    def left_out(status: dict[str, Any]) -> int:
        return int(status["frames_dropped"].get("coded_frames", {}).get("relay_late", 0))

    def age_s(frame: SeenFrame) -> float:
        assert frame.number is not None
        return frame.seen_at - float(frame.number / options.fps)

    monkeypatch.setattr(TrickleStreamDecoder, "decode", decode_slowly)
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera", prompts=[])
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: len(v.frames) > 20)
                usual_s = median(age_s(frame) for frame in viewer.frames)
                slow.set()
                began = len(viewer.frames)
                await stack.wait_for_status(session, lambda s: left_out(s) > 60)
                ages_s = [age_s(frame) - usual_s for frame in viewer.frames[began:]]
                slow.clear()
                start = len(viewer.frames)
                await viewer.wait_for(
                    lambda v: is_whole(v.frames[-20:]) and len(v.frames) > start + 20
                )
            status = await stack.status(session)
            server = await stack.comfystream.state()
    assert ages_s
    assert max(ages_s) < 2 * behind_s + 1
    assert status["input"]["jumps"] == 0
    last = viewer.frames[-1].number or 0
    assert_every_frame_once_with_its_time(viewer, options.pts, last, status, server)
    steps = {after.pts - before.pts for before, after in pairwise(viewer.audio)}
    assert steps <= {1919, 1920, 1921}, sorted(steps)


def is_whole(frames: list[SeenFrame]) -> bool:
    """Whether none is missing between the first and the last."""
    return all((b.number or 0) == (a.number or 0) + 1 for a, b in pairwise(frames))
