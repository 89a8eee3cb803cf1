"""A constant rate on the output: which picture goes where, and when one is repeated."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from itertools import pairwise

import pytest

from relay.media.access_unit import AccessUnit, RepeatPicture
from relay.pipeline.output_rate import OutputRate
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue, QueueClosed
from relay.webrtc.incoming_video import RETURNED_STREAM


def picture(pts: int) -> AccessUnit:
    return AccessUnit(RETURNED_STREAM, b"", pts, pts, arrived_at=1.0)


class Scene:
    """An output rate under a clock that only the test moves."""

    def __init__(self, fps: Fraction) -> None:
        self.now = 100.0
        self.processed: MediaQueue[ProcessedUnit] = MediaQueue("processed_frames", 1000)
        self.rate = OutputRate(fps, self.processed, clock=lambda: self.now)

    async def run(self, pictures: list[tuple[float, int]], end: float) -> list[ProcessedUnit]:
        """What comes out until `end` when pictures come at these times, seconds after the start,
        with these pts."""
        out: list[ProcessedUnit] = []
        for at, pts in [*pictures, (end, None)]:
            while (wait := self.rate._repeat_in()) is not None and self.now + wait < 100 + at:
                self.now += wait + 1e-6
                out.append(await self.rate.get())
            self.now = 100 + at
            if pts is not None:
                unit = picture(pts)
                self.processed.put_nowait(unit)
                while (given := await self.rate.get()) is not unit:
                    out.append(given)
                out.append(unit)
        return [u for u in out if not (isinstance(u, AccessUnit) and u.hidden)]


def times(units: list[ProcessedUnit]) -> list[int]:
    return [unit.pts for unit in units]


async def test_the_same_rate_changes_nothing() -> None:
    """30 fps into 30: every picture with its own time, though some come late; none repeated."""
    lateness = [0, 4, 9, 2, 7, 0, 8, 1]
    came = [(n / 30 + lateness[n % 8] / 1000, 900_000 + 3000 * n) for n in range(60)]
    out = await Scene(Fraction(30)).run(came, came[-1][0])
    assert times(out) == [pts for _, pts in came]
    assert not [unit for unit in out if isinstance(unit, RepeatPicture)]


async def test_what_is_missing_is_repeated() -> None:
    """10 fps into 30: two repeats for each picture, the pictures in their own places."""
    came = [(n / 10, 900_000 + 9000 * n) for n in range(40)]
    out = await Scene(Fraction(30)).run(came, came[-1][0])
    assert times(out) == list(range(900_000, came[-1][1] + 1, 3000))
    assert [u.pts for u in out if isinstance(u, AccessUnit)] == [pts for _, pts in came]


async def test_what_is_too_much_is_left_out_and_still_decoded() -> None:
    """60 fps into 30: every second one hidden, counted; later pictures refer to it."""
    scene = Scene(Fraction(30))
    came = [(n / 60, 900_000 + 1500 * n) for n in range(120)]
    out = await scene.run(came, came[-1][0])
    assert {after - before for before, after in pairwise(times(out))} == {3000}
    assert scene.processed.dropped["output_rate"] == 120 - len(out) == pytest.approx(60, abs=1)


async def test_places_that_are_found_empty_are_filled_before_the_next_picture() -> None:
    """30 fps into 60 where lateness of up to 100 ms forbids to give a place up in time."""
    came = [(n / 30 + (0.1 if n % 10 == 9 else 0), 3000 * n) for n in range(60)]
    came.sort()
    came = [(at, 3000 * n) for n, (at, _) in enumerate(came)]
    out = await Scene(Fraction(60)).run(came, came[-1][0])
    assert times(out) == list(range(0, times(out)[-1] + 1, 1500))
    assert len(out) >= 119


@pytest.mark.parametrize("fps", [Fraction("29.97"), Fraction(7), Fraction(120), Fraction(1)])
async def test_an_hour_does_not_drift(fps: Fraction) -> None:
    """The grid is rounded from its origin: place n is never half a tick off."""
    rate = Scene(fps).rate
    rate._origin = 5
    for place in (1, 1000, 3600 * 120):
        assert abs(rate._pts(place) - 5 - place * 90_000 / fps) <= Fraction(1, 2)


async def test_after_a_stall_time_goes_on_and_only_forward() -> None:
    """Three seconds without a picture are filled as they pass; the burst that follows them is old
    and left out; then pictures take their places again."""
    scene = Scene(Fraction(30))
    before = [(n / 30, 3000 * n) for n in range(30)]
    burst = [(4.0 + n / 1000, 90_000 + 3000 * n) for n in range(60)]
    after = [(4.1 + n / 30, 3000 * (123 + n)) for n in range(60)]
    out = await scene.run([*before, *burst, *after], 6.0)
    steps = [later - earlier for earlier, later in pairwise(times(out))]
    assert min(steps) >= 3000
    assert max(steps) <= 6 * 3000
    assert scene.processed.dropped["output_rate"] > 50
    assert [u.pts for u in out if isinstance(u, AccessUnit)][-50:] == [p for _, p in after[-50:]]


@pytest.mark.parametrize("source_fps", [30, 10])
@pytest.mark.parametrize(("pace", "missed"), [(0.95, 0), (0.7, 1), (0.25, 3)])
async def test_media_slower_than_their_own_time_keep_their_places(
    source_fps: int, pace: float, missed: int
) -> None:
    """A starved publisher that counts frames: its pictures go out, but for the first ones, whose
    places are given up before it shows how slow it is; those between are filled as at full
    speed."""
    scene = Scene(Fraction(30))
    step = 90_000 // source_fps
    came = [(n / source_fps / pace, step * n) for n in range(84)]
    out = await scene.run(came, came[-1][0])
    assert times(out) == list(range(0, 83 * step + 1, 3000))
    shown = [unit.pts for unit in out if isinstance(unit, AccessUnit)]
    assert shown == [pts for _, pts in came if not 0 < pts <= missed * step]
    assert scene.processed.dropped["output_rate"] == missed


async def test_a_source_that_begins_anew_begins_a_new_grid() -> None:
    """A jump of 1000 s forward and one back to 0: the next picture stands where it says."""
    came = [(0.0, 0), (0.03, 3000), (0.06, 90_003_000), (0.1, 90_006_000), (0.13, 0)]
    out = await Scene(Fraction(30)).run(came, 0.15)
    assert times(out) == [0, 3000, 90_003_000, 90_006_000, 0]


async def test_it_ends_with_the_pictures_and_repeats_in_real_time() -> None:
    """On the real clock: one picture, then its repeats; the end of the queue is the end."""
    processed: MediaQueue[ProcessedUnit] = MediaQueue("processed_frames", 10)
    rate = OutputRate(Fraction(100), processed)
    processed.put_nowait(picture(0))
    async with asyncio.timeout(5):
        assert times([await rate.get() for _ in range(4)]) == [0, 900, 1800, 2700]
        processed.close()
        with pytest.raises(QueueClosed):
            await rate.get()
