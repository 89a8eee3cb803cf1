"""How many frames may be on their way through the server at once, and which go next.

A ComfyStream workflow takes one frame at a time and keeps one waiting; a third is dropped and,
worse, costs memory and shifts every later label of the connection. So the relay sends what the
server can take: one frame may always be under way, and the next leaves in time to be there when
the server is nearly done with all it has (`server_pace`). In time is not at once: a frame that
follows right upon a return may come before the server has taken the waiting one into work, and
push it out; and what is sent later is fresher. What that skips is skipped in the relay's own
queue, counted. Frames that are passed through unprocessed are not dropped by the server and need
no such care; a bound stays, so that a stalled server is not buried.

Drops inside the server can't be seen, and one is enough to put a wrong time on every later
frame: the label of a dropped frame comes back one frame late, as do all after it. They show when
nothing is under way any more and labels are still missing. So when that moment does not come by
itself sending pauses for it now and then (the audit), and soon when something is suspect: a frame
is overdue, or the last ones all came back later than usual by the time between two frames.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from relay.webrtc.server_pace import USUAL_RETURNS, ServerPace

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
LATE_AFTER, LATE_AFTER_S, RECOVERIES = 2.0, 0.03, 5
"""A frame is late after so many usual round trips and so much, then after twice that, and so on,
so often."""
LISTEN = 1.5
"""Times from frame to frame that an audit waits for what is not expected any more."""
LEAST_WAIT_S = 0.05
"""An overdue frame that may not be suspected yet is looked at again after so long."""
FIRST_FRAMES, SECOND_UNTIL_RETURN_S = 2, 1.0
"""Until the first return the server may be starting, and what it is sent is best let alone: so
many go at the most, so far apart."""


@dataclass(frozen=True, slots=True)
class FlightLimits:
    """How many frames may be under way."""

    always: int
    """Even if the oldest is overdue."""
    most: int
    """At the very most."""
    audited: bool
    """Whether the server may drop frames and keep their labels."""
    in_time: bool = False
    """Whether the second frame waits until the server will soon be done with the first."""


PASSTHROUGH = FlightLimits(always=30, most=30, audited=False)
WORKFLOW = FlightLimits(always=2, most=12, audited=True, in_time=True)
"""ComfyStream holds one frame in work and one waiting (its input queue has one place)."""
WORKFLOW_COMPLETE = FlightLimits(always=1, most=1, audited=True)
"""Where nothing may be dropped: a server that is late in taking the frame that waits can lose it to
the next one, so none waits there. Each frame takes the way there and back besides its run."""
WORKFLOW_UNANNOUNCED = FlightLimits(always=2, most=12, audited=True)
"""A receiver that is not told of the next frame holds each one until the next comes: the second
frame is what sends the first to work."""


class FlightControl:
    """Lets the sender wait until there is room in flight.

    Args:
        under_way: tells when each frame that is under way was sent, the oldest first.
        give_up: takes all frames under way for dropped.
        source_interval_s: tells the source's time from frame to frame.
    """

    def __init__(
        self,
        limits: FlightLimits,
        under_way: Callable[[], Sequence[float]],
        give_up: Callable[[], object],
        source_interval_s: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.pace = ServerPace()
        self.audits = 0
        self._limits = limits
        self._under_way = under_way
        self._give_up = give_up
        self._source_interval_s = source_interval_s
        self._clock = clock
        self._changed = asyncio.Event()
        self._auditing = False
        self._audit_every_s = FIRST_AUDIT_S
        self._audited_at = -math.inf
        self._clear_at: float | None = None
        """When it was certain last that no label is missing."""
        self._last_return_at = -math.inf
        self._recoveries = 0
        """Since a frame was sent last."""
        self._gave_up = False
        self._given_up_in_a_row = 0
        self._returns_since_clear = 0
        self._right_s: float | None = None
        """The usual round trip while labels were known to be right."""

    async def wait_for_room(self) -> None:
        """Return when one more frame may be sent. A cancel leaves nothing behind."""
        while (wait_s := self.room_in()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def wait_for_return(self) -> None:
        """Return when the next frame comes back or is given up."""
        self._changed.clear()
        await self._changed.wait()

    def sent(self) -> None:
        """A frame leaves now; it is under way already."""
        now = self._clock()
        self._recoveries = 0
        self.pace.note_sent(now)
        if len(self._under_way()) <= 1:
            self._clear_at = now

    def returned(self, sent_at: float, returned_at: float) -> None:
        """The frame that was sent at `sent_at` came back at `returned_at`."""
        self._last_return_at = returned_at
        self._given_up_in_a_row = 0
        self._returns_since_clear += 1
        self.pace.note_returned(sent_at, returned_at, self._under_way())
        self._changed.set()

    def late_in(self) -> float | None:
        """Seconds until the frame sent last is so late that something may be lost on the way and
        nothing shows it; None when that can't be told, or enough was tried."""
        under_way = self._under_way()
        if not under_way or math.isinf(self._last_return_at) or self._recoveries >= RECOVERIES:
            return None
        late_s = (LATE_AFTER * self.pace.usual_s + LATE_AFTER_S) * 2.0**self._recoveries
        return max(0.0, under_way[-1] + late_s - self._clock())

    def recovered(self) -> None:
        """What may be lost is asked for and sent once more."""
        self._recoveries += 1

    def wake(self) -> None:
        """What is under way has changed otherwise: look again."""
        self._changed.set()

    def room_in(self) -> float:
        """Seconds until there is room; infinity if that takes a return."""
        under_way = self._under_way()
        now = self._clock()
        if self._limits.audited and (audit_ends_in := self._audit(under_way, now)) > 0:
            return audit_ends_in
        under_way = self._under_way()  # an audit may have given up what was
        if not under_way:
            return 0.0
        if len(under_way) < self._limits.always and not self._limits.in_time:
            return 0.0
        if math.isinf(self._last_return_at):
            second_in = under_way[0] + SECOND_UNTIL_RETURN_S - now
            return max(0.0, second_in) if len(under_way) < FIRST_FRAMES else math.inf
        if len(under_way) >= self._limits.most:
            return self._audit_due_in(now)
        if len(under_way) >= self._limits.always and self.pace.is_overdue(under_way[0], now):
            return max(self._audited_at + SUSPICION_S - now, LEAST_WAIT_S)
        return max(0.0, self.pace.send_at() - now)

    def _audit(self, under_way: Sequence[float], now: float) -> float:
        """Seconds for which sending has to pause so that everything under way can come back."""
        if not under_way:
            if self._auditing:
                if (listens_for_s := self._last_return_at + self._listen_s() - now) > 0:
                    return listens_for_s
                self._end_audit(now, max(AUDIT_S, min(LONGEST_AUDIT_S, 2 * self._audit_every_s)))
            else:
                self._audit_every_s = FIRST_AUDIT_S
            self._labels_are_right(now)
            return 0.0
        if math.isinf(self._last_return_at):
            return 0.0
        if not self._auditing:
            if self._clear_at is None:
                self._clear_at = now
            if now - self._clear_at < self._audit_every_s and not self._is_suspect(under_way, now):
                return 0.0
            self._auditing = True
            self.audits += 1
        waited_since = max(self._last_return_at, under_way[-1])
        if (remaining_s := waited_since + self._patience_s() - now) > 0:
            return remaining_s
        self._give_up()
        self._gave_up = True
        self._given_up_in_a_row += 1
        self._end_audit(now, FIRST_AUDIT_S)
        self._clear_at = now
        self._returns_since_clear = 0
        return 0.0

    def _audit_due_in(self, now: float) -> float:
        if not self._limits.audited or self._clear_at is None:
            return math.inf
        return max(LEAST_WAIT_S, self._clear_at + self._audit_every_s - now)

    def _listen_s(self) -> float:
        """How long an audit goes on after the last frame that is taken to be under way. One that
        was given up and comes after all shifts the labels the other way: then one more comes."""
        return LISTEN * self._spacing_s() if self._gave_up else 0.0

    def _spacing_s(self) -> float:
        """From frame to frame, where every frame that has room is sent."""
        return max(self._source_interval_s(), self.pace.service_s)

    def _patience_s(self) -> float:
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * self.pace.slow_s)
        return max(patience_s, min(LONGEST_PATIENCE_S, patience_s * 2.0**self._given_up_in_a_row))

    def _labels_are_right(self, now: float) -> None:
        """Nothing is under way: all labels were those of the pictures they came with."""
        self._clear_at = now
        if self._returns_since_clear:
            round_trips = self.pace.last_round_trips(min(self._returns_since_clear, USUAL_RETURNS))
            self._right_s = median(round_trips)
            self._returns_since_clear = 0

    def _is_suspect(self, under_way: Sequence[float], now: float) -> bool:
        if now < self._audited_at + SUSPICION_S:
            return False
        if len(under_way) >= self._limits.always and self.pace.is_overdue(under_way[0], now):
            return True
        if self._right_s is None or self._returns_since_clear < SUSPECT_RETURNS:
            return False
        lag_s = min(self.pace.last_round_trips(SUSPECT_RETURNS)) - self._right_s
        return lag_s > SUSPECT_EXCESS * self._spacing_s()

    def _end_audit(self, now: float, next_after_s: float) -> None:
        self._auditing = False
        self._audited_at = now
        self._audit_every_s = next_after_s
