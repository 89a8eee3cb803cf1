"""What has to be decoded first when pictures that were passed by are to be decoded after all."""

from __future__ import annotations

from collections import deque

from relay.media.access_unit import AccessUnit

MOST_UNITS = 1000
MOST_BYTES = 16 << 20
"""Half a minute at 30 fps: more than there is between two keyframes where pictures are copied."""
GROUPS = 2
"""Whoever sends pictures may have some of a group left when the next one begins."""


class DecodeBacklog:
    """Access units that the decoder has not seen, in decoding order: those since the last IDR
    picture, and those of the group before.

    Bounded: of longer groups nothing is kept, and what follows can't be decoded before the next IDR
    picture.
    """

    def __init__(self) -> None:
        self.lost = False
        """Units were let go of that the decoder would have needed. Whoever decodes next resets it,
        and this."""
        self._groups: deque[deque[AccessUnit]] = deque([deque()], maxlen=GROUPS)
        self._units = self._bytes = 0
        """In all groups together."""

    def __len__(self) -> int:
        return self._units

    def pass_by(self, unit: AccessUnit) -> None:
        """`unit` is not decoded now; if it is a keyframe it is an IDR picture."""
        if unit.keyframe:
            self.lost = False
            self._groups.append(deque())
            self._measure()
        if self.lost:
            return
        self._groups[-1].append(unit)
        self._units += 1
        self._bytes += len(unit.data)
        if self._units > MOST_UNITS or self._bytes > MOST_BYTES:
            self.clear()
            self.lost = True

    def take(self) -> list[AccessUnit]:
        """All since the last IDR picture; none is kept."""
        units = list(self._groups[-1])
        self._forget()
        return units

    def take_up_to(self, unit: AccessUnit) -> list[AccessUnit]:
        """What is to be decoded so that `unit` is, itself the last; what follows it is kept.

        Returns:
            Nothing if it is not there.
        """
        for group in self._groups:
            if not any(one is unit for one in group):
                continue
            while self._groups[0] is not group:
                self._groups.popleft()
            units = [group.popleft()]
            while units[-1] is not unit:
                units.append(group.popleft())
            self._measure()
            return units
        return []

    def clear(self) -> None:
        """Nothing of what came so far will be needed."""
        self._forget()
        self.lost = False

    def _forget(self) -> None:
        self._groups.clear()
        self._groups.append(deque())
        self._units = self._bytes = 0

    def _measure(self) -> None:
        self._units = sum(len(group) for group in self._groups)
        self._bytes = sum(len(unit.data) for group in self._groups for unit in group)
