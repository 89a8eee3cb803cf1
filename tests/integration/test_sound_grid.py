"""Any sound, put on the grid: in its place, of its length, and without gaps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import av
import numpy as np
import pytest

from relay.media.access_unit import CLOCK_RATE, AccessUnit
from relay.media.audio_decoder import AudioDecoder, PcmFrame
from relay.media.audio_grid import BLOCK_SAMPLES, BLOCK_TICKS, AudioGrid, Samples, SoundBlock
from tests.sound_source import encode, tone, tone_units

START = 900_000
FORMATS = [
    ("aac", rate, layout)
    for rate in (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
    for layout in ("mono", "stereo", "5.1")
] + [
    ("libopus", 8_000, "mono"),
    ("libopus", 48_000, "stereo"),
    ("libopus", 48_000, "5.1"),
    ("mp2", 16_000, "mono"),
    ("mp2", 48_000, "stereo"),
    ("libmp3lame", 44_100, "stereo"),
    ("ac3", 44_100, "stereo"),
    ("ac3", 48_000, "5.1"),
]


def on_grid(units: Iterable[AccessUnit]) -> tuple[AudioGrid, list[SoundBlock]]:
    decoder, grid = AudioDecoder(), AudioGrid()
    blocks = [b for unit in units for pcm in decoder.decode(unit) for b in grid.add(pcm)]
    assert decoder.errors == decoder.unknown == 0
    return grid, blocks + grid.finish()


@pytest.mark.parametrize("codec", ["aac", "libopus"])
def test_a_damaged_unit_silences_nothing_but_itself(codec: str) -> None:
    """The middle of one is missing: what comes after is heard as before."""
    units = tone_units(1.0, codec=codec, start_pts=START)
    decoder = AudioDecoder()
    whole = [pcm.pts for unit in units for pcm in decoder.decode(unit)]
    data = units[10].data
    units[10].data, units[10].damaged = data[: len(data) // 3] + data[-len(data) // 4 :], True
    decoder = AudioDecoder()
    heard = [pcm.pts for unit in units for pcm in decoder.decode(unit)]
    assert [pts for pts in heard if pts > units[11].pts] == [p for p in whole if p > units[11].pts]


def joined(blocks: list[SoundBlock]) -> Samples:
    return np.concatenate([block.samples for block in blocks])


def onset(blocks: list[SoundBlock], threshold: int = 1500) -> float:
    """When the left channel is first heard, in ticks."""
    return blocks[0].pts + float(np.argmax(np.abs(joined(blocks)[:, 0]) > threshold)) * 15 / 8


def assert_unbroken(blocks: list[SoundBlock]) -> None:
    assert {b.pts - a.pts for a, b in pairwise(blocks)} == {BLOCK_TICKS}
    assert all(block.samples.shape == (BLOCK_SAMPLES, 2) for block in blocks)


def strongest(samples: Samples, side: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples[:, side] * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * 48_000 / len(samples))


def pcm(samples: np.ndarray, pts: int, rate: int = 48_000) -> PcmFrame:
    """Stereo sound as a decoder would give it; samples of shape (n, 2)."""
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples, np.int16).reshape(1, -1), format="s16", layout="stereo"
    )
    frame.sample_rate = rate
    return PcmFrame(frame, pts)


def steady(count: int, level: int = 5000) -> np.ndarray:
    return np.full((count, 2), level, np.int16)


@pytest.mark.parametrize(("codec", "rate", "layout"), FORMATS)
def test_every_format_lands_in_its_place(codec: str, rate: int, layout: str) -> None:
    """A tone that begins after a second begins there within a millisecond, has its length within
    0.1 %, and its channels where they belong."""
    sound = tone(rate, 2.0, layout, 0.4)
    quiet = np.zeros((sound.shape[0], rate))
    grid, blocks = on_grid(
        encode(np.concatenate([quiet, sound, quiet], axis=1), rate, layout, codec, START)
    )
    assert_unbroken(blocks)
    assert abs(onset(blocks) - (START + CLOCK_RATE)) < CLOCK_RATE / 1000
    loud = np.flatnonzero(np.abs(joined(blocks)[:, 0]) > 1500)
    assert abs((loud[-1] - loud[0]) / 48_000 - 2.0) < 0.002
    assert (grid.samples_filled, grid.samples_cut, grid.samples_stretched) == (0, 0, 0)
    middle = joined(blocks)[loud[0] + 4800 : loud[0] + 4800 + 48_000]
    if layout == "stereo":
        assert abs(strongest(middle, 0) - 1000) < 3
        assert abs(strongest(middle, 1) - 1500) < 3
    elif layout == "mono":
        assert np.array_equal(middle[:, 0], middle[:, 1])
        assert abs(np.abs(middle).max() / 32768 - 0.4) < 0.05


def test_a_packet_of_many_frames_cut_anywhere_keeps_its_times() -> None:
    """Frames joined into PES packets that begin in the middle of one have their own times."""
    units = tone_units(1.0, start_pts=START)
    whole = b"".join(unit.data for unit in units)
    starts, position = [], 0
    for unit in units:
        starts.append((position, unit.pts))
        position += len(unit.data)
    cut = []
    for begin in range(0, len(whole), 1000):
        first = next((pts for at, pts in starts if at >= begin), starts[-1][1])
        data = whole[begin : begin + 1000]
        cut.append(AccessUnit(units[0].stream, data, first, first))
    grid, blocks = on_grid(cut)
    _, plain = on_grid(units)
    assert grid.samples_filled == grid.samples_cut == 0
    assert [b.pts for b in blocks] == [b.pts for b in plain]
    assert np.array_equal(joined(blocks), joined(plain))


def test_a_pause_is_silence_of_its_length() -> None:
    """Nine seconds without a unit: silence, and what follows in its place."""
    first = tone_units(1.0, start_pts=START)
    again = START + 10 * CLOCK_RATE
    second = tone_units(1.0, start_pts=again)
    grid, blocks = on_grid([*first, *second])
    assert_unbroken(blocks)
    assert abs(grid.samples_filled / 48_000 - 9.0) < 0.05
    assert sum(block.silent for block in blocks) > 440
    later = [b for b in blocks if b.pts >= again - 4 * BLOCK_TICKS]
    assert abs(onset(later) - again) < CLOCK_RATE / 1000


def test_a_format_that_changes_in_the_middle_goes_on() -> None:
    """44.1 kHz stereo, then 8 kHz mono, then 48 kHz 5.1: one unbroken row, nothing lost."""
    parts = [
        tone_units(1.0, rate=44_100, start_pts=START),
        tone_units(1.0, rate=8_000, layout="mono", start_pts=START + CLOCK_RATE)[1:],
        tone_units(1.0, layout="5.1", start_pts=START + 2 * CLOCK_RATE)[1:],
    ]
    grid, blocks = on_grid([unit for part in parts for unit in part])
    assert_unbroken(blocks)
    assert len(grid.layouts) == 3
    assert grid.anchored == 1
    for second in range(3):
        middle = [b for b in blocks if 0.3 < (b.pts - START) / CLOCK_RATE - second < 0.7]
        assert abs(strongest(joined(middle), 0) - 1000) < 15


def test_jitter_in_timestamps_is_counted_through() -> None:
    """Timestamps in whole milliseconds, and some of them 15 ms off, leave no gap: the row follows
    their mean."""
    rng = np.random.default_rng(1)
    units = tone_units(4.0, start_pts=START)
    first = units[0].pts
    for unit in units[1:]:
        late = rng.choice([0, 0, 0, 15]) * 90
        unit.pts = (unit.pts // 90) * 90 + int(rng.integers(-90, 90)) + int(late)
    grid, blocks = on_grid(units)
    assert_unbroken(blocks)
    assert blocks[0].pts == first
    assert grid.samples_filled == grid.samples_cut == 0
    assert abs(grid.end_pts - units[-1].pts - 1920) < 20 * 90
    assert grid.samples_stretched < 0.006 * 48_000


@pytest.mark.parametrize("share", [300e-6, -300e-6])
def test_a_source_clock_that_drifts_is_followed(share: float) -> None:
    """Samples that come 300 ppm too fast or too slow for their timestamps: after five minutes
    still within 5 ms of them, and no block changed by more than 4 samples in a thousand."""
    grid = AudioGrid()
    samples = steady(1024)
    worst = 0.0
    for number in range(round(300 * 48_000 / 1024)):
        pts = START + round(number * 1920 * (1 + share))
        end = grid.end_pts
        worst = max(worst, abs(pts - end) if end is not None else 0.0)
        for block in grid.add(pcm(samples, pts)):
            assert block.samples.min() == block.samples.max() == 5000
    assert worst < 5 * 90
    assert 0.8 < grid.samples_stretched / (300 * 48_000 * abs(share)) < 1.1
    assert grid.samples_filled == grid.samples_cut == 0


def test_what_comes_twice_or_too_late_is_cut() -> None:
    """An overlap is left out, and so is sound for a time that silence has taken."""
    grid = AudioGrid()
    grid.add(pcm(steady(4800), START))
    assert grid.add(pcm(steady(4800, 9000), START)) == []
    assert grid.samples_cut == 4800
    grid.fill(START + 2 * 9000, 0.0)
    assert grid.samples_filled == 4800
    late = grid.add(pcm(steady(4800, 7000), START + 9000 + 4500))
    assert grid.samples_cut == 4800 + 2400
    assert len(late) == 2
    assert late[0].pts == START + 18_000
    assert late[0].samples.min() == 7000


def test_behind_silence_the_timestamp_is_taken_exactly() -> None:
    """Sound that resumes 13 ms behind filled silence is not pulled up to it."""
    grid = AudioGrid()
    grid.add(pcm(steady(960), START))
    grid.fill(START + 9000, 0.0)
    blocks = grid.add(pcm(steady(9600), START + 9000 + 1170))
    row = joined(blocks)[:, 0]
    begins = blocks[0].pts + int(np.argmax(row > 0)) * 15 / 8
    assert abs(begins - (START + 9000 + 1170)) <= 2


def test_another_time_line_anchors_the_grid_anew() -> None:
    """A jump of an hour, forward or back, is taken over to the tick; what was held comes out."""
    grid = AudioGrid()
    grid.add(pcm(steady(1000), START))
    for jump in (3600 * CLOCK_RATE, -3600 * CLOCK_RATE + 7):
        blocks = grid.add(pcm(steady(2000), START + jump))
        assert blocks[-1].pts in (START + jump, START + jump + BLOCK_TICKS)
    assert grid.anchored == 3
    assert grid.samples_filled == 0


def test_silence_from_the_start_where_there_is_no_sound() -> None:
    """`fill` alone makes a row, anchored where it began."""
    grid = AudioGrid()
    assert grid.fill(START, 0.0) == []
    blocks = grid.fill(START + 5 * BLOCK_TICKS, 0.0)
    assert [b.pts for b in blocks] == [START + n * BLOCK_TICKS for n in range(5)]
    assert all(b.silent and not b.samples.any() for b in blocks)


def test_garbage_is_counted_and_skipped() -> None:
    """Bytes that are no frames, and frames that are no sound, cost only themselves."""
    units = tone_units(1.0, start_pts=START)
    rng = np.random.default_rng(2)
    units[5].data = rng.bytes(300)
    units[20].data = units[20].data[:7] + rng.bytes(len(units[20].data) - 7)
    decoder, grid = AudioDecoder(), AudioGrid()
    blocks = [b for unit in units for p in decoder.decode(unit) for b in grid.add(p)]
    assert_unbroken(blocks)
    assert len(blocks) > 44
    assert 0 < grid.samples_filled <= 3 * 1024


def test_a_codec_without_a_decoder_is_said() -> None:
    """Counted, and no error."""
    units = tone_units(0.2)
    decoder = AudioDecoder()
    for unit in units:
        unit.stream = type(unit.stream)(unit.stream.kind, "unknown", 0x06)
        assert decoder.decode(unit) == []
    assert decoder.unknown == len(units)
