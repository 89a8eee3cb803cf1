"""Which pictures of the server's go out as they came.

A copied picture refers to those before it, so it can follow only where the viewer has all of them:
upon a keyframe, or upon the picture that the server coded right before it. Wherever that chain
breaks (packets lost, a picture that is not shown, the fallback's pictures in between) the output
goes on encoded by the relay, beginning with an IDR picture and a segment of its own, and returns
to the server's pictures with the keyframe that the next segment begins with. None is left out for
it, and none is published that refers to what the viewer does not have.

Segments begin with keyframes, and the server makes one with its next frame when it is asked to
(PLI; RFC 4585, 6.3.1), so it is asked one picture before a segment is due.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from relay.copy_switch import CopySwitch, Obstacle
from relay.media.access_unit import AccessUnit

ASK_AGAIN_S = 0.5
"""A request, or the keyframe itself, may be lost."""
PATIENCE_S = 3.0
"""A server that makes no keyframe for so long, asked again and again, won't."""


class CopiedOutput:
    """Of one session. Belongs to the event loop.

    Args:
        in_segment: tells whether a picture may follow that is no keyframe.
        needs_keyframe: tells whether a segment should begin with the picture at a time (90 kHz).
        request_keyframe: asks the server for one.
        prevented: why nothing is ever copied; None if it can be.
    """

    def __init__(
        self,
        switch: CopySwitch,
        in_segment: Callable[[], bool],
        needs_keyframe: Callable[[int], bool],
        request_keyframe: Callable[[], None],
        *,
        prevented: Obstacle | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.switch = switch
        self._in_segment = in_segment
        self._needs_keyframe = needs_keyframe
        self._request_keyframe = request_keyframe
        self._prevented = prevented
        self._clock = clock
        self._last_number: int | None = None
        self._interrupted = False
        """Whether a picture went out since that did not come from the server."""
        self._last_pts: int | None = None
        self._asked_at = -math.inf
        self._unanswered_since: float | None = None
        if prevented is not None:
            switch.stop(prevented)

    def takes(self, unit: AccessUnit, *, shown: bool) -> bool:
        """Whether `unit` is passed on as it is; if not shown, whether it may stay undecoded.

        To be asked once for each, in the order in which the server coded them.
        """
        last, self._last_number = self._last_number, unit.number
        is_next = last is None or unit.number == last + 1
        follows = is_next and last is not None and not self._interrupted
        self._interrupted = False
        if unit.keyframe:
            self._asked_at, self._unanswered_since = -math.inf, None
        elif not is_next:
            # Copied or not: a decoder conceals what is missing, and shows what never was.
            self._ask()
        if not shown:
            if self.switch.copies:
                self.switch.stop(Obstacle.HIDDEN_PICTURES)
            return self.switch.wanted and self._prevented is None
        takes = self._can_follow(unit, follows=follows)
        if takes:
            self.switch.copy()
        return takes

    def interrupt(self) -> None:
        """A picture goes out that did not come from the server."""
        self._interrupted = True
        if self._prevented is None:
            self.switch.stop(Obstacle.FALLBACK)

    def undecodable(self) -> None:
        """The keyframe that `takes` took last is none."""
        self.switch.stop(Obstacle.UNDECODABLE)
        self._ask()

    def look_ahead(self, pts: int) -> None:
        """The picture at `pts` is out: ask for a keyframe if the next one should be one."""
        last, self._last_pts = self._last_pts, pts
        if self._prevented is not None or not self.switch.may_begin or last is None:
            return
        if not self._needs_keyframe(2 * pts - last):
            return
        self._ask()

    def _ask(self) -> None:
        now = self._clock()
        if self._unanswered_since is None:
            self._unanswered_since = now
        if now - self._asked_at >= ASK_AGAIN_S:
            self._asked_at = now
            self._request_keyframe()

    def _can_follow(self, unit: AccessUnit, *, follows: bool) -> bool:
        switch = self.switch
        if self._prevented is not None:
            return False
        if not switch.copies:
            return (
                switch.may_begin
                and unit.keyframe
                and not unit.damaged
                and self._needs_keyframe(unit.pts)
            )
        if not switch.wanted:
            switch.stop(Obstacle.STARTING)
        elif unit.damaged:
            switch.stop(Obstacle.LOSS)
        elif not unit.keyframe and not follows:
            switch.stop(Obstacle.MISSING_PICTURES)
        elif not unit.keyframe and not self._in_segment():
            switch.stop(Obstacle.SEGMENT_ENDED)
        elif self._waits_in_vain():
            switch.stop(Obstacle.NO_KEYFRAMES)
        return switch.copies

    def _waits_in_vain(self) -> bool:
        since = self._unanswered_since
        return since is not None and self._clock() - since > PATIENCE_S
