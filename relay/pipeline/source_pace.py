"""How fast a source comes, by its own timestamps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from relay.media.access_unit import CLOCK_RATE

WINDOW_S = 10.0
"""Long enough that segments of a second or two, which arrive at once, even out."""
LEAST_S = 3.0
"""Before that nothing is said."""
PAUSE_S = 3.0
"""A source that was away for so long begins anew."""
LARGEST_STEP = 10 * CLOCK_RATE
"""A larger one, or one back, is another time line, not a pause."""


class SourcePace:
    """Media time against the clock, over the last seconds.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._frames: deque[tuple[float, int]] = deque()
        """When each came, and its pts."""

    def note(self, pts: int) -> None:
        """A picture came.

        Args:
            pts: 90 kHz ticks.
        """
        now = self._clock()
        if self._frames:
            last_at, last_pts = self._frames[-1]
            if now - last_at > PAUSE_S or not 0 < pts - last_pts <= LARGEST_STEP:
                self._frames.clear()
        self._frames.append((now, pts))
        while self._frames[0][0] < now - WINDOW_S:
            self._frames.popleft()

    @property
    def fps(self) -> float | None:
        """Pictures a second as their timestamps have it; None if too few came."""
        media_s = self._media_s()
        return (len(self._frames) - 1) / media_s if media_s else None

    @property
    def pace(self) -> float | None:
        """Seconds of media a second: 1.0 live; None if too little came."""
        media_s = self._media_s()
        if media_s is None:
            return None
        return media_s / (self._clock() - self._frames[0][0])

    def _media_s(self) -> float | None:
        if len(self._frames) < 2 or self._clock() - self._frames[0][0] < LEAST_S:
            return None
        return (self._frames[-1][1] - self._frames[0][1]) / CLOCK_RATE
