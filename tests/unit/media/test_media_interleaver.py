"""Audio waits for the video it belongs to, but not for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.media.access_unit import AccessUnit
from relay.media.interleaver import AudioInterleaver
from tests.unit.media.transport import audio_unit, idr, video_unit


def video(pts: int) -> AccessUnit:
    return video_unit(pts, idr(), keyframe=True)


def names(units: list[AccessUnit]) -> list[tuple[str, int]]:
    return [(unit.stream.kind.value, unit.pts) for unit in units]


def test_audio_goes_out_with_the_picture_it_belongs_to() -> None:
    """What is older than the picture in front of it, what is as old behind it."""
    interleaver = AudioInterleaver()
    for pts in (0, 1000, 3000, 3500):
        assert interleaver.audio(audio_unit(pts), now=0.0) == []
    assert names(interleaver.video(video(3000))) == [
        ("audio", 0),
        ("audio", 1000),
        ("video", 3000),
        ("audio", 3000),
    ]
    assert len(interleaver) == 1


def test_audio_that_is_behind_the_video_does_not_wait() -> None:
    """Its picture is out already."""
    interleaver = AudioInterleaver()
    interleaver.video(video(9000))
    assert names(interleaver.audio(audio_unit(8000), now=0.0)) == [("audio", 8000)]
    assert interleaver.deadline is None


def test_audio_waits_no_longer_than_it_may() -> None:
    """By the clock given, to the moment; the deadline tells when to ask."""
    interleaver = AudioInterleaver(max_wait_s=0.5)
    interleaver.audio(audio_unit(0), now=10.0)
    interleaver.audio(audio_unit(1920), now=10.2)
    assert interleaver.deadline == 10.5
    assert interleaver.expire(10.49) == []
    assert names(interleaver.expire(10.5)) == [("audio", 0)]
    assert interleaver.deadline == 10.7
    assert interleaver.released_late == 1
    assert names(interleaver.audio(audio_unit(3840), now=10.7)) == [("audio", 1920)]


def test_no_more_than_the_capacity_waits() -> None:
    """The oldest goes out early."""
    interleaver = AudioInterleaver(capacity=3)
    out = [u for n in range(10) for u in interleaver.audio(audio_unit(n), now=0.0)]
    assert [u.pts for u in out] == list(range(7))
    assert len(interleaver) == 3


events = st.lists(
    st.tuples(st.booleans(), st.integers(-100_000, 100_000), st.floats(0, 0.3)), max_size=80
)


@given(events)
def test_nothing_is_lost_or_reordered_and_video_never_waits(
    given_events: list[tuple[bool, int, float]],
) -> None:
    """For any timestamps, jumps in both directions included."""
    interleaver, now = AudioInterleaver(), 0.0
    given_audio, out = [], []
    waiting_since: dict[int, float] = {}
    for is_video, pts, step in given_events:
        now += step
        out += interleaver.expire(now)
        if is_video:
            unit = video(pts)
            result = interleaver.video(unit)
            assert any(u is unit for u in result)
            out += [u for u in result if u is not unit]
        else:
            unit = audio_unit(pts)
            waiting_since[id(unit)] = now
            given_audio.append(unit)
            out += interleaver.audio(unit, now)
        pending = given_audio[len(out) :]
        assert all(now - waiting_since[id(u)] <= 0.5 for u in pending)
    out += interleaver.flush()
    assert [id(u) for u in out] == [id(u) for u in given_audio]
