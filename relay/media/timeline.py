"""Frame identity across a server that keeps deltas but not origins.

Towards the server every frame gets a stamp of ours: 90 kHz, strictly increasing, one nominal
frame interval apart plus a small code of -8 to +7 ticks. The server returns frames with the same
differences but an origin nobody can know (it zeroes the first stamp it received and adds a
random number; if the first frames were lost, nothing in RTP or RTCP tells). So the one unknown
is a constant, and the codes give it away: it is the only one that makes every returned stamp one
that was sent. Two or three frames settle it, exactly (measured against H.264 echoes of aiortc
1.9 to 1.16: 100 % of identified frames agreed with their pixels).

All arithmetic on returned stamps is modulo 2^32, the width of an RTP timestamp (RFC 3550, 5.1).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from relay.media.access_unit import CLOCK_RATE
from relay.stats import percentile

RTP_MODULUS = 1 << 32
CODE_LOW, CODE_HIGH = -8, 7
MIN_INTERVAL = CLOCK_RATE // 120
MAX_INTERVAL = CLOCK_RATE
RECENT_RETURNS = 64
"""How many round trips tell how long one takes."""
LATE, LATE_S = 1.5, 0.05
"""Longer than so many slow round trips and so much no frame takes to come back."""


@dataclass(slots=True)
class SentFrame:
    """What the relay remembers of a frame it sent."""

    stamp: int
    """Ours, unwrapped 90 kHz ticks."""
    source_pts: int | None
    """The source's; None for a repeat that only keeps the connection fed."""
    arrived_at: float
    """When its last byte came in; see `access_unit`."""
    sent_at: float
    """The same clock, when it was given to the sender."""


class Identified(NamedTuple):
    """A returned frame and the sent frame it is."""

    sent: SentFrame
    returned: object
    """Whatever the caller gave with the returned stamp."""


