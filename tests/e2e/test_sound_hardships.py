"""Sound that starts late, pauses, changes its format and ends early, beside steady pictures."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.media.access_unit import CLOCK_RATE, AccessUnit
from relay.media.demuxer import TsDemuxer
from tests.e2e.stack import INVERT, Viewer, held_open, in_background, running_stack
from tests.sound_listener import hear
from tests.sound_source import interleaved, live_chunks, tone_units

OPTIONS = PatternOptions(frames=360, plain=True, audio=False)
START = OPTIONS.start_pts
SOUNDING = [(2.0, 4.0), (7.5, 9.0), (9.0, 10.5)]
"""Seconds in which there is sound: from the third on it is another format."""


def second(time_s: float) -> int:
    return START + round(time_s * CLOCK_RATE)


def pictures() -> list[AccessUnit]:
    demuxer = TsDemuxer()
    units = [u for chunk in generate(OPTIONS) for u in demuxer.feed(chunk.data, 0.0)]
    return units + demuxer.segment_boundary(0.0)


def sounds() -> list[AccessUnit]:
    """Late, with a pause, 44.1 kHz stereo; then 16 kHz mono; over before the pictures are."""
    formats: list[dict[str, Any]] = [
        {"rate": 44_100},
        {"rate": 44_100},
        {"rate": 16_000, "layout": "mono"},
    ]
    units: list[AccessUnit] = []
    for (begin, end), form in zip(SOUNDING, formats, strict=True):
        part = tone_units(end - begin, start_pts=second(begin), **form)
        units += [u for u in part if second(begin) - 1 <= u.pts < second(end)]
    return units


async def relay(viewer: Viewer, **request: Any) -> dict[str, Any]:
    sound = sounds()
    last = sound[-1].pts
    units = interleaved(pictures(), sound)
    video = next(u.stream for u in units if u.stream.kind == "video")
    heard = threading.Event()
    chunks = held_open(live_chunks(units, video=video, audio=sound[0].stream), heard)
    async with running_stack() as stack:
        async with in_background(publish_live(stack.channel("camera"), chunks)) as (source,):
            session = await stack.start("camera", **request)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await viewer.wait_for(lambda v: bool(v.audio) and v.audio[-1].pts >= last, 40)
                heard.set()
                await source
                await viewer.wait_for(lambda v: v.ended)
        return await stack.status(session)


@pytest.mark.timeout(60)
async def test_around_the_server_it_stays_what_it_is() -> None:
    """Every unit once, untouched, at its time, and none that was not there."""
    viewer = Viewer()
    status = await relay(viewer, prompts=[])
    assert [(u.pts, u.data) for u in viewer.audio] == [(u.pts, u.data) for u in sounds()]
    assert status["audio"]["mode"] == "bypass"
    assert status["audio"]["dropped"] == {}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("prompts", [[], INVERT], ids=["passthrough", "workflow"])
async def test_through_the_server_it_becomes_one_unbroken_row(prompts: Any) -> None:
    """One format without a gap from first to last; the tone where it was, silence elsewhere; and
    the server's sound survives a pause that would end it."""
    viewer = Viewer()
    status = await relay(viewer, prompts=prompts, audio="process")
    assert {b.pts - a.pts for a, b in pairwise(viewer.audio)} == {1920}
    heard = hear(viewer.audio)
    assert viewer.audio[0].pts < second(2.0)
    assert viewer.audio[-1].pts > second(10.5)
    for begin, end in SOUNDING:
        assert heard.quiet_spans(second(begin + 0.1), second(end - 0.1)) == []
        assert abs(heard.tone(0, second(begin + 0.5), 0.5) - 1000) < 10
    for begin, end in [(1.0, 1.95), (4.1, 7.45), (10.6, 10.9)]:
        quiet = heard.at(second(begin), end - begin)
        assert not len(quiet[0]) or abs(quiet).max() < 0.02
    first, resumed = (o for o in heard.onsets(0.02))
    # The first frame of a stream that is joined comes out of an AAC decoder faded in.
    assert abs(first - second(2.0)) < CLOCK_RATE * 0.03
    assert abs(resumed - second(7.5)) < CLOCK_RATE * 0.03
    audio = status["audio"]
    assert audio["silence_ms"] > 3000
    out = audio["server"]["blocks_out"]
    assert out["processed"] > 50, out
    assert audio["server"]["placed_anew"] == 0
