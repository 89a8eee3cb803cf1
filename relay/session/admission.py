"""Whether there is room for another session, by what the relay measures about itself.

Pure: whoever asks brings the figures. A session more is taken to cost what one has cost lately, so
neither those that have just begun nor those that have just ended deceive. One second, good or bad,
decides nothing.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import structlog

from relay.errors import BusyError
from relay.observe.load_meter import Load

log = structlog.get_logger(__name__)

WINDOW_S = 10
"""What is looked back on, a figure a second."""
ENOUGH = 4
"""Seconds below which nothing is known, and nobody refused."""
MARGIN = 0.1
"""By how much less there has to be to do before sessions are taken again."""
RETRY_AFTER_S = 10


class Admission:
    """Says no while the relay is busy.

    Args:
        limit: the largest load at which one more is taken, 0 to 1; 0 never says no.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.refusing = False
        """What it said when the last figures came; then there has to be more room to say yes."""
        self._seconds: deque[tuple[Load, int]] = deque(maxlen=WINDOW_S)

    def note(self, load: Load, sessions: int) -> None:
        """A second's figures, and how many sessions run."""
        self._seconds.append((load, sessions))
        refusal = self.refusal(sessions)
        if refusal is not None and not self.refusing:
            log.warning("relay.overloaded", problem=refusal.message)
        elif refusal is None and self.refusing:
            log.info("relay.room_again", sessions=sessions)
        self.refusing = refusal is not None

    def refusal(self, sessions: int) -> BusyError | None:
        """Why there is no room; None if there is.

        Args:
            sessions: that run, or are about to.
        """
        if not self.limit or not sessions:
            return None  # without sessions it is others who take the CPU, and may go on for ever
        problem = self._problem(sessions, self.limit - (MARGIN if self.refusing else 0.0))
        if problem is None:
            return None
        return BusyError(
            f"the relay has no room for another session: {problem}; stop one, start this one on"
            " another relay, or try later",
            code="overloaded",
            retry_after_s=RETRY_AFTER_S,
        )

    def expected_work(self, sessions: int) -> float:
        """The share of the CPU that `sessions` take, by what those of the window took."""
        session_seconds = sum(count for _, count in self._seconds)
        if session_seconds < ENOUGH:
            return 0.0
        return sum(load.work for load, count in self._seconds if count) / session_seconds * sessions

    def _problem(self, sessions: int, limit: float) -> str | None:
        # What waited when there were more sessions says nothing about now.
        strained = [load for load, count in self._seconds if count <= sessions]
        if len(strained) >= ENOUGH and median(load.strain for load in strained) > limit:
            wait_ms = median(load.codec_wait_s for load in strained) * 1000
            lag_ms = median(load.loop_lag_s for load in strained) * 1000
            return (
                f"frames wait {wait_ms:.0f} ms for a codec thread, and the event loop comes"
                f" {lag_ms:.0f} ms late"
            )
        if (expected := self.expected_work(sessions + 1)) > limit:
            return (
                f"its CPU is {self.expected_work(sessions):.0%} busy, and one more would make that"
                f" {expected:.0%} (RELAY_MAX_LOAD is {self.limit:.0%})"
            )
        return None
