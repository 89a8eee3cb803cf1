"""Joining a stream in the middle of a segment: what came before the live edge is not shown.

A server gives a late joiner the whole current segment at once. Sent on, those frames would
reach the viewer as a burst of old pictures, and the session would begin with their age. They
are needed, because what follows refers to them, and then let go.
"""

from __future__ import annotations

from relay.media.access_unit import CLOCK_RATE, SourceFrame

PACE = 0.5
"""Frames that arrive in less than this share of their own duration come from a backlog."""


class LiveEdge:
    """Holds frames back until they come at the pace of their timestamps.

    Args:
        patience_s: a stream that never settles is taken as live after so long.
    """

    def __init__(self, patience_s: float = 2.0) -> None:
        self.reached = False
        self._patience_s = patience_s
        self._held: SourceFrame | None = None
        self._first_arrived_at: float | None = None

    def admit(self, frame: SourceFrame) -> list[SourceFrame]:
        """The frames to go on with, now that `frame` is here; empty while catching up.

        Once the edge is reached every frame is passed on as it comes.
        """
        if self.reached:
            return [frame]
        if self._first_arrived_at is None:
            self._first_arrived_at = frame.arrived_at
        held, self._held = self._held, frame
        if held is None:
            return []
        duration_s = (frame.pts - held.pts) / CLOCK_RATE
        in_pace = frame.arrived_at - held.arrived_at >= PACE * duration_s
        if in_pace or frame.arrived_at - self._first_arrived_at > self._patience_s:
            self.reached = True
            self._held = None
            return [held, frame]
        return []

    def flush(self) -> list[SourceFrame]:
        """The frame still held when the stream ends."""
        held, self._held = self._held, None
        return [held] if held is not None else []
