"""Access units to MPEG-TS, a few microseconds each, complete at once.

libav's muxer holds every unit back until it has seen one of each stream; this one writes what it
is given. Sections cited are of ISO/IEC 13818-1.
"""

from __future__ import annotations

import struct
from typing import Final

from relay.media import h264, hevc
from relay.media.access_unit import CLOCK_RATE, PTS_MODULUS, AccessUnit, ElementaryStream, MediaKind
from relay.media.packetizer import MOST_COUNTED_BYTES, Packetizer
from relay.media.pes import PACKET_BYTES
from relay.media.psi import NULL_PID, PAT_PID, build_pat, build_pmt

PMT_PID: Final = 0x1000
VIDEO_PID: Final = 0x100
AUDIO_PID: Final = 0x101
"""FFmpeg's choices."""
PROGRAM_NUMBER: Final = 1

CLOCK_LEAD_S: Final = 0.3
"""How far the clock reference runs behind the dts of the unit it comes with, by default.

A player that follows the clock (set-top boxes, VLC) shows a picture that much after its bytes; one
that follows arrival (libav) doesn't look. All of a unit must be there before its dts (2.4.2.6),
and by these clock references its bytes take one frame interval, or 250 ms for a keyframe as large
as the encoder's buffer; audio that was held for its picture needs its margin, too.
"""
_DISCONTINUITY = 10 * CLOCK_RATE
"""A step of the dts forward that is taken for a new time line, as any step backward is."""

_PES_HEADER_STREAM_TYPES = frozenset({0x03, 0x04, 0x0F, 0x11, 0x1C, 0x2D, 0x2E})
"""Audio that has a stream_id of its own (table 2-22); all other audio is private_stream_1."""
_VIDEO_STREAM_ID, _AUDIO_STREAM_ID, _PRIVATE_STREAM_1 = 0xE0, 0xC0, 0xBD

_RANDOM_ACCESS, _NEW_TIME_LINE, _HAS_CLOCK = 0x40, 0x80, 0x10
"""Flags of an adaptation field (2.4.3.4)."""
_CLOCK_FIELD = struct.Struct(">BBIH")
"""An adaptation field's length and flags, and its PCR (2.4.3.5)."""
_PTS_HEADER, _PTS_DTS_HEADER = struct.Struct(">IHHBBHH"), struct.Struct(">IHHBBHHBHH")
"""Of a PES packet (2.4.3.6): start code and stream_id, length, flags, timestamps' bytes, those."""

_NULL_HEADER = bytes((0x47, NULL_PID >> 8, NULL_PID & 0xFF, 0x10))
NULL_PACKET: Final = _NULL_HEADER.ljust(PACKET_BYTES, b"\xff")
"""Says nothing, to everybody (2.4.1)."""


