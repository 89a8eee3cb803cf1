"""How fast a source comes, by its own timestamps."""

from __future__ import annotations

import pytest

from relay.pipeline.source_pace import SourcePace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> SourcePace:
    return SourcePace(clock)


def play(
    pace: SourcePace, clock: Clock, seconds: float, *, speed: float = 1.0, start: int = 0
) -> None:
    """25 fps media, arriving at `speed` times real time."""
    for number in range(int(seconds * speed * 25)):
        pace.note(start + number * 3600)
        clock.now += 0.04 / speed


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_media_time_against_the_clock(pace: SourcePace, clock: Clock, speed: float) -> None:
    """Half the pace at the same rate of pictures by their timestamps."""
    play(pace, clock, 8, speed=speed)
    assert pace.pace == pytest.approx(speed, rel=0.05)
    assert pace.fps == pytest.approx(25.0)


def test_segments_that_come_at_once_are_live(pace: SourcePace, clock: Clock) -> None:
    """Two seconds of media every two seconds never look slow."""
    seen = []
    for segment in range(8):
        for number in range(50):
            pace.note((segment * 50 + number) * 3600)
        for _ in range(20):
            clock.now += 0.1
            seen.append(pace.pace)
    assert min(value for value in seen if value is not None) > 0.8


def test_a_rate_that_varies_is_not_slow(pace: SourcePace, clock: Clock) -> None:
    """Pictures of two lengths: the timestamps say how many there should be."""
    pts = 0
    for number in range(120):
        step = 3600 if number % 2 else 18_000
        pts += step
        clock.now += step / 90_000
        pace.note(pts)
    assert pace.pace == pytest.approx(1.0, rel=0.05)


def test_too_little_says_nothing(pace: SourcePace, clock: Clock) -> None:
    """Nor does a source that was away, or whose time jumped, before it has come for a while."""
    assert (pace.pace, pace.fps) == (None, None)
    play(pace, clock, 2)
    assert pace.pace is None
    play(pace, clock, 5, start=50 * 3600)
    assert pace.pace is not None
    clock.now += 4
    play(pace, clock, 1, start=200 * 3600)
    assert pace.pace is None
    play(pace, clock, 5, start=225 * 3600)
    assert pace.pace == pytest.approx(1.0, rel=0.05)
    play(pace, clock, 1, start=0)
    assert pace.pace is None
