"""How fast the server is and how much it has left, told from the times of sends and returns."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

RATE_RUN = 3
"""Returns are averaged over so many gaps: the network bunches single ones."""
RATE_RETURNS = 7
"""How many returns the best pace is looked for in. Fewer than half of `USUAL_RETURNS`: a server
that slows down must lose its old pace before its long round trips count as usual."""
USUAL_RETURNS = 16
MARGIN = 0.25
"""Of a frame's service time: how much later than the estimate the third frame is sent."""
LEAD = 0.4
"""Of a frame's service time: how long before the server is done the second frame is sent. Service
times vary by less, and the server has had more than half of one to take the waiting frame."""
LEAST_LEAD_S = 0.015
"""Jitter of timers and codecs at both ends, measured on a busy machine."""
OVERDUE = 1.25
"""A frame out for this many times the usual round trip means that the estimate is off."""

KEEPS_UP = 1.1
LONG_WAY = 2.0
"""Quickest round trips in units of the service time; two frames fill a way of twice that."""


class ServerPace:
    """An estimate of the server's backlog, from the times of sends and returns alone.

    The service time is the best pace at which frames came back lately (what the server has done
    it can do), and not longer than the quickest round trip. Each frame sent adds one service time
    to the moment the server will be free; each return tells that moment anew.
    """

    def __init__(self) -> None:
        self._returns: deque[float] = deque(maxlen=RATE_RETURNS)
        self._round_trips: deque[float] = deque(maxlen=USUAL_RETURNS)
        self._free_at = -math.inf
        self._service_s = 0.0
        self._quickest_s = math.inf

    @property
    def usual_s(self) -> float:
        """The median of the last round trips."""
        return median(self._round_trips)

    def note_sent(self, now: float) -> None:
        """A frame leaves."""
        self._free_at = max(self._free_at, now) + self._service_s

    def note_returned(self, sent_at: float, now: float, under_way: Iterable[float]) -> None:
        """A frame that was sent at `sent_at` is back; `under_way` tells when those that are not
        were sent, the oldest first."""
        self._returns.append(now)
        self._round_trips.append(now - sent_at)
        self._service_s = min(min(self._round_trips), self._best_gap_s())
        # Seen from here, the server takes a frame when it is sent, and is done with it one way
        # there and back before it returns. Only a round trip that met no queue tells that way.
        self._quickest_s = min(self._quickest_s, now - sent_at)
        self._free_at = now - max(0.0, self._quickest_s - self._service_s)
        for sent in under_way:
            self._free_at = max(self._free_at, sent) + self._service_s

    def second_at(self) -> float:
        """From when on one more frame comes while the server works on the last of those under
        way, and in time for it to go on without a break."""
        return self._free_at - max(LEAST_LEAD_S, LEAD * self._service_s)

    def may_send_at(self, oldest_sent_at: float) -> float:
        """From when on one more frame meets a server with at most one frame left; infinity if
        only a return can tell.

        Args:
            oldest_sent_at: when the oldest frame under way was sent.
        """
        if not self._round_trips:
            return math.inf
        ready_at = self._free_at - (1 - MARGIN) * self._service_s
        return ready_at if ready_at <= self._overdue_at(oldest_sent_at) else math.inf

    def is_steady(self, source_interval_s: float) -> bool:
        """Whether more than two frames under way are worth their risk: the server keeps up with
        the source, or the way is so long that two frames leave the server idle."""
        if not self._round_trips:
            return False
        keeps_up = self._service_s <= KEEPS_UP * source_interval_s
        return keeps_up or self._quickest_s >= LONG_WAY * self._service_s

    def is_overdue(self, oldest_sent_at: float, now: float) -> bool:
        """Whether a frame sent then should have been back by now."""
        return not self._round_trips or now > self._overdue_at(oldest_sent_at)

    def _overdue_at(self, sent_at: float) -> float:
        return sent_at + OVERDUE * self.usual_s

    def _best_gap_s(self) -> float:
        times = list(self._returns)
        runs = zip(times, times[RATE_RUN:], strict=False)
        return min(((end - start) / RATE_RUN for start, end in runs), default=math.inf)
