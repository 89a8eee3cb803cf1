"""PES payloads made into access units: one coded picture, or one packet of audio, each with times.

Mostly a PES packet is one picture. Where it is not: several pictures in one are cut apart,
pictures spread over several are put together, parameter sets on their own wait for the picture
they belong to. What comes after a loss is marked until the next keyframe.

How times are filled in: a picture after the first of its PES packet, or one whose PES packet has
no timestamp, is one frame interval later than the one before; the interval is what the SPS says
if that is believable, else the last distance between timestamps. With B-frames such a pts is in
decoding order, the best that can be said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from relay.errors import MediaError
from relay.media import h264, hevc
from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream, MediaKind
from relay.media.annexb import SHORT_START_CODE, UnitScan, split_at
from relay.media.h264_sps import SequenceParameters, parse_sps
from relay.media.pes import MAX_PES_BYTES, DemuxerStats, Pes
from relay.media.stream_types import mpeg_audio_codec
from relay.media.timestamps import TimestampUnwrapper, nearest

DEFAULT_INTERVAL = CLOCK_RATE // 30
MAX_PREFIX_BYTES = 1 << 16
"""Parameter sets and messages that wait for their picture; more of them is not video."""
MAX_PICTURES_PER_PES = 128
"""More in one PES packet is not video either."""


class Framing(Protocol):
    """PES packets of one stream in, its access units out."""

    stream: ElementaryStream

    def add(self, pes: Pes, arrived_at: float) -> list[AccessUnit]:
        """The access units that `pes`, whose last byte came at `arrived_at`, completes."""
        ...

    def boundary(self) -> list[AccessUnit]:
        """End of a segment: what was held back."""
        ...


def framing_for(
    stream: ElementaryStream, clock: TimestampUnwrapper, stats: DemuxerStats
) -> Framing:
    """The framing that fits the stream's kind."""
    if stream.kind is MediaKind.VIDEO:
        return VideoFraming(stream, clock, stats)
    return AudioFraming(stream, clock, stats)


class AudioFraming:
    """One access unit per PES packet, its payload untouched."""

    def __init__(
        self, stream: ElementaryStream, clock: TimestampUnwrapper, stats: DemuxerStats
    ) -> None:
        self.stream = stream
        self._clock = clock
        self._stats = stats
        self._last_pts: int | None = None
        self._duration = 0
        self._layer_unknown = stream.stream_type in (0x03, 0x04)

    def add(self, pes: Pes, arrived_at: float) -> list[AccessUnit]:
        if not pes.payload:
            self._stats.drop("empty")
            return []
        if pes.pts is not None:
            pts = self._clock.unwrap(pes.pts)
            if self._last_pts is not None and 0 < pts - self._last_pts <= CLOCK_RATE:
                self._duration = pts - self._last_pts
        elif self._last_pts is not None:
            pts = self._last_pts + self._duration
        else:
            self._stats.drop("no_timestamp")
            return []
        self._last_pts = pts
        if self._layer_unknown and (codec := mpeg_audio_codec(pes.payload)):
            self.stream = replace(self.stream, codec=codec)
            self._layer_unknown = False
        return [
            AccessUnit(
                self.stream,
                pes.payload,
                pts,
                pts,
                keyframe=True,
                damaged=pes.damaged,
                arrived_at=arrived_at,
            )
        ]

    def boundary(self) -> list[AccessUnit]:
        return []


