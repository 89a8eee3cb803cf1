"""Why the last request had to be made again, for as long as that says something about now."""

from __future__ import annotations

import time
from collections.abc import Callable

STANDS_S = 10.0
"""Attempts follow one another sooner: without another failure, one waits for its answer."""


class LastProblem:
    """One channel's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._text: str | None = None
        self._noted_at = 0.0

    def note(self, text: str) -> None:
        """A request failed, or did not find the channel."""
        self._text, self._noted_at = text, self._clock()

    def clear(self) -> None:
        """One succeeded."""
        self._text = None

    @property
    def text(self) -> str | None:
        """In words; None while there is none."""
        if self._text is not None and self._clock() - self._noted_at > STANDS_S:
            self._text = None
        return self._text
