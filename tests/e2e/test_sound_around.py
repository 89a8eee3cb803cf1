"""Sound that goes around the server: untouched, in time, whatever the pictures do."""

from __future__ import annotations

from itertools import pairwise

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay import session_health as session_health
from relay.media.access_unit import ElementaryStream, MediaKind
from tests.e2e.stack import Viewer, in_background, running_stack
from tests.sound_source import live_chunks, tone_units

H264 = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("codec", ["aac", "libopus"])
async def test_a_channel_of_sound_alone_flows(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte and to the tick, from the first unit that was live on; the session is well
    without pictures; the end ends it."""
    monkeypatch.setattr(session_health, "FIRST_S", 0.0)
    sound = tone_units(3.0, codec=codec, start_pts=900_000)
    viewer = Viewer()
    async with running_stack() as stack:
        chunks = live_chunks(sound, audio=sound[0].stream)
        async with in_background(publish_live(stack.channel("radio"), chunks)) as (source,):
            session = await stack.start("radio", prompts=[])
            async with in_background(viewer.watch(stack.channel("radio-processed"))):
                await viewer.wait_for(lambda v: len(v.audio) > 20)
                health = (await stack.status(session))["health"]
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
    assert health == "ok"
    got = [(unit.pts, unit.data) for unit in viewer.audio]
    assert got == [(unit.pts, unit.data) for unit in sound if unit.pts >= got[0][0]]
    assert len(got) > len(sound) * 0.6
    assert viewer.audio[0].stream == sound[0].stream
    assert len(viewer.segments) >= 4
    assert (status["status"], status["end_reason"]) == ("stopped", "input_ended")


@pytest.mark.timeout(60)
async def test_listed_video_that_never_comes_does_not_hold_sound() -> None:
    """The bounded wait for a picture is over after two seconds; from then on sound flows."""
    sound = tone_units(5.0, start_pts=900_000)
    viewer = Viewer()
    async with running_stack() as stack:
        chunks = live_chunks(sound, video=H264, audio=sound[0].stream)
        async with in_background(publish_live(stack.channel("radio"), chunks)) as (source,):
            await stack.start("radio", prompts=[])
            async with in_background(viewer.watch(stack.channel("radio-processed"))):
                await source
                await viewer.wait_for(lambda v: v.ended)
    got = [unit.pts for unit in viewer.audio]
    assert got == [unit.pts for unit in sound if unit.pts >= got[0]]
    assert got[0] - sound[0].pts < 3.0 * 90_000


@pytest.mark.timeout(60)
async def test_a_server_that_stands_still_costs_no_sound() -> None:
    """F41: while nothing comes back from the server, sound goes on without a gap."""
    options = PatternOptions(frames=270, plain=True)
    source_viewer, viewer = Viewer(), Viewer()
    async with running_stack(media_timeout_s=30.0) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))) as (
            source,
        ):
            session = await stack.start("camera", prompts=[], fallback="none")
            async with in_background(
                source_viewer.watch(stack.channel("camera")),
                viewer.watch(stack.channel("camera-processed")),
            ):
                await viewer.wait_for(lambda v: len(v.frames) > 20)
                stack.comfystream.freeze()
                frozen_at = len(viewer.audio)
                await viewer.wait_for(lambda v: len(v.audio) > frozen_at + 100)
                stack.comfystream.thaw()
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
    steps = {b.pts - a.pts for a, b in pairwise(viewer.audio)}
    assert steps == {1920}
    sent = {unit.pts: unit.data for unit in source_viewer.audio}
    assert all(sent[unit.pts] == unit.data for unit in viewer.audio if unit.pts in sent)
    assert status["output"]["audio_released_late"] > 0
