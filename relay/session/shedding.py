"""What is left out while more is to be done than can be: in a fixed order, instead of everything
stuttering at once.

First the previews, which are for people who look; then every second frame of the newest session, of
the one before it, and so on: those that were there first suffer last. What was left out last comes
back first, when there is room for it. Pure: decides once a second, from figures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from relay.observe.load_meter import Load

OVERLOADED = 1.0
"""Strain (see `Load.strain`) from which frames come too late."""
OVERLOADED_OF = 4, 5
"""Seconds, of the last ones, that are overloaded before anything is left out; and then so many
again before the next step, as the last one has to show first."""
RELAXED = 0.5
"""Strain below which something may come back."""
ROOM = 0.9
"""Of the CPU, that may be used with what comes back."""
PATIENCE_S, LONGEST_PATIENCE_S = 10, 80
"""So long everything is relaxed before the next thing comes back; twice as long each time that one
had to go again soon after."""
SOON = 2
"""Times the patience."""


class Shed(StrEnum):
    """What can be left out."""

    PREVIEWS = "previews"
    FRAMES = "frames"
    """Every second one, of one session."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something goes, or comes back."""

    what: Shed
    on: bool
    """Whether it is left out from now on."""
    session_id: str | None = None
    """Whose frames."""


class Shedding:
    """Knows what is left out now."""

    def __init__(self) -> None:
        self.previews = False
        """Whether none are made."""
        self.sessions: list[str] = []
        """Those with every second frame left out, in the order in which it began."""
        self._strains: deque[float] = deque(maxlen=OVERLOADED_OF[1])
        self._works: deque[float] = deque(maxlen=OVERLOADED_OF[1])
        self._relaxed_s = 0
        self._patience_s = PATIENCE_S
        self._since_restored_s = SOON * LONGEST_PATIENCE_S

    def look(
        self, load: Load, sessions: Sequence[str], *, willing: Sequence[str], viewers: bool
    ) -> list[Step]:
        """What goes or comes back now.

        Args:
            load: of the last second.
            sessions: that run.
            willing: those of them whose frames may be left out, the newest last.
            viewers: whether previews are made for anybody.
        """
        self.sessions = [session for session in self.sessions if session in sessions]
        self._strains.append(load.strain)
        self._works.append(load.work)
        self._relaxed_s = self._relaxed_s + 1 if load.strain < RELAXED else 0
        self._since_restored_s += 1
        if sum(strain >= OVERLOADED for strain in self._strains) >= OVERLOADED_OF[0]:
            return self._go_further(willing, viewers)
        if self._relaxed_s >= self._patience_s and self._has_room(len(sessions)):
            return self._go_back()
        return []

    def _go_further(self, willing: Sequence[str], viewers: bool) -> list[Step]:
        steps = []
        if not self.previews:
            self.previews = True
            steps.append(Step(Shed.PREVIEWS, True))
        full = [session for session in willing if session not in self.sessions]
        if full and not (steps and viewers):
            self.sessions.append(full[-1])
            steps.append(Step(Shed.FRAMES, True, full[-1]))
        if steps:
            if self._since_restored_s <= SOON * self._patience_s:
                self._patience_s = min(LONGEST_PATIENCE_S, 2 * self._patience_s)
            self._strains.clear()
        return steps

    def _go_back(self) -> list[Step]:
        if self.sessions:
            step = Step(Shed.FRAMES, False, self.sessions.pop())
        elif self.previews:
            self.previews = False
            step = Step(Shed.PREVIEWS, False)
        else:
            self._patience_s = PATIENCE_S
            return []
        self._relaxed_s = 0
        self._since_restored_s = 0
        return [step]

    def _has_room(self, sessions: int) -> bool:
        work = fmean(self._works)
        if not self.sessions:
            return work <= ROOM
        whole = sessions - len(self.sessions) / 2
        return work * (whole + 0.5) / whole <= ROOM