class VideoFraming:
    """Coded pictures, one by one.

    Units leave with their PES packet. Two kinds of stream need a wait, and get it once they have
    shown themselves: slices in PES packets of their own (held until the next picture begins) and
    the fields of a frame in two PES packets (held until the second one). The picture that shows it
    was already handed out short, so what follows counts as damaged up to the next keyframe.
    """

    def __init__(
        self, stream: ElementaryStream, clock: TimestampUnwrapper, stats: DemuxerStats
    ) -> None:
        self.stream = stream
        self._scan = _SCANNERS.get(stream.codec, _scan_opaque)
        self._without_delimiter = _WITHOUT_DELIMITER.get(stream.codec, _as_it_is)
        self._clock = clock
        self._stats = stats
        self._broken = False
        self._prefix = b""
        self._held: AccessUnit | None = None
        self._held_rest: list[bytes] = []
        self._held_size = 0
        self._held_field: h264.Field | None = None
        self._last: AccessUnit | None = None
        self._last_field: h264.Field | None = None
        self._joins_slices = False
        self._joins_fields = False
        self._sps_bytes: bytes | None = None
        self._sps: SequenceParameters | None = None
        self._interlaced = False
        self._measured_interval = DEFAULT_INTERVAL
        self._timed_dts: int | None = None
        self._units_since_timed = 0

    @property
    def frame_interval(self) -> int:
        """Ticks between frames, as far as known."""
        if self._sps is not None and (interval := self._sps.frame_interval) is not None:
            return round(interval * CLOCK_RATE)
        return self._measured_interval

    def add(self, pes: Pes, arrived_at: float) -> list[AccessUnit]:
        if pes.after_loss:
            self._broken = True
        data = pes.payload
        if not data:
            self._stats.drop("empty")
            return self._release_held()
        scan = self._scan(data)
        if scan.continues:
            return self._continue_picture(pes, arrived_at)
        if len(scan.cuts) >= MAX_PICTURES_PER_PES:
            self._stats.drop("too_many_pictures")
            self._broken = True
            return self._release_held()
        if not scan.has_slice:
            self._keep_prefix(data, scan)
            return self._release_held()
        if self._prefix:
            # Behind the delimiter that the access unit may begin with.
            rest = self._without_delimiter(data)
            data = data[: len(data) - len(rest)] + self._prefix + rest
            self._prefix = b""
            scan = self._scan(data)
        times = self._times(pes)
        if times is None:
            self._stats.drop("no_timestamp")
            return self._release_held()
        if pes.damaged:
            self._broken = True
        elif scan.keyframe:
            self._broken = False
        if scan.keyframe and self.stream.codec == "h264":
            self._read_sps(data)
        if not (scan.cuts or self._interlaced or self._joins_slices) and self._held is None:
            self._units_since_timed += 1
            unit = AccessUnit(self.stream, data, *times, scan.keyframe, self._broken, arrived_at)
            return self._hand_out(unit, None)
        units: list[AccessUnit] = []
        for unit, field in self._pictures(data, scan, times, arrived_at):
            units += self._release(unit, field)
        return units

    def boundary(self) -> list[AccessUnit]:
        units = self._release_held()
        self._prefix = b""
        self._last = None
        self._last_field = None
        return units

    def _times(self, pes: Pes) -> tuple[int, int] | None:
        """pts and dts of the PES packet's first picture."""
        if pes.pts is None:
            if self._timed_dts is None:
                return None
            before = self._held or self._last
            dts = self._timed_dts + self._units_since_timed * self.frame_interval
            return (dts if before is None else before.pts + self.frame_interval), dts
        pts = self._clock.unwrap(pes.pts)
        dts = pts if pes.dts is None else min(pts, nearest(pes.dts, pts))
        if self._timed_dts is not None and self._units_since_timed:
            interval = (dts - self._timed_dts) // self._units_since_timed
            if 0 < interval <= CLOCK_RATE:
                self._measured_interval = interval
        self._timed_dts = dts
        self._units_since_timed = 0
        return pts, dts

    def _pictures(
        self, data: bytes, scan: UnitScan, times: tuple[int, int], arrived_at: float
    ) -> list[tuple[AccessUnit, h264.Field | None]]:
        """The pictures in `data`, two fields of one frame as one, with what field each is."""
        pts, dts = times
        pictures: list[tuple[AccessUnit, h264.Field | None]] = []
        for piece in split_at(data, scan.cuts):
            field = h264.field_of(piece, self._sps) if self._interlaced and self._sps else None
            if pictures and field is not None:
                first, first_field = pictures[-1]
                if first_field is not None and field.completes(first_field):
                    first.data += piece
                    pictures[-1] = (first, None)
                    continue
            if pictures:
                pts, dts = pts + self.frame_interval, dts + self.frame_interval
                keyframe = self._scan(piece).keyframe
            else:
                keyframe = scan.keyframe
            unit = AccessUnit(self.stream, piece, pts, dts, keyframe, self._broken, arrived_at)
            pictures.append((unit, field))
        self._units_since_timed += len(pictures)
        return pictures

    def _continue_picture(self, pes: Pes, arrived_at: float) -> list[AccessUnit]:
        """A PES packet that holds only the rest of a picture."""
        held = self._held
        if held is not None and not pes.after_loss:
            self._held_size += len(pes.payload)
            if self._held_size > MAX_PES_BYTES:
                self._stats.drop("too_large")
                self._broken = held.damaged = True
                return []
            self._held_rest.append(pes.payload)
            held.arrived_at = arrived_at
            if pes.damaged:
                self._broken = held.damaged = True
            return []
        if self._last is not None and not pes.after_loss and not pes.damaged:
            self._joins_slices = True
        self._broken = True
        self._stats.drop("picture_without_start")
        return self._release_held()

    def _release(self, unit: AccessUnit, field: h264.Field | None) -> list[AccessUnit]:
        """Hand out a complete picture, or hold it if the stream is known to go on with it."""
        if self._held is not None:
            held, held_field = self._take_held(), self._held_field
            if field is not None and held_field is not None and field.completes(held_field):
                held.data += unit.data
                held.arrived_at = unit.arrived_at
                held.damaged = held.damaged or unit.damaged
                self._units_since_timed -= 1
                return self._hand_out(held, None)
            return self._hand_out(held, held_field) + self._release(unit, field)
        if field and self._last_field and field.completes(self._last_field):
            self._joins_fields = True
            return self._hand_out(unit, None)
        if self._joins_slices or (self._joins_fields and field is not None):
            self._held, self._held_field = unit, field
            self._held_size = len(unit.data)
            return []
        return self._hand_out(unit, field)

    def _hand_out(self, unit: AccessUnit, field: h264.Field | None) -> list[AccessUnit]:
        self._last, self._last_field = unit, field
        return [unit]

    def _release_held(self) -> list[AccessUnit]:
        if self._held is None:
            return []
        return self._hand_out(self._take_held(), self._held_field)

    def _take_held(self) -> AccessUnit:
        """The picture held back, with all of it that came since."""
        held, self._held = self._held, None
        assert held is not None
        if self._held_rest:
            held.data += b"".join(self._held_rest)
            self._held_rest = []
        return held

    def _keep_prefix(self, data: bytes, scan: UnitScan) -> None:
        if scan.parameters and len(self._prefix) + len(data) <= MAX_PREFIX_BYTES:
            self._prefix += self._without_delimiter(data)
        else:
            self._stats.drop("no_picture")

    def _read_sps(self, data: bytes) -> None:
        sps = h264.find_sps(data)
        if sps is None or sps == self._sps_bytes:
            return
        self._sps_bytes = sps
        try:
            self._sps = parse_sps(sps)
        except MediaError:
            self._sps = None
        self._interlaced = self._sps is not None and not self._sps.frame_mbs_only