class StampIssuer:
    """Assigns the stamps towards the server.

    `upcoming` is fixed before it is used, so that the sender can announce it early (the access
    unit delimiter of the next frame) and keep the promise.
    """

    def __init__(self, interval: int = CLOCK_RATE // 30, seed: int | None = None) -> None:
        self._random = Random(seed)  # codes need to differ, not to be secret
        self.interval = _clamp(interval)
        self.upcoming = self._step()

    def issue(self) -> int:
        """The stamp for the frame that is sent now; the next one is `upcoming` from here on."""
        stamp = self.upcoming
        self.upcoming = stamp + self._step()
        return stamp

    def observe_interval(self, source_delta: int) -> None:
        """Follow the source's frame interval (90 kHz ticks), smoothed; jumps are ignored."""
        if MIN_INTERVAL <= source_delta <= MAX_INTERVAL:
            self.interval = _clamp(round(self.interval + (source_delta - self.interval) / 8))

    def _step(self) -> int:
        code = CODE_LOW + int(self._random.random() * (CODE_HIGH + 1 - CODE_LOW))
        return self.interval + code


class FrameIdentifier:
    """Finds the sent frame that a returned stamp belongs to.

    A server that drops frames inside may keep their labels and give them to later frames, in
    order (ComfyStream since v0.1.5: output k carries the pts of input k, whatever it shows). Such
    labels come back after `give_up_before` has taken them for lost; from then on a returned
    label stands for the oldest frame under way, because the server works in order.

    Args:
        capacity: how many sent frames are remembered; older ones can't be identified any more.
        misses_to_resolve_again: after so many returned stamps in a row that fit no sent frame,
            the constant is taken to have changed (the server restarted its stream) and is
            looked for anew.
    """

    def __init__(self, capacity: int = 600, misses_to_resolve_again: int = 3) -> None:
        self.capacity = capacity
        self.misses = 0
        """Returned stamps that fitted no sent frame, in all."""
        self._misses_in_a_row = 0
        self._misses_to_resolve_again = misses_to_resolve_again
        self._sent: OrderedDict[int, SentFrame] = OrderedDict()
        self._owed: OrderedDict[int, SentFrame] = OrderedDict()
        self._round_trips: deque[float] = deque(maxlen=RECENT_RETURNS)
        self._returned_at = -math.inf
        self._too_soon = False
        """Whether the last frame that can't have been back was taken for another. The second time
        it is the server that has become faster."""
        self._offset: int | None = None
        self._candidates: set[int] = set()
        self._undecided: list[tuple[int, float, object]] = []
        self._under_way: list[float] | None = None
        """Asked for several times a frame."""

    @property
    def resolved(self) -> bool:
        """Whether the server's constant is known."""
        return self._offset is not None

    @property
    def label_shift(self) -> int:
        """By how many frames the server's labels lag behind its pictures; 0 when they are right."""
        return len(self._owed)

    @property
    def in_flight(self) -> int:
        """Sent frames that neither came back nor were overtaken by one that did."""
        return max(0, len(self._sent) - len(self._undecided))

    @property
    def oldest_sent_at(self) -> float | None:
        """When the oldest frame under way was sent; None if none is."""
        return next(iter(self._sent.values())).sent_at if self.in_flight else None

    def under_way(self) -> list[float]:
        """When each frame under way was sent, the oldest first. Not to be changed."""
        if self._under_way is None:
            sent_at = [frame.sent_at for frame in self._sent.values()]
            self._under_way = sent_at[len(self._undecided) :]
        return self._under_way

    def remember(self, frame: SentFrame) -> None:
        """Note a frame at the moment it is sent."""
        self._under_way = None
        self._sent[frame.stamp % RTP_MODULUS] = frame
        while len(self._sent) > self.capacity:
            self._sent.popitem(last=False)

    def give_up_before(self, sent_at: float) -> int:
        """Take frames sent before that time for dropped by the server; returns how many.

        They are not under way any more, but their labels may still come back on other frames.
        """
        self._under_way = None
        count = 0
        while self._sent and next(iter(self._sent.values())).sent_at < sent_at:
            key, frame = self._sent.popitem(last=False)
            self._owed[key] = frame
            count += 1
        while len(self._owed) > self.capacity:
            self._owed.popitem(last=False)
        return count

    def identify(
        self, returned_stamp: int, returned_at: float, returned: object
    ) -> list[Identified]:
        """Take one returned frame; give back those whose identity is certain now, in order.

        Until the constant is known the list is empty and the frames wait; with the frame that
        settles it, they come out together. A frame that fits no sent frame is a miss and is
        not kept. Frames sent before an identified one are forgotten: the server answers in
        order, so they were dropped.

        Args:
            returned_stamp: the RTP timestamp or any unwrapped form of it, 90 kHz.
            returned_at: when it came, on the clock of `SentFrame.sent_at`.
        """
        self._under_way = None
        returned_stamp %= RTP_MODULUS
        if self._offset is None:
            return self._narrow(returned_stamp, returned_at, returned)
        sent = self._take((returned_stamp + self._offset) % RTP_MODULUS, returned_at)
        if sent is not None:
            self._misses_in_a_row = 0
            return [Identified(sent, returned)]
        self.misses += 1
        self._misses_in_a_row += 1
        if self._misses_in_a_row >= self._misses_to_resolve_again:
            self._misses_in_a_row = 0
            self._offset = None
        return []

    def _narrow(
        self, returned_stamp: int, returned_at: float, returned: object
    ) -> list[Identified]:
        known = [*self._owed, *self._sent]
        possible = {(stamp - returned_stamp) % RTP_MODULUS for stamp in known}
        fitting = self._candidates & possible if self._undecided else possible
        if not fitting and self._undecided:
            # Nothing fits them all: start over with what came last.
            self.misses += len(self._undecided)
            self._undecided.clear()
            fitting = possible
        if not fitting:
            self.misses += 1
            return []
        self._candidates = fitting
        self._undecided.append((returned_stamp, returned_at, returned))
        if len(fitting) > 1 or len(self._undecided) < 2:
            # One frame alone fits anything: even a single candidate would be a guess.
            return []
        (self._offset,) = fitting
        undecided, self._undecided = self._undecided, []
        return [hit for one in undecided for hit in self.identify(*one)]

    def _take(self, key: int, returned_at: float) -> SentFrame | None:
        last_return_at, self._returned_at = self._returned_at, returned_at
        if key in self._sent:
            # A label under way: everything older was dropped together with its label.
            self._owed.clear()
            frame = _pop_through(self._sent, key)
            self._round_trips.append(returned_at - frame.sent_at)
            return frame
        if key not in self._owed:
            return None
        labelled = _pop_through(self._owed, key)
        shown_key, shown = next(iter(self._sent.items()), (0, None))
        if shown is None or not self._can_be_back(shown, last_return_at, returned_at):
            return labelled  # the frame was only late
        self._round_trips.append(returned_at - shown.sent_at)
        del self._sent[shown_key]
        self._owed[shown_key] = shown
        return shown

    def _can_be_back(self, frame: SentFrame, last_return_at: float, now: float) -> bool:
        """Whether now is about the time at which a frame that is under way comes back: not before
        it can, and not long after it should, counted from the return before if that was later (a
        server that stalled works on with what it had)."""
        if now - frame.sent_at < min(self._round_trips, default=math.inf) / 2:
            self._too_soon = not self._too_soon
            if self._too_soon:
                return False
        waited_s = now - max(frame.sent_at, last_return_at)
        return waited_s <= LATE * percentile(sorted(self._round_trips), 95) + LATE_S


def _pop_through(frames: OrderedDict[int, SentFrame], key: int) -> SentFrame:
    """Remove every frame up to `key`, and return that one."""
    while True:
        first, frame = frames.popitem(last=False)
        if first == key:
            return frame


def _clamp(interval: int) -> int:
    return max(MIN_INTERVAL, min(MAX_INTERVAL, interval))
