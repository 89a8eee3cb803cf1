"""A constant rate of pictures on the output, where one was asked for.

Between the processed queue and the encoder. Every picture gets a place on a grid of source time:
the one nearest to its own timestamp. Of two for one place the first stays; a place that stays
empty is filled with the picture before it, again.

Whether a place stays empty can only be told by waiting, and how long is told by the pictures
themselves: their way through a server takes longer at times, and a place is given up once the
slowest of the last ones would have been here. So a picture that is merely late is not replaced.
Where media come slower than their own time (a starved publisher that counts frames), each is later
than the one before: as much later as the last ones were is waited for too.
Places that are still empty when a later picture comes are filled right before it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction

from relay.media.access_unit import CLOCK_RATE, AccessUnit, RepeatPicture
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue

USUAL_PICTURES = 16
"""How many of the last pictures tell how late one may be."""
SLACK = 0.25
"""Of an interval: how much later than the latest of those a place is given up."""
NEW_TIME_LINE_S = 1.0
"""A step back further than this is the source's (it restarted): the grid begins anew there."""
FILL_S = 1.0
"""The longest step forward that is filled at once. A longer silence was filled as it passed, and
a longer step without one is a jump of the source's time."""
GAP_S = 10.0
"""After a longer step forward the times of before say nothing about how late a picture is."""


class OutputRate:
    """Takes processed units from a queue and gives them on at a constant rate.

    Args:
        fps: pictures a second, of source time.
        processed: what is left out of it is counted there, as ``output_rate``.
    """

    def __init__(
        self,
        fps: Fraction,
        processed: MediaQueue[ProcessedUnit],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fps = fps
        self._processed = processed
        self._clock = clock
        self._origin: int | None = None
        self._place = -1
        """The last one given out."""
        self._latest_pts = 0
        self._held: tuple[ProcessedUnit, int] | None = None
        """A picture and its place, while the empty ones before it are filled."""
        self._lags: deque[float] = deque(maxlen=USUAL_PICTURES)
        """Of each of the last pictures: when it came, minus when its place is."""

    async def get(self) -> ProcessedUnit:
        """The next unit for the encoder. A cancelled `get` took nothing.

        Raises:
            QueueClosed: the pictures have ended.
        """
        while self._held is None:
            try:
                async with asyncio.timeout(self._repeat_in()):
                    unit = await self._processed.get()
            except TimeoutError:
                return self._repeat()
            if isinstance(unit, AccessUnit) and unit.hidden:
                return unit
            place = self._place_of(unit)
            if place > self._place:
                self._held = unit, place
                break
            self._processed.dropped["output_rate"] += 1
            if isinstance(unit, AccessUnit):
                unit.hidden = True  # later pictures refer to it
                return unit
        held, place = self._held
        if self._place + 1 < place:
            return self._repeat()
        self._held = None
        self._place = place
        return _at(held, self._pts(place))

    def _repeat(self) -> RepeatPicture:
        self._place += 1
        return RepeatPicture(self._pts(self._place))

    def _place_of(self, unit: ProcessedUnit) -> int:
        self._follow_time_line(unit.pts)
        assert self._origin is not None
        # Exactly between two places is the earlier one's: all such pictures go the same way.
        place = math.ceil((unit.pts - self._origin) * self.fps / CLOCK_RATE - Fraction(1, 2))
        self._lags.append(self._clock() - float(place / self.fps))
        if place - self._place > self.fps * FILL_S:
            self._place = place - 1
        return place

    def _follow_time_line(self, pts: int) -> None:
        step_s = (pts - self._latest_pts) / CLOCK_RATE
        if self._origin is None or step_s < -NEW_TIME_LINE_S:
            self._origin, self._place = pts, -1
            self._lags.clear()
        elif step_s > GAP_S:
            self._lags.clear()
        self._latest_pts = pts

    def _repeat_in(self) -> float | None:
        """Seconds until the next place is given up; None while there is nothing to repeat."""
        if not self._lags:
            return None
        lag_s = max(self._lags) + max(0.0, self._lag_rise_s())
        due_at = float((self._place + 1 + Fraction(SLACK)) / self.fps) + lag_s
        return max(0.0, due_at - self._clock())

    def _lag_rise_s(self) -> float:
        """By how much a picture came later than the one before it, in the mean of the last ones."""
        steps = len(self._lags) - 1
        return (self._lags[-1] - self._lags[0]) / steps if steps else 0.0

    def _pts(self, place: int) -> int:
        """90 kHz; rounded from the origin, so that no error adds up."""
        assert self._origin is not None
        return self._origin + round(place * CLOCK_RATE / self.fps)


def _at(unit: ProcessedUnit, pts: int) -> ProcessedUnit:
    if isinstance(unit, RepeatPicture):
        return RepeatPicture(pts, unit.arrived_at)
    unit.pts = pts
    if isinstance(unit, AccessUnit):
        unit.dts = pts
    return unit
