"""33-bit MPEG-TS timestamps made into plain integers.

The rule: a timestamp is read as the value nearest to the one before it, of all those it can
stand for. A wrap (every 26.5 h) therefore goes on counting, a jump of 1000 s or back to 0 comes
out as the jump it is, and only a jump of more than 13.25 h is taken for its complement, which
modulo 2^33, as the output carries it, is the same.
"""

from __future__ import annotations

from relay.media.access_unit import CLOCK_RATE, PTS_MODULUS

_HALF = PTS_MODULUS // 2
JUMP_TO_CONFIRM = 3600 * CLOCK_RATE


class TimestampUnwrapper:
    """One clock of a programme: video and audio share it, so that they stay comparable.

    A single timestamp more than an hour off (a flipped bit in a PES header, which nothing
    protects) is handed out as it is but not believed: what follows is read relative to the last
    good one until a second timestamp confirms the jump. Otherwise one bad bit could shift
    everything after it by 2^33.
    """

    __slots__ = ("_doubted", "_reference")

    def __init__(self) -> None:
        self._reference: int | None = None
        self._doubted: int | None = None

    def unwrap(self, timestamp: int) -> int:
        """The unwrapped value of a 33-bit timestamp; the first one is taken as it is."""
        if self._reference is None:
            self._reference = timestamp
            return timestamp
        value = nearest(timestamp, self._reference)
        if abs(value - self._reference) <= JUMP_TO_CONFIRM:
            self._reference, self._doubted = value, None
            return value
        if self._doubted is not None:
            confirmed = nearest(timestamp, self._doubted)
            if abs(confirmed - self._doubted) <= JUMP_TO_CONFIRM:
                self._reference, self._doubted = confirmed, None
                return confirmed
        self._doubted = value
        return value


def nearest(timestamp: int, reference: int) -> int:
    """The value congruent to `timestamp` modulo 2^33 that is closest to `reference`."""
    return reference + (timestamp - reference + _HALF) % PTS_MODULUS - _HALF
