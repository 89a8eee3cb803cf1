"""What the last round trips through the server took."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from relay.stats import percentile

USUAL_RETURNS = 16
RECENT_RETURNS = 128
"""How many of the last round trips the quickest is looked for in: a way can change."""
SLOW_OF = 64
"""How many of the last round trips tell what a slow one is."""


class RoundTrips:
    """The round trips of one connection, in seconds."""

    def __init__(self) -> None:
        self.known = False
        """Whether any frame came back yet."""
        self.returned_at = -math.inf
        """When a frame came back last."""
        self.quickest_s = 0.0
        """Of the last ones."""
        self._usual_s: float | None = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT_RETURNS)
        self._usual: deque[float] = deque(maxlen=USUAL_RETURNS)

    @property
    def usual_s(self) -> float:
        """The median of the last few; 0.0 before any."""
        if self._usual_s is None:
            self._usual_s = median(self._usual)
        return self._usual_s

    @property
    def slow_s(self) -> float:
        """One that is slow, but nothing unusual; 0.0 before any."""
        return percentile(sorted(self.last(SLOW_OF)), 95)

    def last(self, count: int) -> list[float]:
        """The last `count`, the oldest first; fewer if there were fewer."""
        return list(self._recent)[-count:]

    def note(self, round_trip_s: float, now: float) -> None:
        """A frame is back."""
        self.known = True
        self.returned_at = now
        recent = self._recent
        forgotten = recent[0] if len(recent) == RECENT_RETURNS else math.inf
        recent.append(round_trip_s)
        self._usual.append(round_trip_s)
        self._usual_s = None
        if forgotten <= self.quickest_s or len(recent) == 1:
            self.quickest_s = min(recent)
        elif round_trip_s < self.quickest_s:
            self.quickest_s = round_trip_s
