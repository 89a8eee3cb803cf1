"""The benchmark's endless source: what a player would see is live video without a seam."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.looped_clip import PTS_MODULUS, LoopedClip
from relay.media.access_unit import AccessUnit
from relay.media.decoder import VideoDecoder
from relay.media.demuxer import TsDemuxer

FPS, SECONDS = 10, 2


@pytest.fixture(scope="module")
def clip() -> LoopedClip:
    return LoopedClip(64, 64, FPS, seconds=SECONDS, bit_rate=100_000)


def read(clip: LoopedClip, numbers: range) -> list[AccessUnit]:
    demuxer, units = TsDemuxer(), []
    for number in numbers:
        frame = clip.frame(number)
        if frame.starts_segment:
            units += demuxer.segment_boundary(0.0)
        units += demuxer.feed(frame.data, 0.0)
    return units + demuxer.segment_boundary(0.0)


def test_time_goes_on_over_the_end_of_the_loop(clip: LoopedClip) -> None:
    """Three rounds: every frame once, at its own time, whole, with a keyframe a second."""
    numbers = range(3 * SECONDS * FPS)
    units = read(clip, numbers)
    assert [unit.pts % PTS_MODULUS for unit in units] == [clip.frame(n).pts for n in numbers]
    assert {after.pts - before.pts for before, after in pairwise(units)} == {90_000 // FPS}
    assert not any(unit.damaged for unit in units)
    assert [unit.keyframe for unit in units] == [n % FPS == 0 for n in numbers]
    decoder = VideoDecoder("h264")
    pictures = [picture for unit in units for picture in decoder.decode(unit)]
    decoder.close()
    assert len(pictures) == len(numbers)


def test_time_wraps_as_it_does_on_the_wire(clip: LoopedClip) -> None:
    """After 26.5 hours, at 2^33 ticks."""
    over = (PTS_MODULUS - clip.frame(0).pts) * FPS // 90_000 // FPS * FPS
    units = read(clip, range(over - FPS, over + 2 * FPS))
    assert clip.frame(over - FPS).pts > clip.frame(over + FPS).pts
    assert {after.pts - before.pts for before, after in pairwise(units)} == {90_000 // FPS}
