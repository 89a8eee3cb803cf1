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

from relay.webrtc.round_trips import RoundTrips

SERVICES = 8
"""How many of the last runs the estimate is the median of: one hiccup slows nothing."""
FIRST_SERVICES = 3
"""With fewer the longest stands for all."""
NO_QUEUE, PROBE = 0.05, 0.8
"""A frame that came back within so much of a run of the quickest met no queue: the server could
have had it sooner, and its run is taken for so much of the estimate. So the pace is raised until a
queue begins to show, however long the way."""
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

    Args:
        round_trips: of the same connection; returns are noted here, and there by that.
    """

    def __init__(self, round_trips: RoundTrips) -> None:
        self.service_s = 0.0
        """One run of the workflow."""
        self.way_s = 0.0
        """There and back without the run; as much of it as is known."""
        self._round_trips = round_trips
        self._services: deque[float] = deque(maxlen=SERVICES)
        self._back_at = -math.inf

    def note_sent(self, now: float) -> None:
        """A frame leaves."""
        self._back_at = max(self._back_at, now + self.way_s) + self.service_s

    def note_returned(self, round_trip_s: float, now: float, under_way: Iterable[float]) -> None:
        """A frame is back after so long; `under_way` tells when those that are not were sent, the
        oldest first."""
        self._measure(round_trip_s, now)
        self._back_at = now
        for sent in under_way:
            self._back_at = max(self._back_at, sent + self.way_s) + self.service_s

    def send_at(self) -> float:
        """When one more frame should leave so that it is there shortly before the server is done
        with all it has: sooner it might push out the one that waits, and would be less fresh."""
        return self._back_at - self.way_s - max(LEAST_LEAD_S, LEAD * self.service_s)

    def is_overdue(self, sent_at: float, now: float) -> bool:
        """Whether a frame sent then should have been back by now."""
        trips = self._round_trips
        return not trips.known or now - sent_at > OVERDUE * trips.usual_s

    def _measure(self, round_trip_s: float, now: float) -> None:
        trips = self._round_trips
        service_s = min(now - trips.returned_at, max(0.0, round_trip_s - self.way_s))
        if round_trip_s - trips.quickest_s < NO_QUEUE * self.service_s:
            service_s = min(service_s, PROBE * self.service_s)
        elif round_trip_s > OVERDUE * trips.usual_s:
            # What was held up on the way comes in a bunch: those gaps are no runs.
            service_s = max(service_s, self.service_s)
        trips.note(round_trip_s, now)
        self._services.append(service_s)
        few = len(self._services) < FIRST_SERVICES
        self.service_s = max(self._services) if few else median(self._services)
        self.way_s = max(0.0, trips.quickest_s - self.service_s)
