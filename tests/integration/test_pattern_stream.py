"""The test pattern as bytes: exact numbers, timestamps and last bytes, as others rely on."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import groupby

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from demo import barcode
from demo.segment_writer import SourceChunk
from demo.test_pattern import FLASH_S, PatternOptions, generate

TS_PACKET = 188
VIDEO_PID = 0x100
SMALL = {"width": 128, "height": 96, "fps": Fraction(10)}


def by_segment(chunks: list[SourceChunk]) -> list[bytes]:
    """The bytes of each segment."""
    groups = groupby(chunks, key=lambda chunk: chunk.segment)
    return [b"".join(chunk.data for chunk in group) for _, group in groups]


def video_pes_starts(data: bytes) -> int:
    """How many video PES packets begin in `data`."""
    return sum(
        data[at + 1] & 0x40 != 0 and _pid(data, at) == VIDEO_PID
        for at in range(0, len(data), TS_PACKET)
    )


def _pid(data: bytes, at: int) -> int:
    return (data[at + 1] & 0x1F) << 8 | data[at + 2]


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_every_frame_carries_its_number_and_pts(audio: bool, b_frames: int) -> None:
    """What libavformat reads back is every frame once, in order, numbered and timed as told."""
    options = PatternOptions(
        **SMALL, frames=35, audio=audio, b_frames=b_frames, first_number=77, preset="veryfast"
    )
    chunks = list(generate(options))
    marks = [chunk.frame for chunk in chunks if chunk.frame is not None]
    assert sorted((mark.number, mark.pts) for mark in marks) == [
        (number, options.pts(number)) for number in range(77, 112)
    ]
    with av.open(io.BytesIO(b"".join(chunk.data for chunk in chunks))) as container:
        assert len(container.streams.audio) == int(audio)
        decoded = [(barcode.read(frame), frame.pts) for frame in container.decode(video=0)]
    assert [(reading and reading.number, pts) for reading, pts in decoded] == [
        (number, options.pts(number)) for number in range(77, 112)
    ]


@pytest.mark.parametrize("audio", [True, False])
def test_a_chunk_ends_with_the_last_byte_of_its_frame(audio: bool) -> None:
    """Each frame's chunk holds one video PES, whole, and nothing after it."""
    for chunk in generate(PatternOptions(**SMALL, frames=25, audio=audio)):
        assert len(chunk.data) % TS_PACKET == 0
        assert video_pes_starts(chunk.data) == (chunk.frame is not None)
        if chunk.frame is not None:
            assert _pid(chunk.data, len(chunk.data) - TS_PACKET) == VIDEO_PID


def test_each_segment_stands_alone_and_lasts_as_asked() -> None:
    """A segment begins with SDT, PAT, PMT and an IDR, and decodes without the others."""
    options = PatternOptions(**SMALL, frames=40, gop=5, segment_s=1.0)
    segments = by_segment(list(generate(options)))
    assert len(segments) == 4
    for index, segment in enumerate(segments):
        assert [_pid(segment, at * TS_PACKET) for at in range(3)] == [0x11, 0, 0x1000]
        with av.open(io.BytesIO(segment)) as container:
            readings = [barcode.read(frame) for frame in container.decode(video=0)]
        assert [reading and reading.number for reading in readings] == list(
            range(index * 10, index * 10 + 10)
        )


def test_frames_are_due_at_their_own_pace() -> None:
    """Frame n is due n frame intervals after the first."""
    options = PatternOptions(**SMALL, frames=12)
    due = [chunk.due_s for chunk in generate(options) if chunk.frame is not None]
    assert due == [pytest.approx(number / 10) for number in range(12)]


def test_pts_wraps_on_the_wire_only() -> None:
    """Past 2^33 ticks the marks go on while the wire starts again near zero."""
    options = PatternOptions(**SMALL, frames=20, start_pts=(1 << 33) - 45_000)
    segments = by_segment(list(generate(options)))
    with av.open(io.BytesIO(segments[-1])) as container:
        first = next(container.decode(video=0))
    assert first.pts == options.pts(10) - (1 << 33) == 45_000


def test_the_beep_sounds_with_the_flash_on_both_channels() -> None:
    """Each second begins with a tenth of a second of sound, left and right of different pitch."""
    options = PatternOptions(**SMALL, frames=30)
    data = b"".join(chunk.data for chunk in generate(options))
    samples: list[np.ndarray] = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(audio=0):
            start = (frame.pts - options.start_pts) * 48_000 // 90_000
            if start >= 0:
                samples.append(frame.to_ndarray())
    sound = np.concatenate(samples, axis=1)
    for second in range(2):
        begin = second * 48_000
        loud = np.abs(sound[:, begin + 960 : begin + round(FLASH_S * 48_000) - 960]).mean(axis=1)
        quiet = np.abs(sound[:, begin + 9_600 : begin + 43_200]).mean(axis=1)
        assert (loud > 0.1).all()
        assert (quiet < 0.01).all()
    crossings = (np.diff(np.signbit(sound[:, 960:3_840])) != 0).sum(axis=1) / 2 / 0.06
    assert crossings == pytest.approx([1000, 1500], rel=0.05)


def test_size_and_profile_are_as_asked() -> None:
    """1280x720 High profile with B-frames at 25 fps is what a decoder sees."""
    options = PatternOptions(
        width=1280,
        height=720,
        fps=Fraction(25),
        frames=8,
        preset="veryfast",
        profile="high",
        b_frames=2,
    )
    data = b"".join(chunk.data for chunk in generate(options))
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (1280, 720, 25)
        assert stream.codec_context.profile == "High"
        kinds = {PictureType(frame.pict_type) for frame in container.decode(video=0)}
    assert PictureType.B in kinds
