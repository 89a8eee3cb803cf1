"""Whether one side of a session passes coded pictures on as they are, and if not, why not.

What can't be passed on is decoded and encoded, at once and without a gap, and copying begins again
with a keyframe. Asked for `copy` it does so with the first that will do. Asked for `auto` it rests
before, ever longer where copying did not last: each change costs a keyframe, a segment cut short
and a decoder that has to catch up, and a stream that is unfit for it would do that all the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from relay.session_config import Coding

FIRST_REST_S = 10.0
LONGEST_REST_S = 300.0
LASTED_S = 60.0
"""Copying that went on for so long was worth it: the next rest is a short one again."""


class Obstacle(StrEnum):
    """Why pictures are not copied. docs/api.md says what each means."""

    STARTING = "starting"
    NO_H264 = "no_h264"
    PROFILE = "profile"
    INTERLACED = "interlaced"
    B_FRAMES = "b_frames"
    SIZE = "size"
    COLOUR = "colour"
    NO_PARAMETER_SETS = "no_parameter_sets"
    LARGE_PICTURES = "large_pictures"
    FRAME_LIMIT = "frame_limit"
    ON_OVERLOAD = "on_overload"
    SERVER_SLOW = "server_slow"
    RELAY_LATE = "relay_late"
    KEYFRAME_REQUEST = "keyframe_request"
    INPUT_PAUSED = "input_paused"
    LOSS = "loss"
    MISSING_PICTURES = "missing_pictures"
    HIDDEN_PICTURES = "hidden_pictures"
    UNDECODABLE = "undecodable"
    NO_KEYFRAMES = "no_keyframes"
    SEGMENT_ENDED = "segment_ended"
    FALLBACK = "fallback"
    OUTPUT_FPS = "output_fps"
    NO_OUTPUT = "no_output"
    NO_INPUT = "no_input"


class CopySwitch:
    """Of one side of one session. Belongs to the event loop."""

    def __init__(
        self,
        mode: Coding,
        obstacle: Obstacle = Obstacle.STARTING,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = mode is not Coding.TRANSCODE
        """Whether pictures are copied where that is possible."""
        self.copies = False
        """Whether the last picture was passed on as it was."""
        self.copied = 0
        """Pictures passed on as they were."""
        self.stops = 0
        """How often copying ended."""
        self._mode = mode
        self._obstacle = obstacle
        self._clock = clock
        self._began_at = -math.inf
        self._rest_s = 0.0
        self._rests_until = -math.inf

    @property
    def mode(self) -> Coding:
        """What is asked for; may be changed at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: Coding) -> None:
        if mode is not self._mode:
            self._mode = mode
            self.wanted = mode is not Coding.TRANSCODE
            self._rest_s, self._rests_until = 0.0, -math.inf

    @property
    def may_begin(self) -> bool:
        """Whether the next keyframe that will do is to be copied."""
        return self.wanted and (self.copies or self._clock() >= self._rests_until)

    @property
    def reason(self) -> str | None:
        """Why nothing is copied; None while it is, and where it was not asked for."""
        return None if self.copies or not self.wanted else self._obstacle.value

    def begin_anew(self) -> None:
        """Whatever took the pictures is another one from now on, which is nobody's fault."""
        if self.copies:
            self.copies = False
            self._obstacle = Obstacle.STARTING

    def copy(self) -> None:
        """A picture is passed on as it is."""
        if not self.copies:
            self.copies = True
            self._began_at = self._clock()
        self.copied += 1

    def stop(self, obstacle: Obstacle | None = None) -> None:
        """The next picture can't be. Said again it may give another reason; None has none of its
        own."""
        self._obstacle = obstacle or self._obstacle
        if not self.copies:
            return
        self.copies = False
        self.stops += 1
        if self._mode is Coding.AUTO:
            now = self._clock()
            lasted = now - self._began_at >= LASTED_S
            again = bool(self._rest_s) and not lasted
            self._rest_s = min(LONGEST_REST_S, 2 * self._rest_s) if again else FIRST_REST_S
            self._rests_until = now + self._rest_s

    def status(self) -> dict[str, Any]:
        """One side of the `copying` object of the session status."""
        return {
            "mode": self._mode.value,
            "copies": self.copies,
            "reason": self.reason,
            "frames": self.copied,
        }
