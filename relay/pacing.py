"""How many frames may be on their way through the server at once.

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
