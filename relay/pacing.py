"""How many frames may be on their way through the server at once, and which go next.

A ComfyStream workflow takes one frame at a time and keeps one waiting; a third is dropped and,
worse, costs memory and shifts every later timestamp of the connection. So the relay sends no
more than come back: `limit` frames in flight, the newest first. What that skips is skipped in
the relay's own queue, counted. Frames passed through unprocessed are not dropped by the server
and need no such limit; a bound stays, so that a stalled server is not buried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class FlightControl:
    """Lets the sender wait until there is room in flight.

    Args:
        limit: the largest number of frames in flight.
        in_flight: tells how many there are now.
    """

    def __init__(self, limit: int, in_flight: Callable[[], int]) -> None:
        self.limit = limit
        self._in_flight = in_flight
        self._changed = asyncio.Event()

    async def wait_for_room(self) -> None:
        """Return when one more frame may be sent. A cancel leaves nothing behind."""
        while self._in_flight() >= self.limit:
            await self.wait_for_return()

    async def wait_for_return(self) -> None:
        """Return when the next frame comes back or is given up."""
        self._changed.clear()
        await self._changed.wait()

    def returned(self) -> None:
        """Say that a frame came back or was given up."""
        self._changed.set()


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
