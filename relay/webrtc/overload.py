"""Which frames are skipped when a server takes fewer than come."""

from __future__ import annotations


class OverloadRule:
    """Tells a server that is too slow from one that hiccups.

    A hiccup leaves a few frames waiting, which are sent one after the other and the queue is
    empty again. If it has not been empty for `patience_s`, the server takes fewer frames than
    come: from then on every frame but the newest is skipped, so the queue adds no delay, until
    the newest has been the only one `recover_takes` times in a row.

    Args:
        patience_s: how long frames may wait before any is skipped.
    """

    def __init__(self, patience_s: float = 0.25, recover_takes: int = 5) -> None:
        self.overloaded = False
        self._patience_s = patience_s
        self._recover_takes = recover_takes
        self._waiting_since: float | None = None
        self._takes_in_time = 0

    def should_skip(self, waiting: int, now: float) -> bool:
        """Whether to send only the newest of the `waiting` frames (one or more), at `now`."""
        if waiting <= 1:
            self._waiting_since = None
            self._takes_in_time += 1
            if self._takes_in_time >= self._recover_takes:
                self.overloaded = False
            return False
        self._takes_in_time = 0
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since > self._patience_s:
            self.overloaded = True
        return self.overloaded