class TsMuxer:
    """Writes one programme with at most one video and one audio stream.

    Continuity counters run on from segment to segment: joined, the segments are one clean stream,
    and alone, each begins with its tables, where any counter value will do.

    Every PES packet carries its length as long as 16 bits hold it, so that a reader releases it
    with its last byte; a longer one ends in stuffing, which says the same to who looks (the
    demuxer next door does). The clock reference goes with every video unit, or every audio unit
    if there is no video; below ten units a second that is less often than 2.7.2 wants.
    """

    def __init__(
        self,
        video: ElementaryStream | None,
        audio: ElementaryStream | None = None,
        *,
        clock_lead_s: float = CLOCK_LEAD_S,
    ) -> None:
        self._clock_lead = round(clock_lead_s * CLOCK_RATE)
        self._video = video
        self._audio = audio
        self._version = 0
        self._pat, self._pmt = Packetizer(PAT_PID), Packetizer(PMT_PID)
        self._video_packets, self._audio_packets = Packetizer(VIDEO_PID), Packetizer(AUDIO_PID)
        self._last_clock_dts: int | None = None

    @property
    def video(self) -> ElementaryStream | None:
        return self._video

    @property
    def audio(self) -> ElementaryStream | None:
        return self._audio

    def begin_segment(self) -> bytes:
        """PAT and PMT: what a segment starts with."""
        pcr_pid = VIDEO_PID if self._video is not None else AUDIO_PID
        streams = []
        if self._video is not None:
            streams.append((VIDEO_PID, self._video))
        if self._audio is not None:
            streams.append((AUDIO_PID, self._audio))
        pmt = build_pmt(PROGRAM_NUMBER, pcr_pid, streams, self._version)
        pat = build_pat(1, {PROGRAM_NUMBER: PMT_PID})
        return self._pat.section(pat) + self._pmt.section(pmt)

    def set_streams(self, video: ElementaryStream | None, audio: ElementaryStream | None) -> bytes:
        """Announce other streams from here on.

        Returns:
            The tables under a new version, to be written before the next unit; nothing if nothing
            changed.
        """
        return self.begin_segment() if self._change_streams(video, audio) else b""

    def adopt(self, stream: ElementaryStream) -> None:
        """Let the tables that `begin_segment` writes next announce this stream of its kind."""
        if stream.kind is MediaKind.VIDEO:
            self._change_streams(stream, self._audio)
        else:
            self._change_streams(self._video, stream)

    def mux(self, unit: AccessUnit) -> bytes:
        """The transport packets of one access unit, tables in front if its stream is a new one."""
        tables = b""
        stream, data = unit.stream, unit.data
        if stream.kind is MediaKind.VIDEO:
            if stream is not self._video:
                tables = self.set_streams(stream, self._audio)
            if stream.codec == "h264":
                data = h264.with_delimiter(data)
            elif stream.codec == "hevc":
                data = hevc.with_delimiter(data)
            stream_id = _VIDEO_STREAM_ID
            packets, carries_clock = self._video_packets, True
        else:
            if stream is not self._audio:
                tables = self.set_streams(self._video, stream)
            own_id = stream.stream_type in _PES_HEADER_STREAM_TYPES
            stream_id = _AUDIO_STREAM_ID if own_id else _PRIVATE_STREAM_1
            packets, carries_clock = self._audio_packets, self._video is None
        flags = _RANDOM_ACCESS if unit.keyframe else 0
        field = b""
        if carries_clock:
            if self._is_new_time_line(unit.dts):
                flags |= _NEW_TIME_LINE
            field = _clock_field(flags, unit.dts - self._clock_lead)
        elif flags:
            field = bytes((1, flags))
        header = _pes_header(stream_id, unit.pts, unit.dts, len(data))
        return tables + packets.pes(header + data, field)

    def _change_streams(
        self, video: ElementaryStream | None, audio: ElementaryStream | None
    ) -> bool:
        before, (self._video, self._audio) = (self._video, self._audio), (video, audio)
        if (video, audio) == before:
            return False
        self._version = (self._version + 1) & 0x1F
        return True

    def _is_new_time_line(self, dts: int) -> bool:
        before, self._last_clock_dts = self._last_clock_dts, dts
        return before is not None and not 0 <= dts - before < _DISCONTINUITY


def _pes_header(stream_id: int, pts: int, dts: int, size: int) -> bytes:
    """A PES header for `size` bytes of payload (2.4.3.6), which for video begin with an access
    unit; copied audio may begin anywhere."""
    start = 0x100 | stream_id
    timestamps = 5 if pts == dts else 10
    length = 3 + timestamps + size
    if length > MOST_COUNTED_BYTES:
        length = 0  # 2.4.3.7: unbounded
    flags = 0x8400 if stream_id == _VIDEO_STREAM_ID else 0x8000
    if pts == dts:
        return _PTS_HEADER.pack(start, length, flags | 0x80, timestamps, *_timestamp(0x20, pts))
    both = *_timestamp(0x30, pts), *_timestamp(0x10, dts)
    return _PTS_DTS_HEADER.pack(start, length, flags | 0xC0, timestamps, *both)


def _timestamp(prefix: int, ticks: int) -> tuple[int, int, int]:
    """A PTS or DTS as a byte and two 16 bit words, with their marker bits."""
    ticks %= PTS_MODULUS
    return prefix | ticks >> 29 & 0x0E | 1, ticks >> 14 & 0xFFFE | 1, ticks << 1 & 0xFFFE | 1


def _clock_field(flags: int, ticks: int) -> bytes:
    """An adaptation field with a PCR, whose 27 MHz extension is 0."""
    ticks %= PTS_MODULUS
    return _CLOCK_FIELD.pack(7, flags | _HAS_CLOCK, ticks >> 1, (ticks & 1) << 15 | 0x7E00)
