"""Audio that went around the server, brought back in time with the video that went through it.

Video takes as long as its workflow does; audio waits for it, but not for ever. Video never waits.
"""

from __future__ import annotations

from collections import deque

from relay.media.access_unit import AccessUnit


class AudioInterleaver:
    """Holds audio until the video written has reached its pts, or until it has waited enough.

    Nothing is lost, and nothing is reordered within a stream.

    Args:
        max_wait_s: the longest time an audio unit waits, by the clock of the `now`s given.
        capacity: how many units wait at most; the oldest go out early beyond that.
    """

    def __init__(self, max_wait_s: float = 0.5, capacity: int = 256) -> None:
        self.released_late = 0
        """Audio units that went out before their video, because they had waited enough."""
        self._max_wait_s = max_wait_s
        self._capacity = capacity
        self._waiting: deque[tuple[AccessUnit, float]] = deque()
        self._video_time: int | None = None

    def __len__(self) -> int:
        """Audio units waiting."""
        return len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When to call `expire` if no other call comes before; None if nothing waits."""
        return self._waiting[0][1] if self._waiting else None

    def video(self, unit: AccessUnit) -> list[AccessUnit]:
        """A video unit is ready: it and all audio up to it, in the order to write.

        Audio from before the picture goes first, so that a keyframe that begins a segment leaves
        it in the segment it belongs to; audio of the same time follows.
        """
        self._video_time = unit.dts
        if not self._waiting:
            return [unit]
        return [*self._release(unit.dts - 1), unit, *self._release(unit.dts)]

    def audio(self, unit: AccessUnit, now: float) -> list[AccessUnit]:
        """An audio unit came; what may be written now."""
        if not self._waiting and self._video_time is not None and unit.pts <= self._video_time:
            return [unit]
        self._waiting.append((unit, now + self._max_wait_s))
        return self.expire(now)

    def expire(self, now: float) -> list[AccessUnit]:
        """The audio that has waited enough."""
        expired = []
        while self._waiting and (self._waiting[0][1] <= now or len(self._waiting) > self._capacity):
            expired.append(self._waiting.popleft()[0])
        self.released_late += len(expired)
        return expired

    def _release(self, up_to: int) -> list[AccessUnit]:
        """The audio up to a time, as far as nothing later waits in front of it."""
        released = []
        while self._waiting and self._waiting[0][0].pts <= up_to:
            released.append(self._waiting.popleft()[0])
        return released

    def flush(self) -> list[AccessUnit]:
        """All that waits, at the end."""
        units = [unit for unit, _ in self._waiting]
        self._waiting.clear()
        return units
