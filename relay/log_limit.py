"""One warning a second per kind, with a count of those that were swallowed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog


class LimitedLog:
    """Warnings that faults of a peer may cause many times a second.

    Args:
        log: where they go.
        interval_s: the least time between two warnings of one name.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        *,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._last_at: dict[str, float] = {}
        self._swallowed: dict[str, int] = {}

    def warning(self, event: str, **keys: Any) -> None:
        """Log `event`, unless one of that name was logged less than the interval ago."""
        now = self._clock()
        last_at = self._last_at.get(event)
        if last_at is not None and now - last_at < self._interval_s:
            self._swallowed[event] = self._swallowed.get(event, 0) + 1
            return
        self._last_at[event] = now
        if swallowed := self._swallowed.pop(event, 0):
            keys["similar_since_last"] = swallowed
        self._log.warning(event, **keys)
