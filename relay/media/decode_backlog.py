"""What has to be decoded first when pictures that were passed by are to be decoded after all."""

from __future__ import annotations

from collections import deque

from relay.media.access_unit import AccessUnit

MOST_UNITS = 1000
MOST_BYTES = 16 << 20
"""Half a minute at 30 fps: more than there is between two keyframes where pictures are copied."""


class DecodeBacklog:
    """The access units since the last IDR picture that the decoder has not seen, in decoding order.

    Bounded: of a longer group nothing is kept, and what follows can't be decoded before the next
    IDR picture.
    """

    def __init__(self) -> None:
        self.lost = False
        """Units were let go of that the decoder would have needed. Whoever decodes next resets it,
        and this."""
        self._units: deque[AccessUnit] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._units)

    def pass_by(self, unit: AccessUnit, *, idr: bool) -> None:
        """`unit` is not decoded now.

        Args:
            idr: it is an IDR picture; nothing before it is needed from here on.
        """
        if idr:
            self.clear()
        if self.lost:
            return
        self._units.append(unit)
        self._bytes += len(unit.data)
        if len(self._units) > MOST_UNITS or self._bytes > MOST_BYTES:
            self.clear()
            self.lost = True

    def take(self, up_to: AccessUnit | None = None) -> list[AccessUnit]:
        """What is to be decoded now, and is not kept any longer.

        Args:
            up_to: the last one of them; if it is not there, nothing is. None takes all.
        """
        if up_to is not None and not any(unit is up_to for unit in self._units):
            return []
        units: list[AccessUnit] = []
        while self._units:
            unit = self._units.popleft()
            self._bytes -= len(unit.data)
            units.append(unit)
            if unit is up_to:
                break
        return units

    def clear(self) -> None:
        """Nothing of what came so far will be needed."""
        self._units.clear()
        self._bytes = 0
        self.lost = False
