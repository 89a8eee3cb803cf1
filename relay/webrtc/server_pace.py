"""How fast the server is and when it is done with what it has, told from sends and returns alone.

A ComfyStream workflow works on its frames one after the other. What is known of it from here is
when each frame left and when it came back; the way there and back and the time of one run can
only be told apart while the server is busy, when the gaps between returns are its runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from relay.stats import percentile

SERVICES = 8
"""How many of the last runs the estimate is the median of: one hiccup slows nothing."""
FIRST_SERVICES = 3
"""With fewer the longest stands for all."""
NO_QUEUE, PROBE = 0.05, 0.8
"""A frame that came back within so much of a run of the quickest met no queue: the server could
have had it sooner, and its run is taken for so much of the estimate. So the pace is raised until a
queue begins to show, however long the way."""
USUAL_RETURNS = 16
RECENT_RETURNS = 128
"""How many of the last round trips the quickest is looked for in: a way can change."""
SLOW_OF = 64
"""How many of the last round trips tell what a slow one is."""
LEAD = 0.4
"""Of a run: how long before the server is done the next frame should be there. Runs vary by less,
and the server has had more than half of one to take the frame that waited."""
LEAST_LEAD_S = 0.015
"""Jitter of timers and codecs at both ends, measured on a busy machine."""
OVERDUE = 1.25
"""A frame out for this many times the usual round trip means that the estimate is off."""


class ServerPace:
    """An estimate of the server's backlog.

    A run (`service_s`) is the time from a return to the next, or from the moment a frame can have
    reached the server, whichever is less; the way (`way_s`) is what the quickest round trip took
    besides.
    """

    def __init__(self) -> None:
        self.known = False
        """Whether any frame came back yet."""
        self.returned_at = -math.inf
        """When a frame came back last."""
        self.usual_s = 0.0
        """The median of the last round trips."""
        self.service_s = 0.0
        """One run of the workflow."""
        self.way_s = 0.0
        """There and back without the run; as much of it as is known."""
        self._round_trips: deque[float] = deque(maxlen=RECENT_RETURNS)
        self._usual: deque[float] = deque(maxlen=USUAL_RETURNS)
        self._quickest = 0.0
        """Of the last round trips."""
        self._services: deque[float] = deque(maxlen=SERVICES)
        self._back_at = -math.inf

    @property
    def slow_s(self) -> float:
        """A round trip that is slow, but nothing unusual; 0.0 before any."""
        return percentile(sorted(self.last_round_trips(SLOW_OF)), 95)

    def last_round_trips(self, count: int) -> list[float]:
        """The last `count` of them, the oldest first; fewer if there were fewer."""
        return list(self._round_trips)[-count:]

    def note_sent(self, now: float) -> None:
        """A frame leaves."""
        self._back_at = max(self._back_at, now + self.way_s) + self.service_s

    def note_returned(self, sent_at: float, now: float, under_way: Iterable[float]) -> None:
        """A frame that was sent at `sent_at` is back; `under_way` tells when those that are not
        were sent, the oldest first."""
        self._measure(now - sent_at, now - self.returned_at)
        self.known = True
        self.returned_at = now
        self._back_at = now
        for sent in under_way:
            self._back_at = max(self._back_at, sent + self.way_s) + self.service_s

    def send_at(self) -> float:
        """When one more frame should leave so that it is there shortly before the server is done
        with all it has: sooner it might push out the one that waits, and would be less fresh."""
        return self._back_at - self.way_s - max(LEAST_LEAD_S, LEAD * self.service_s)

    def is_overdue(self, sent_at: float, now: float) -> bool:
        """Whether a frame sent then should have been back by now."""
        return not self.known or now - sent_at > OVERDUE * self.usual_s

    def _measure(self, round_trip: float, since_return_s: float) -> None:
        service_s = min(since_return_s, max(0.0, round_trip - self.way_s))
        if round_trip - self._quickest < NO_QUEUE * self.service_s:
            service_s = min(service_s, PROBE * self.service_s)
        elif round_trip > OVERDUE * self.usual_s:
            # What was held up on the way comes in a bunch: those gaps are no runs.
            service_s = max(service_s, self.service_s)
        self._services.append(service_s)
        self._remember(round_trip)
        few = len(self._services) < FIRST_SERVICES
        self.service_s = max(self._services) if few else median(self._services)
        self.way_s = max(0.0, self._quickest - self.service_s)
        self.usual_s = median(self._usual)

    def _remember(self, round_trip: float) -> None:
        forgotten = self._round_trips[0] if len(self._round_trips) == RECENT_RETURNS else math.inf
        self._usual.append(round_trip)
        self._round_trips.append(round_trip)
        if forgotten <= self._quickest or len(self._round_trips) == 1:
            self._quickest = min(self._round_trips)
        else:
            self._quickest = min(self._quickest, round_trip)
