"""Which of the source's coded pictures are sent to ComfyStream as they are.

They are sent so as long as none is left out, since each refers to those before it. Where that is
not possible, because the server is slower than the source, or a keyframe is asked for that the
source does not have, the picture is decoded and encoded, as an IDR picture; and so are those that
follow, up to an IDR picture of the source's own. A relay that is late itself leaves those out: to
decode and encode takes four times what copying does, and would make it later still.
"""

from __future__ import annotations

from relay.copy_switch import CopySwitch, Obstacle
from relay.media.access_unit import CodedFrame, SourceFrame

MOST_BYTES = 120 * 1200
"""More than 128 RTP packets of 1200 bytes overflow the retransmission history, and the jitter
buffer, of older aiortc peers."""
LATE_RELAY_WAITS_S = 2.0
"""For the source's next keyframe, at the most: live sources have one every second or two, and no
picture may stand for long."""


class CopiedFrames:
    """Of one connection. Belongs to the event loop."""

    def __init__(self, switch: CopySwitch) -> None:
        self._switch = switch
        switch.begin_anew()
        self._last_number: int | None = None
        """Of the picture sent last, if it was sent as it was."""
        self._waits_since: float | None = None
        """For a keyframe, because the relay is late."""

    @property
    def copying(self) -> bool:
        """Whether the picture sent last was sent as it was."""
        return self._last_number is not None

    def leaves_out(
        self, frame: SourceFrame, now: float, *, keyframe_wanted: bool, relay_late: bool
    ) -> bool:
        """Whether `frame`, which would have to be decoded and encoded, is not sent at all.

        Args:
            keyframe_wanted: so copying can't go on with a picture that is none.
            relay_late: frames wait though the server would take them.
        """
        if not isinstance(frame, CodedFrame) or frame.unit.keyframe:
            self._waits_since = None
            return False
        if frame.unit.number - 1 == self._last_number and not keyframe_wanted:
            self._waits_since = None
            return False
        if self._waits_since is None and relay_late:
            self._waits_since = now
        if self._waits_since is None or now - self._waits_since > LATE_RELAY_WAITS_S:
            return False
        self.interrupt(Obstacle.RELAY_LATE)
        return True

    def takes(self, frame: SourceFrame, *, keyframe_wanted: bool, overloaded: bool) -> bool:
        """Whether `frame`, which goes out next, is sent as it is."""
        last, self._last_number = self._last_number, None
        if not isinstance(frame, CodedFrame):
            self._switch.stop()  # whoever decoded it has said why
            return False
        obstacle = self._obstacle(frame, last, keyframe_wanted, overloaded)
        if obstacle is not None:
            self._switch.stop(obstacle)
            return False
        if last is None and not (frame.unit.keyframe and self._switch.may_begin):
            return False  # for the reason that there was
        self._switch.copy()
        self._last_number = frame.unit.number
        return True

    def interrupt(self, obstacle: Obstacle) -> None:
        """Something goes out that is no picture of the source's."""
        self._last_number = None
        self._switch.stop(obstacle)

    def _obstacle(
        self, frame: CodedFrame, last: int | None, keyframe_wanted: bool, overloaded: bool
    ) -> Obstacle | None:
        unit = frame.unit
        if overloaded:
            return Obstacle.SERVER_SLOW
        if unit.damaged:
            return Obstacle.LOSS
        if len(unit.data) > MOST_BYTES:
            return Obstacle.LARGE_PICTURES
        if unit.keyframe or last is None:
            return None
        if unit.number != last + 1:
            return Obstacle.MISSING_PICTURES
        return Obstacle.KEYFRAME_REQUEST if keyframe_wanted else None
