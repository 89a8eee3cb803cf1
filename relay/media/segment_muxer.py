"""Access units to trickle segments: when one ends, and the bytes of the next.

No clock on the wall takes part: a segment is as long as its media.
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream, MediaKind
from relay.media.muxer import CLOCK_LEAD_S, TsMuxer

MIN_UNITS = 8
"""A step backward in time begins a segment only after this many units of the one before, so that
timestamps in disorder can't cut a segment at every picture."""
_MAX_AUDIO_STEP = CLOCK_RATE


@dataclass(slots=True)
class SegmentChunk:
    """The bytes of one access unit, and where they go."""

    data: bytes
    starts_segment: bool
    """They begin a new segment, with PAT and PMT in front; the one before is complete."""
    pts: int
    arrived_at: float
    kind: MediaKind


class SegmentClock:
    """Decides, by media time alone, at which unit a segment ends.

    A segment ends at the unit nearest to its nominal length, at the first one after a step
    forward longer than that, and at a step backward.
    """

    def __init__(self, segment_seconds: float) -> None:
        self._target = segment_seconds * CLOCK_RATE
        self._elapsed = 0
        self._units = 0
        self._last: int | None = None

    def due(self, time: int) -> bool:
        """Whether a segment should begin with the unit at `time` (ticks)."""
        if self._last is None:
            return True
        step = time - self._last
        if step < 0:
            return self._units >= MIN_UNITS
        return self._elapsed + step + step / 2 >= self._target

    def advance(self, time: int, *, starts_segment: bool) -> None:
        """The unit at `time` goes out now, as the first of a segment or not."""
        if starts_segment or self._last is None:
            self._elapsed = self._units = 0
        else:
            self._elapsed += max(0, time - self._last)
        self._units += 1
        self._last = time


class SegmentMuxer:
    """Muxes access units into segments that begin with PAT, PMT and a keyframe.

    Units are muxed as they come: bring audio in time with video before (see
    `relay.media.interleaver`). Where video is announced but does not come, audio alone goes on in
    segments of twice the length, and the next keyframe begins a new one.

    Args:
        video, audio: the streams to announce from the start; one that comes unannounced is
            announced when it comes, which players that look at a stream's start only may miss.
        segment_seconds: nominal length.
        clock_lead_s: how far the clock reference runs behind what comes with it, that is, how
            far a stream may lie behind the other in the channel.
    """

    def __init__(
        self,
        video: ElementaryStream | None,
        audio: ElementaryStream | None = None,
        segment_seconds: float = 1.0,
        *,
        clock_lead_s: float = CLOCK_LEAD_S,
    ) -> None:
        self.segments = 0
        self.dropped_before_keyframe = 0
        """Video units that came before there was a keyframe to begin with."""
        self._muxer = TsMuxer(video, audio, clock_lead_s=clock_lead_s)
        self._target = segment_seconds * CLOCK_RATE
        self._clock = SegmentClock(segment_seconds)
        self._video_seen = False
        self._video_in_segment = False
        self._audio_alone = 0
        self._last_audio_pts: int | None = None
        self._ended = False

    @property
    def video_in_segment(self) -> bool:
        """Whether a picture may follow that is no keyframe."""
        return self._video_in_segment

    def needs_keyframe(self, time: int) -> bool:
        """Whether the video unit at `time` (dts in ticks) should be a keyframe to begin a
        segment with."""
        return not self._video_in_segment or self._clock.due(time)

    def end_segment(self) -> None:
        """The segment is over as it is: what comes next begins another."""
        self._ended = True
        self._video_in_segment = False

    def add(self, unit: AccessUnit, *, cut: bool = False) -> list[SegmentChunk]:
        """Mux one unit.

        Args:
            cut: begin a segment with it if it is a keyframe, however short the one before.

        Returns:
            Its bytes; nothing for video before the first keyframe.
        """
        if unit.stream.kind is MediaKind.VIDEO:
            return self._add_video(unit, cut)
        return self._add_audio(unit)

    def _add_video(self, unit: AccessUnit, cut: bool) -> list[SegmentChunk]:
        if not self._video_seen and not unit.keyframe:
            self.dropped_before_keyframe += 1
            return []
        starts = unit.keyframe and (cut or self.needs_keyframe(unit.dts))
        self._clock.advance(unit.dts, starts_segment=starts)
        self._video_seen = self._video_in_segment = True
        self._audio_alone = 0
        return [self._chunk(unit, starts)]

    def _add_audio(self, unit: AccessUnit) -> list[SegmentChunk]:
        if self._muxer.video is None:
            starts = self._ended or self._clock.due(unit.pts)
            self._clock.advance(unit.pts, starts_segment=starts)
            return [self._chunk(unit, starts)]
        if self._last_audio_pts is not None:
            step = unit.pts - self._last_audio_pts
            self._audio_alone += min(max(0, step), _MAX_AUDIO_STEP)
        self._last_audio_pts = unit.pts
        enough = self._audio_alone >= 2 * self._target
        starts = self.segments == 0 or self._ended or enough
        if starts:
            self._audio_alone = 0
            self._video_in_segment = False
        return [self._chunk(unit, starts)]

    def _chunk(self, unit: AccessUnit, starts: bool) -> SegmentChunk:
        tables = b""
        if starts:
            self.segments += 1
            self._ended = False
            self._muxer.adopt(unit.stream)
            tables = self._muxer.begin_segment()
        data = tables + self._muxer.mux(unit)
        return SegmentChunk(data, starts, unit.pts, unit.arrived_at, unit.stream.kind)
