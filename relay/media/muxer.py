"""Access units to MPEG-TS, a few microseconds each, complete at once.

libav's muxer holds every unit back until it has seen one of each stream; this one writes what it
is given. Sections cited are of ISO/IEC 13818-1.
"""

from __future__ import annotations

import struct
from typing import Final

from relay.media import h264, hevc
from relay.media.access_unit import CLOCK_RATE, PTS_MODULUS, AccessUnit, ElementaryStream, MediaKind
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

_PAYLOAD = PACKET_BYTES - 4
_STUFFING = b"\xff" * PACKET_BYTES
NULL_PACKET: Final = bytes((0x47, NULL_PID >> 8, NULL_PID & 0xFF, 0x10)) + _STUFFING[:_PAYLOAD]
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
        self._tables = b""
        self._continuity = {PAT_PID: 0, PMT_PID: 0, VIDEO_PID: 0, AUDIO_PID: 0}
        self._packet_headers = {
            pid: tuple(bytes((0x47, pid >> 8, pid & 0xFF, 0x10 | n)) for n in range(16))
            for pid in (VIDEO_PID, AUDIO_PID)
        }
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
        return self._section_packets(PAT_PID, pat) + self._section_packets(PMT_PID, pmt)

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
        data = unit.data
        if unit.stream.kind is MediaKind.VIDEO:
            if unit.stream != self._video:
                tables = self.set_streams(unit.stream, self._audio)
            if unit.stream.codec == "h264":
                data = h264.with_delimiter(data)
            elif unit.stream.codec == "hevc":
                data = hevc.with_delimiter(data)
            pid, stream_id, carries_clock = VIDEO_PID, _VIDEO_STREAM_ID, True
        else:
            if unit.stream != self._audio:
                tables = self.set_streams(self._video, unit.stream)
            own_id = unit.stream.stream_type in _PES_HEADER_STREAM_TYPES
            pid, stream_id = AUDIO_PID, _AUDIO_STREAM_ID if own_id else _PRIVATE_STREAM_1
            carries_clock = self._video is None
        adaptation = b""
        flags = 0x40 if unit.keyframe else 0
        if carries_clock:
            if self._is_new_time_line(unit.dts):
                flags |= 0x80
            flags |= 0x10
            adaptation = _clock_reference(unit.dts - self._clock_lead)
        if flags:
            adaptation = bytes((flags,)) + adaptation
        header = _pes_header(stream_id, unit.pts, unit.dts, len(data), aligned=pid == VIDEO_PID)
        return tables + self._pes_packets(pid, adaptation, header + data)

    def _change_streams(
        self, video: ElementaryStream | None, audio: ElementaryStream | None
    ) -> bool:
        if (video, audio) == (self._video, self._audio):
            return False
        self._video, self._audio = video, audio
        self._version = (self._version + 1) & 0x1F
        return True

    def _is_new_time_line(self, dts: int) -> bool:
        before, self._last_clock_dts = self._last_clock_dts, dts
        return before is not None and not 0 <= dts - before < _DISCONTINUITY

    def _pes_packets(self, pid: int, adaptation: bytes, pes: bytes) -> bytes:
        """Cut a PES packet into transport packets, stuffing in the last one.

        Args:
            adaptation: flags and fields of the first packet's adaptation field, without its
                length; empty for none.
        """
        count = self._continuity[pid]
        room = _PAYLOAD - (1 + len(adaptation) if adaptation else 0)
        if pes[4:6] == b"\0\0" and len(pes) >= room and (len(pes) - room) % _PAYLOAD == 0:
            # Unbounded and filling its last packet: one byte of header stuffing (2.4.3.7) makes
            # it end in a packet with stuffing, which can be seen.
            pes = pes[:8] + bytes((pes[8] + 1,)) + pes[9 : 9 + pes[8]] + b"\xff" + pes[9 + pes[8] :]
        size = len(pes)
        packets = [_first_header(pid, count, adaptation, room - size)]
        position = min(room, size)
        packets.append(pes[:position])
        headers = self._packet_headers[pid]
        while size - position >= _PAYLOAD:
            count = (count + 1) & 15
            packets.append(headers[count])
            packets.append(pes[position : position + _PAYLOAD])
            position += _PAYLOAD
        if position < size:
            count = (count + 1) & 15
            packets.append(_stuffed_header(pid, count, _PAYLOAD - (size - position)))
            packets.append(pes[position:])
        self._continuity[pid] = (count + 1) & 15
        return b"".join(packets)

    def _section_packets(self, pid: int, section: bytes) -> bytes:
        data = b"\x00" + section  # pointer_field
        packets = []
        for position in range(0, len(data), _PAYLOAD):
            count = self._continuity[pid]
            self._continuity[pid] = (count + 1) & 15
            start = 0x40 if position == 0 else 0
            piece = data[position : position + _PAYLOAD]
            packets.append(bytes((0x47, start | pid >> 8, pid & 0xFF, 0x10 | count)))
            packets.append(piece + _STUFFING[: _PAYLOAD - len(piece)])
        return b"".join(packets)


def _first_header(pid: int, count: int, adaptation: bytes, spare: int) -> bytes:
    """Header and adaptation field of a PES packet's first transport packet.

    Args:
        spare: bytes of the packet that the PES packet leaves free; 0 or less for none.
    """
    if not adaptation and spare <= 0:
        return bytes((0x47, 0x40 | pid >> 8, pid & 0xFF, 0x10 | count))
    header = bytes((0x47, 0x40 | pid >> 8, pid & 0xFF, 0x30 | count))
    if not adaptation:
        return header + _adaptation_stuffing(spare)
    spare = max(0, spare)
    return header + bytes((len(adaptation) + spare,)) + adaptation + _STUFFING[:spare]


def _stuffed_header(pid: int, count: int, spare: int) -> bytes:
    return bytes((0x47, pid >> 8, pid & 0xFF, 0x30 | count)) + _adaptation_stuffing(spare)


def _adaptation_stuffing(size: int) -> bytes:
    """An adaptation field of `size` bytes, at least 1, with nothing in it (2.4.3.4)."""
    if size == 1:
        return b"\x00"
    return bytes((size - 1, 0)) + _STUFFING[: size - 2]


def _pes_header(stream_id: int, pts: int, dts: int, size: int, *, aligned: bool) -> bytes:
    """A PES header for `size` bytes of payload (2.4.3.6).

    Args:
        aligned: the payload begins with an access unit; copied audio may begin anywhere.
    """
    if pts == dts:
        flags, times = 0x80, _timestamp(0x2, pts)
    else:
        flags, times = 0xC0, _timestamp(0x3, pts) + _timestamp(0x1, dts)
    length = 3 + len(times) + size
    if length > 0xFFFF:
        length = 0  # 2.4.3.7: unbounded
    return (
        struct.pack(
            ">IHBBB", 0x100 | stream_id, length, 0x84 if aligned else 0x80, flags, len(times)
        )
        + times
    )


def _timestamp(prefix: int, ticks: int) -> bytes:
    ticks %= PTS_MODULUS
    return struct.pack(
        ">BHH",
        prefix << 4 | ticks >> 29 & 0x0E | 1,
        ticks >> 14 & 0xFFFE | 1,
        ticks << 1 & 0xFFFE | 1,
    )


def _clock_reference(ticks: int) -> bytes:
    """A PCR's six bytes (2.4.3.5), its 27 MHz extension 0."""
    return struct.pack(">IH", (ticks % PTS_MODULUS) >> 1, (ticks & 1) << 15 | 0x7E00)
