"""How many frames may be on their way through the server at once, and which go next.

A ComfyStream workflow takes one frame at a time and keeps one waiting; a third is dropped and,
worse, costs memory and shifts every later label of the connection. So the relay sends what the
server can take: one frame may always be under way, and the next leaves in time to be there when
the server is nearly done with all it has (`server_pace`). In time is not at once: a frame that
follows right upon a return may come before the server has taken the waiting one into work, and
push it out; and what is sent later is fresher. What that skips is skipped in the relay's own
queue, counted. Frames that are passed through unprocessed are not dropped by the server and need
no such care; a bound stays, so that a stalled server is not buried.

What a server drops all the same is looked for in pauses (`label_audit`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.webrtc.label_audit import LabelAudit
from relay.webrtc.round_trips import RoundTrips
from relay.webrtc.server_pace import ServerPace

LATE_AFTER, LATE_AFTER_S, RECOVERIES = 2.0, 0.03, 5
"""A frame is late after so many usual round trips and so much, then after twice that, and so on,
so often."""
LATE_INTERVALS = 1.5
"""Of the source, the least where frames are passed through: there the next frame shows what is lost
of this one, and it goes out whatever is under way. With a workflow a frame that comes again should
not meet the next one."""
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
        self.round_trips = RoundTrips()
        self.pace = ServerPace(self.round_trips)
        """Kept where the server may drop frames: there, what is under way is measured by it."""
        self.audit = LabelAudit(self.round_trips, self.pace, give_up, source_interval_s)
        self._limits = limits
        self._source_interval_s = source_interval_s
        self._under_way = under_way
        self._clock = clock
        self._changed = asyncio.Event()
        self._recoveries = 0
        """Since a frame was sent last."""

    async def wait_for_room(self) -> bool:
        """Return when one more frame may be sent. A cancel leaves nothing behind.

        Returns:
            Whether there was none at first.
        """
        waited = False
        while (wait_s := self.room_in()) > 0:
            waited = True
            self._changed.clear()
            try:
                async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return waited

    async def wait_for_return(self) -> None:
        """Return when the next frame comes back or is given up."""
        self._changed.clear()
        await self._changed.wait()

    def sent(self) -> None:
        """A frame leaves now; it is under way already."""
        self._recoveries = 0
        if self._limits.audited:
            now = self._clock()
            self.pace.note_sent(now)
            if len(self._under_way()) <= 1:
                self.audit.sent_alone(now)

    def returned(self, sent_at: float, returned_at: float) -> None:
        """The frame that was sent at `sent_at` came back at `returned_at`."""
        if self._limits.audited:
            self.pace.note_returned(returned_at - sent_at, returned_at, self._under_way())
            self.audit.returned()
        else:
            self.round_trips.note(returned_at - sent_at, returned_at)
        self._changed.set()

    def late_in(self) -> float | None:
        """Seconds until the frame sent last is so late that something may be lost on the way and
        nothing shows it; None when that can't be told, or enough was tried."""
        under_way = self._under_way()
        if not under_way or not self.round_trips.known or self._recoveries >= RECOVERIES:
            return None
        late_s = LATE_AFTER * self.round_trips.usual_s + LATE_AFTER_S
        if not self._limits.audited:
            late_s = max(late_s, LATE_INTERVALS * self._source_interval_s())
        return max(0.0, under_way[-1] + late_s * 2.0**self._recoveries - self._clock())

    def is_late(self) -> bool:
        """Whether the frame sent last is still under way, and that late."""
        late_in = self.late_in()
        return late_in is not None and late_in <= 0

    def recovered(self) -> None:
        """What may be lost is asked for and sent once more."""
        self._recoveries += 1

    def wake(self) -> None:
        """What is under way has changed otherwise: look again."""
        self._changed.set()

    def room_in(self) -> float:
        """Seconds until there is room; infinity if that takes a return."""
        under_way, now = self._under_way(), self._clock()
        if self._limits.audited:
            overdue = self._overdue(under_way, now)
            if (pauses_for_s := self.audit.pauses_for_s(under_way, now, overdue=overdue)) > 0:
                return pauses_for_s
            under_way = self._under_way()  # an audit may have given up what was
        if not under_way:
            return 0.0
        if len(under_way) < self._limits.always and not self._limits.in_time:
            return 0.0
        if not self.round_trips.known:
            second_in = under_way[0] + SECOND_UNTIL_RETURN_S - now
            return max(0.0, second_in) if len(under_way) < FIRST_FRAMES else math.inf
        if len(under_way) >= self._limits.most:
            return self.audit.due_in(now) if self._limits.audited else math.inf
        if self._overdue(under_way, now):
            return self.audit.may_suspect_in(now)
        return max(0.0, self.pace.send_at() - now)

    def _overdue(self, under_way: Sequence[float], now: float) -> bool:
        """Whether the server has all it takes, and the oldest should have been back."""
        full = len(under_way) >= self._limits.always
        return full and self.pace.is_overdue(under_way[0], now)
