"""Frames at a rate at the most: how many, which, and what a new time line does."""

from __future__ import annotations

from itertools import pairwise

import pytest

from relay.media.access_unit import CLOCK_RATE
from relay.media.frame_limit import FrameLimit


def taken(limit: FrameLimit, times: list[int]) -> list[int]:
    return [pts for pts in times if limit.admits(pts)]


def at(fps: float, seconds: float = 10.0, grain: int = 1) -> list[int]:
    """Times of pictures, rounded to `grain` ticks."""
    return [round(n * CLOCK_RATE / fps / grain) * grain for n in range(int(fps * seconds))]


@pytest.mark.parametrize(
    ("source", "limit", "expected"),
    [(60, 30, 300), (60, 24, 240), (30, 20, 200), (50, 1, 10), (30, 29, 290)],
)
def test_no_more_than_the_limit_and_evenly(source: float, limit: int, expected: int) -> None:
    """As many as it allows, none further apart than its interval and one of the source's."""
    times = taken(FrameLimit(limit), at(source))
    assert abs(len(times) - expected) <= 1
    longest = CLOCK_RATE / limit + CLOCK_RATE / source
    assert max(b - a for a, b in pairwise(times)) <= longest + 1


@pytest.mark.parametrize(("source", "limit"), [(24, 30), (30, 30), (29.97, 30), (60, 60), (5, 60)])
@pytest.mark.parametrize("grain", [1, 90])
def test_a_source_within_the_limit_loses_nothing(source: float, limit: int, grain: int) -> None:
    """Also where its times are rounded to milliseconds."""
    times = at(source, grain=grain)
    assert taken(FrameLimit(limit), times) == times


def test_another_time_line_goes_on_at_once() -> None:
    """A source that restarts, or jumps ahead."""
    limit = FrameLimit(30)
    assert taken(limit, at(30)) == at(30)
    assert limit.admits(500)
    assert limit.admits(10**9)
    assert limit.admits(10**9 + 3000)
    assert not limit.admits(10**9 + 4000)


def test_the_limit_may_change() -> None:
    """None takes all."""
    limit = FrameLimit(0)
    assert len(taken(limit, at(60, 1.0))) == 60
    limit.fps = 10
    later = [pts + CLOCK_RATE for pts in at(60, 2.0)]
    assert abs(len(taken(limit, later)) - 20) <= 1


def test_every_second_one_can_be_left_out() -> None:
    """Of those that the limit takes; all of them again, when that is over."""
    limit = FrameLimit(0)
    assert [limit.skips() for _ in range(4)] == [False] * 4
    limit.halved = True
    assert [limit.skips() for _ in range(6)] == [True, False] * 3
    limit.halved = False
    assert [limit.skips() for _ in range(4)] == [False] * 4
