"""Which pictures of the source may go to ComfyStream as they came.

Said with each IDR picture, of all up to the next: they are H.264 of a kind that every WebRTC peer
decodes, in decoding order as in display order, and of the size, shape and colour that the session's
pictures have, so that nothing would be done to them. Whether they are sent so, or decoded after
all, is for those to say who send them (`webrtc.copied_frames`).
"""

from __future__ import annotations

from relay.copy_switch import CopySwitch, Obstacle
from relay.errors import MediaError
from relay.media import h264
from relay.media.access_unit import AccessUnit
from relay.media.fitter import UNCONVERTED_MATRICES
from relay.media.frame_limit import FrameLimit
from relay.media.h264_sps import SequenceParameters, parse_sps
from relay.media.h264_stream import ParameterSets
from relay.session_config import Fit

MOST_UNITS = 300
MOST_BYTES = 8 << 20
"""Of a group of pictures, which is kept so that it can be decoded from the middle on: 10 s at
30 fps, decoded in about a tenth of a second (0.4 ms each at 512x512, measured)."""
PROFILES = frozenset({66, 77, 100})
"""Baseline, Main and High, constrained or not: 8 bits, 4:2:0."""


class CopiedInput:
    """Of one session. Belongs to the event loop.

    Args:
        width, height: of the session's pictures.
        limit: what it leaves out the others refer to.
        prevented: why nothing is ever copied; None if it can be.
    """

    def __init__(
        self,
        switch: CopySwitch,
        width: int,
        height: int,
        fit: Fit,
        limit: FrameLimit,
        *,
        prevented: Obstacle | None = None,
    ) -> None:
        self.switch = switch
        self._size = width, height
        self._fit = fit
        self._limit = limit
        self._prevented = prevented
        self._parameter_sets = ParameterSets()
        self._sps_bytes = b""
        self._sps: SequenceParameters | None = None
        """What they say; None if that can't be told."""
        self._fits = False
        self._number = 0
        self._group_units = self._group_bytes = 0
        if prevented is not None:
            switch.stop(prevented)

    def resize(self, width: int, height: int) -> None:
        """The session's pictures have another size from now on."""
        self._size = width, height
        self._fits = False

    def takes(self, unit: AccessUnit) -> bool:
        """Whether the video unit may stay undecoded; it is given its number, and if so, parameter
        sets. To be asked once for each, in order."""
        self._number += 1
        unit.number = self._number
        if not self.switch.wanted or self._prevented is not None:
            self._fits = False
            return False
        obstacle = self._obstacle(unit)
        if obstacle is not None:
            self._fits = False
            self.switch.stop(obstacle)
        return self._fits

    def _obstacle(self, unit: AccessUnit) -> Obstacle | None:
        if unit.stream.codec != "h264":
            return Obstacle.NO_H264
        if self._limit.fps:
            return Obstacle.FRAME_LIMIT
        if unit.pts != unit.dts:
            return Obstacle.B_FRAMES
        if unit.keyframe and h264.is_idr(unit.data):
            if not self._parameter_sets.complete(unit):
                return Obstacle.NO_PARAMETER_SETS
            self._fits = self.switch.may_begin
            self._group_units, self._group_bytes = 1, len(unit.data)
            return self._obstacle_of(self._parameter_sets.sps)
        if self._fits:
            unit.keyframe = False
            self._group_units += 1
            self._group_bytes += len(unit.data)
            if self._group_units > MOST_UNITS or self._group_bytes > MOST_BYTES:
                return Obstacle.NO_KEYFRAMES
        return None

    def _obstacle_of(self, sps_bytes: bytes) -> Obstacle | None:
        if sps_bytes != self._sps_bytes:
            self._sps_bytes = sps_bytes
            try:
                self._sps = parse_sps(sps_bytes)
            except MediaError:
                self._sps = None
        sps = self._sps
        if sps is None or sps.profile_idc not in PROFILES:
            return Obstacle.PROFILE
        if not sps.frame_mbs_only:
            return Obstacle.INTERLACED
        if sps.may_reorder:
            return Obstacle.B_FRAMES
        if (sps.width, sps.height) != self._size or not self._has_shape(sps):
            return Obstacle.SIZE
        if sps.full_range or sps.matrix_coefficients not in UNCONVERTED_MATRICES:
            return Obstacle.COLOUR
        return None

    def _has_shape(self, sps: SequenceParameters) -> bool:
        return sps.sample_aspect_ratio == 1 or self._fit is Fit.STRETCH
