"""Whether frames were dropped inside the server, which can't be seen.

One drop is enough to put a wrong time on every later frame: the label of a dropped frame comes back
one frame late, as do all after it. Drops show when nothing is under way any more and labels are
still missing. So when that moment does not come by itself sending pauses for it now and then (the
audit), and soon when something is suspect: a frame is overdue, or the last ones all came back later
than usual by the time between two frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from relay.webrtc.round_trips import USUAL_RETURNS, RoundTrips
from relay.webrtc.server_pace import ServerPace

FIRST_AUDIT_S = 0.5
"""How long the way may be busy without a break before it is audited, where breaks are usual."""
AUDIT_S = 3.0
LONGEST_AUDIT_S = 10.0
"""The same where they are not: ever more rarely as long as nothing is found. An audit costs a
server that is always busy about one frame."""
PATIENCE = 1.5
"""Of a slow round trip: after so long without a return nothing more will come."""
LEAST_PATIENCE_S = 0.4
"""Longer than most hiccups: giving up a frame that was only late mislabels others."""
LONGEST_PATIENCE_S = 2.0
"""Patience doubles each time nothing has come back since frames were given up last: a server
that stalls is not buried."""
SUSPICION_S = 0.5
"""So long after an audit nothing is suspect again."""
SUSPECT_RETURNS = 3
SUSPECT_EXCESS = 0.6
"""Of the time from frame to frame: by how much longer than usual the last round trips all were
when labels lag by one."""
LISTEN = 1.5
"""Times from frame to frame that an audit waits for what is not expected any more."""
LEAST_WAIT_S = 0.05
"""What can't be told yet is looked at again after so long."""


class LabelAudit:
    """Tells when sending has to pause, and gives up what does not come back.

    Args:
        give_up: takes all frames under way for dropped.
        source_interval_s: tells the source's time from frame to frame.
    """

    def __init__(
        self,
        round_trips: RoundTrips,
        pace: ServerPace,
        give_up: Callable[[], object],
        source_interval_s: Callable[[], float],
    ) -> None:
        self.count = 0
        """How many there were."""
        self._round_trips = round_trips
        self._pace = pace
        self._give_up = give_up
        self._source_interval_s = source_interval_s
        self._running = False
        self._every_s = FIRST_AUDIT_S
        self._ended_at = -math.inf
        self._clear_at: float | None = None
        """When it was certain last that no label is missing."""
        self._gave_up = False
        self._doubtful = False
        """Whether frames were given up and what came back since was not looked at: one that was
        only late is taken for the next one, as are all after it."""
        self._given_up_in_a_row = 0
        self._returns_since_clear = 0
        self._right_s: float | None = None
        """The usual round trip while labels were known to be right."""

    def sent_alone(self, now: float) -> None:
        """A frame leaves, and no other is under way."""
        self._clear_at = now

    def returned(self) -> None:
        """A frame came back."""
        self._given_up_in_a_row = 0
        self._returns_since_clear += 1

    def due_in(self, now: float) -> float:
        """Seconds until the next audit, if nothing is suspect before."""
        due_at = -math.inf if self._clear_at is None else self._clear_at + self._every_s
        return max(LEAST_WAIT_S, due_at - now)

    def may_suspect_in(self, now: float) -> float:
        """Seconds until an overdue frame makes for an audit."""
        return max(self._ended_at + SUSPICION_S - now, LEAST_WAIT_S)

    def pauses_for_s(self, under_way: Sequence[float], now: float, *, overdue: bool) -> float:
        """Seconds for which sending has to pause so that everything under way can come back.

        Args:
            under_way: when each frame that is under way was sent, the oldest first.
            overdue: whether the oldest should have been back.
        """
        if not under_way:
            if self._running or (self._doubtful and self._returns_since_clear):
                if (listens_for_s := self._round_trips.returned_at + self._listen_s() - now) > 0:
                    return listens_for_s
                rarer_s = max(AUDIT_S, min(LONGEST_AUDIT_S, 2 * self._every_s))
                self._end(now, FIRST_AUDIT_S if self._doubtful else rarer_s)
                self._doubtful = False
            else:
                self._every_s = FIRST_AUDIT_S
            self._labels_are_right(now)
            return 0.0
        if not self._round_trips.known:
            return 0.0
        if not self._running:
            if self._clear_at is None:
                self._clear_at = now
            is_due = self._doubtful or now - self._clear_at >= self._every_s
            if not is_due and not self._is_suspect(now, overdue):
                return 0.0
            self._running = True
            self.count += 1
        waited_since = max(self._round_trips.returned_at, under_way[-1])
        if (remaining_s := waited_since + self._patience_s() - now) > 0:
            return remaining_s
        self._give_up()
        self._gave_up = self._doubtful = True
        self._given_up_in_a_row += 1
        self._end(now, FIRST_AUDIT_S)
        self._clear_at = now
        self._returns_since_clear = 0
        return 0.0

    def _listen_s(self) -> float:
        """How long an audit goes on after the last frame that is taken to be under way. One that
        was given up and comes after all shifts the labels the other way: then one more comes."""
        return LISTEN * self._spacing_s() if self._gave_up else 0.0

    def _spacing_s(self) -> float:
        """From frame to frame, where every frame that has room is sent."""
        return max(self._source_interval_s(), self._pace.service_s)

    def _patience_s(self) -> float:
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * self._round_trips.slow_s)
        return max(patience_s, min(LONGEST_PATIENCE_S, patience_s * 2.0**self._given_up_in_a_row))

    def _labels_are_right(self, now: float) -> None:
        """Nothing is under way: all labels were those of the pictures they came with."""
        self._clear_at = now
        if self._returns_since_clear:
            returns = min(self._returns_since_clear, USUAL_RETURNS)
            self._right_s = median(self._round_trips.last(returns))
            self._returns_since_clear = 0

    def _is_suspect(self, now: float, overdue: bool) -> bool:
        if now < self._ended_at + SUSPICION_S:
            return False
        if overdue:
            return True
        if self._right_s is None or self._returns_since_clear < SUSPECT_RETURNS:
            return False
        lag_s = min(self._round_trips.last(SUSPECT_RETURNS)) - self._right_s
        return lag_s > SUSPECT_EXCESS * self._spacing_s()

    def _end(self, now: float, next_after_s: float) -> None:
        self._running = False
        self._ended_at = now
        self._every_s = next_after_s
