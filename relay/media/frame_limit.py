"""Fewer pictures than come in, evenly spread: for those who ask for a frame rate at the most, and
while there is too much to do."""

from __future__ import annotations

from relay.media.access_unit import CLOCK_RATE

EARLY = 0.1
"""Of an interval: a picture may be so much early, as those are whose times were rounded."""
NEW_TIME_LINE = CLOCK_RATE


class FrameLimit:
    """Chooses by the pictures' own times, so that a stall of the input costs none.

    Attributes:
        fps: pictures a second at the most; 0 takes all. May be changed at any time.
        halved: whether every second one of these is left out. May be changed at any time.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.halved = False
        self._skipped = False
        self._due: float | None = None

    def admits(self, pts: int) -> bool:
        """Whether the picture at `pts` (90 kHz) is taken. To be asked once for each, in order."""
        if not self.fps:
            return True
        interval = CLOCK_RATE / self.fps
        if self._due is None or abs(pts - self._due) > interval + NEW_TIME_LINE:
            self._due = float(pts)
        if pts < self._due - EARLY * interval:
            return False
        self._due = max(self._due + interval, pts + EARLY * interval)
        return True

    def skips(self) -> bool:
        """Whether a picture that was admitted is left out as every second one. To be asked once for
        each, in order."""
        self._skipped = self.halved and not self._skipped
        return self._skipped
