"""What the viewer sees while nothing comes back from ComfyStream.

Every frame of the input is looked at here when it comes, and every processed picture on its way
out. While the server is away, loads, or stands still for longer than usual, the source's own
frames (or the last processed picture again) take the place of what is missing, at once and with
their own time; the first picture that comes back ends that. Shown frames only go forward: a
processed picture of a frame that was passed by meanwhile is decoded, because later ones refer to
it, and not shown.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace

from relay.media.access_unit import (
    AccessUnit,
    CodedFrame,
    DecodedFrame,
    RepeatPicture,
    SourceFrame,
)
from relay.media.picture import copy_of
from relay.processor import ProcessedUnit
from relay.session_config import FallbackMode

GRACE_S = 1.0
"""How long the viewer's picture may stand before the fallback begins: long enough for a warm
server to connect (0.1 s, measured) and for a lost packet to be mended (0.5 s)."""
USUAL_RESPONSES = 8
PATIENCE = 3.0
"""Of the slowest of the last responses. A workflow of a second a frame is slow, not gone."""
PAUSE_S = 5.0
"""After an input that paused for so long, waiting for the server begins anew."""
FLOWING_S = 1.0
REMEMBERED_FRAMES = 4096
"""Two minutes at 30 fps: what returns later was given up long ago."""


class Fallback:
    """Chooses, frame by frame, what goes on to the encoder.

    Args:
        show: takes what goes on, in order; on the event loop.
        grace_s: see `GRACE_S`.
    """

    def __init__(
        self,
        mode: FallbackMode,
        show: Callable[[ProcessedUnit], None],
        *,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = mode
        self.active = False
        """Whether the viewer sees the fallback now."""
        self.frames_processed = 0
        """Processed pictures shown."""
        self.first_processed_at: float | None = None
        self.frames_fallback = 0
        """Frames that the fallback stood in for."""
        self.frames_late = 0
        """Processed pictures of frames that were passed by meanwhile."""
        self.paused = False
        """Whether nothing is to be processed: the fallback begins at once."""
        self.unanswered_since: float | None = None
        """When the first of the frames came since which nothing has come back."""
        self._show = show
        self._grace_s = grace_s
        self._clock = clock
        self._numbers: OrderedDict[tuple[int, float], int] = OrderedDict()
        self._inputs = 0
        self._passed_by = 0
        self._undecodable_since: float | None = None
        self._last_input_at = -math.inf
        self._responses: deque[float] = deque(maxlen=USUAL_RESPONSES)

    def see_input(self, frame: SourceFrame) -> None:
        """A frame came from the input. It stays the caller's."""
        now = self._clock()
        self._inputs += 1
        self._numbers[(frame.pts, frame.arrived_at)] = self._inputs
        if len(self._numbers) > REMEMBERED_FRAMES:
            self._numbers.popitem(last=False)
        paused = now - self._last_input_at > PAUSE_S
        self._last_input_at = now
        if self.unanswered_since is None or paused:
            self.unanswered_since = now
        waiting_since = self._undecodable_since or self.unanswered_since
        if self.mode is FallbackMode.NONE or now - waiting_since <= self._limit_s():
            return
        unit = self._stand_in(frame)
        if unit is not None:
            self.active = True
            self.frames_fallback += 1
            self._passed_by = self._inputs
            self._show(unit)

    def resume(self) -> None:
        """Processing goes on: what comes from now on is waited for."""
        self.paused = False
        self.unanswered_since = None

    def take_processed(self, unit: ProcessedUnit) -> None:
        """A processed picture came back."""
        if self._undecodable_since is None:
            self._note_answer()
        if self._passed_by and self._is_late(unit):
            self.frames_late += 1
            if isinstance(unit, AccessUnit):
                unit.hidden = True
                self._show(unit)
            return
        self.frames_processed += 1
        if self.first_processed_at is None:
            self.first_processed_at = self._clock()
        self._show(unit)

    def take_hidden(self, unit: AccessUnit) -> None:
        """A picture came back that answers no frame: it is decoded, and nothing else."""
        self._show(unit)

    def unanswered_s(self) -> float:
        """For how long frames have come now and nothing has come back; 0.0 while none come."""
        now = self._clock()
        if self.unanswered_since is None or now - self._last_input_at > FLOWING_S:
            return 0.0
        return now - self.unanswered_since

    def see_decoded(self, decodable: bool) -> None:
        """Whether the processed picture shown last, hidden or not, could be decoded: an answer
        that can't is none."""
        if decodable:
            self._undecodable_since = None
        elif self._undecodable_since is None:
            self._undecodable_since = self._clock()

    def _note_answer(self) -> None:
        self.active = False
        if self.unanswered_since is not None:
            self._responses.append(self._clock() - self.unanswered_since)
            self.unanswered_since = None

    def _stand_in(self, frame: SourceFrame) -> ProcessedUnit | None:
        if self.mode is FallbackMode.PASSTHROUGH:
            if isinstance(frame, CodedFrame):
                return replace(frame)
            return DecodedFrame(copy_of(frame.frame), frame.pts, frame.arrived_at)
        if self.frames_processed:
            return RepeatPicture(frame.pts, frame.arrived_at)
        return None

    def _is_late(self, unit: ProcessedUnit) -> bool:
        return self._numbers.get((unit.pts, unit.arrived_at), 0) <= self._passed_by

    def _limit_s(self) -> float:
        if self.paused:
            return -1.0
        return max(self._grace_s, PATIENCE * max(self._responses, default=0.0))