def _scan_mpeg2(data: bytes) -> UnitScan:
    """A picture header (ISO/IEC 13818-2, 6.2.3) with picture_coding_type I is a keyframe."""
    position = data.find(b"\x00\x00\x01\x00")
    found = 0 <= position < len(data) - 5
    keyframe = found and (data[position + 5] >> 3) & 7 == 1
    return UnitScan(has_slice=True, keyframe=keyframe)


def _scan_mpeg4(data: bytes) -> UnitScan:
    """A VOP (ISO/IEC 14496-2, 6.2.5) with vop_coding_type I is a keyframe."""
    position = data.find(SHORT_START_CODE + b"\xb6")
    keyframe = 0 <= position < len(data) - 4 and data[position + 4] >> 6 == 0
    return UnitScan(has_slice=True, keyframe=keyframe)


def _scan_opaque(data: bytes) -> UnitScan:
    """Nothing is known of the codec here: its decoder will say what it can't start with."""
    return UnitScan(has_slice=bool(data), keyframe=True)


def _as_it_is(data: bytes) -> bytes:
    return data


_SCANNERS: dict[str, Callable[[bytes], UnitScan]] = {
    "h264": h264.scan,
    "hevc": hevc.scan,
    "mpeg1video": _scan_mpeg2,
    "mpeg2video": _scan_mpeg2,
    "mpeg4": _scan_mpeg4,
}

_WITHOUT_DELIMITER: dict[str, Callable[[bytes], bytes]] = {
    "h264": h264.without_delimiter,
    "hevc": hevc.without_delimiter,
}
