"""Where segments begin, and what they begin with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.media.access_unit import AccessUnit, MediaKind
from relay.media.demuxer import TsDemuxer
from relay.media.segment_muxer import MIN_UNITS, SegmentClock, SegmentMuxer
from tests.unit.media.transport import AAC, H264, audio_unit, idr, picture, video_unit

SECOND = 90_000


def cut(times: list[int], seconds: float = 1.0) -> list[int]:
    """The times at which segments begin when every unit may begin one."""
    clock = SegmentClock(seconds)
    starts = []
    for time in times:
        due = clock.due(time)
        clock.advance(time, starts_segment=due)
        if due:
            starts.append(time)
    return starts


def encoded(muxer: SegmentMuxer, pts: int) -> AccessUnit:
    """A unit as the encoder makes it: a keyframe when one is needed."""
    key = muxer.needs_keyframe(pts)
    return video_unit(pts, idr() if key else picture(), keyframe=key)


def test_segments_are_as_long_as_asked_for() -> None:
    """At 30, 25 and 3 frames a second, and with timestamps that jitter by a tick."""
    assert cut([3000 * n for n in range(91)]) == [0, 90_000, 180_000, 270_000]
    assert cut([3600 * n for n in range(76)]) == [0, 90_000, 180_000, 270_000]
    assert cut([30_000 * n for n in range(10)]) == [0, 90_000, 180_000, 270_000]
    jittered = [3000 * n - (n % 2) for n in range(62)]
    assert cut(jittered) == [0, 90_000, 180_000]
    assert cut([3000 * n for n in range(61)], seconds=0.5) == [0, 45_000, 90_000, 135_000, 180_000]


def test_sparse_units_have_a_segment_each() -> None:
    """Slower than one a segment: none is held back for a fuller one."""
    assert cut([2 * SECOND * n for n in range(4)]) == [2 * SECOND * n for n in range(4)]
    assert cut([SECOND * n for n in range(4)]) == [SECOND * n for n in range(4)]


def test_jumps_begin_a_segment() -> None:
    """Forward at once, backward at once after a few units."""
    run = [3000 * n for n in range(20)]
    forward = [90_000_000 + 3000 * n for n in range(20)]
    assert cut(run + forward) == [0, 90_000_000]
    back = [-90_000_000 + 3000 * n for n in range(20)]
    assert cut(run + back) == [0, -90_000_000]


@given(st.lists(st.integers(-SECOND, 3000), min_size=1, max_size=200))
def test_disorder_does_not_shred_the_stream(steps: list[int]) -> None:
    """However timestamps go back, a segment holds its least number of units."""
    clock, time, since = SegmentClock(1.0), 0, 0
    for n, step in enumerate(steps):
        time += step
        due = clock.due(time)
        assert not (due and n and since < MIN_UNITS)
        clock.advance(time, starts_segment=due)
        since = 1 if due else since + 1


def test_a_segment_begins_with_tables_and_a_keyframe() -> None:
    """Each one can be read alone; joined they are the whole."""
    muxer = SegmentMuxer(H264, AAC)
    segments: list[bytes] = []
    for n in range(90):
        for unit in (encoded(muxer, 3000 * n), audio_unit(3000 * n + 10)):
            for chunk in muxer.add(unit):
                if chunk.starts_segment:
                    segments.append(b"")
                segments[-1] += chunk.data
                assert (chunk.kind, chunk.pts) == (unit.stream.kind, unit.pts)
    assert len(segments) == muxer.segments == 3
    for segment in segments:
        demuxer = TsDemuxer()
        units = demuxer.feed(segment, 0.0)
        assert (units[0].stream.kind, units[0].keyframe) == (MediaKind.VIDEO, True)
        assert len(units) == 60
    joined = TsDemuxer()
    assert len(joined.feed(b"".join(segments), 0.0)) == 180
    assert joined.stats.continuity_errors == 0


def test_a_keyframe_that_was_not_asked_for_ends_no_segment() -> None:
    """Copied streams bring their own; a segment ends with the first one after its time."""
    muxer = SegmentMuxer(H264)
    starts = []
    for n in range(100):
        key = n % 12 == 0
        unit = video_unit(3000 * n, idr() if key else picture(), keyframe=key)
        starts += [n for chunk in muxer.add(unit) if chunk.starts_segment]
    assert starts == [0, 36, 72]


def test_video_before_the_first_keyframe_is_left_out() -> None:
    """Nobody could decode it."""
    muxer = SegmentMuxer(H264)
    assert muxer.add(video_unit(0, picture())) == []
    assert muxer.dropped_before_keyframe == 1
    (chunk,) = muxer.add(video_unit(3000, idr(), keyframe=True))
    assert chunk.starts_segment


def test_a_new_encoder_begins_a_segment() -> None:
    """When its keyframe comes, not with just any unit."""
    muxer = SegmentMuxer(H264)
    muxer.add(video_unit(0, idr(), keyframe=True))
    assert not muxer.add(video_unit(3000, picture()), cut=True)[0].starts_segment
    assert muxer.add(video_unit(6000, idr(), keyframe=True), cut=True)[0].starts_segment


def test_audio_alone_is_cut_by_its_own_time() -> None:
    """No video announced, none waited for."""
    muxer = SegmentMuxer(None, AAC)
    starts = []
    for n in range(150):
        starts += [n for c in muxer.add(audio_unit(1920 * n)) if c.starts_segment]
    assert starts == [0, 47, 94, 141]


def test_audio_goes_on_in_segments_while_video_stalls() -> None:
    """Twice as long; and the first picture after it begins one with a keyframe."""
    muxer = SegmentMuxer(H264, AAC)
    muxer.add(encoded(muxer, 0))
    starts = []
    for n in range(300):
        starts += [n for c in muxer.add(audio_unit(1920 * n)) if c.starts_segment]
    assert starts == [94, 188, 282]
    assert muxer.needs_keyframe(3000)
    (chunk,) = muxer.add(encoded(muxer, 1920 * 300))
    assert chunk.starts_segment


def test_audio_that_comes_before_the_first_picture_is_not_lost() -> None:
    """It opens a segment, and the first keyframe the next."""
    muxer = SegmentMuxer(H264, AAC)
    (first,) = muxer.add(audio_unit(0))
    (second,) = muxer.add(audio_unit(1920))
    (third,) = muxer.add(encoded(muxer, 3000))
    assert [c.starts_segment for c in (first, second, third)] == [True, False, True]
