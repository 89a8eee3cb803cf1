"""As much of MPEG-TS as it takes to send a file in real time: packets, tables, timestamps.

Nothing is decoded. References are to ISO/IEC 13818-1. The relay's own demuxer is not used here:
the trickle tools work without the media part of this project.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PACKET_BYTES = 188
SYNC_BYTE = 0x47
CLOCK_RATE = 90_000
PTS_MODULUS = 1 << 33

PAT_PID = 0x0000
SDT_PID = 0x0011

_VIDEO_STREAM_TYPES = frozenset({0x01, 0x02, 0x10, 0x1B, 0x24})
"""MPEG-1, MPEG-2, MPEG-4 part 2, H.264, HEVC (table 2-34)."""
_PES_STREAMS_WITHOUT_HEADER = frozenset({0xBC, 0xBE, 0xBF, 0xF0, 0xF1, 0xF2, 0xF8, 0xFF})


class PacketAligner:
    """Cuts a byte stream into packets and finds the packets again after garbage."""

    def __init__(self) -> None:
        self.skipped_bytes = 0
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that are complete with `data`."""
        buffer = self._buffer + data
        start = 0
        while len(buffer) - start >= PACKET_BYTES:
            following = start + PACKET_BYTES
            if buffer[start] != SYNC_BYTE or (
                following < len(buffer) and buffer[following] != SYNC_BYTE
            ):
                start += 1
                self.skipped_bytes += 1
                continue
            yield buffer[start:following]
            start = following
        self._buffer = buffer[start:]


@dataclass(frozen=True, slots=True)
class Packet:
    """The header of one packet (2.4.3.2 and 2.4.3.4)."""

    pid: int
    unit_start: bool
    random_access: bool
    payload_at: int
    """Offset of the payload; 188 if there is none."""
    pcr_at: int
    """Offset of the program clock reference; 0 if there is none."""

    @classmethod
    def parse(cls, packet: bytes | bytearray) -> Packet:
        control = packet[3]
        payload_at, random_access, pcr_at = 4, False, 0
        if control & 0x20:
            length = packet[4]
            payload_at = 5 + length
            if length:
                random_access = bool(packet[5] & 0x40)
                pcr_at = 6 if packet[5] & 0x10 and length >= 7 else 0
        if not control & 0x10:
            payload_at = PACKET_BYTES
        return cls(
            pid=(packet[1] & 0x1F) << 8 | packet[2],
            unit_start=bool(packet[1] & 0x40),
            random_access=random_access,
            payload_at=min(payload_at, PACKET_BYTES),
            pcr_at=pcr_at,
        )


class SectionAssembler:
    """Puts a table's section together from the packets of its PID (2.4.4)."""

    def __init__(self) -> None:
        self._section = b""

    def feed(self, payload: bytes, *, unit_start: bool) -> bytes | None:
        """The section, from its table_id to before its CRC, once it is complete."""
        if unit_start:
            if not payload:
                return None
            self._section = payload[1 + payload[0] :]
        elif self._section:
            self._section += payload
        if len(self._section) < 3:
            return None
        length = 3 + ((self._section[1] & 0x0F) << 8 | self._section[2])
        if len(self._section) < length:
            return None
        section, self._section = self._section[: length - 4], b""
        return section


def programme_map_pid(section: bytes) -> int | None:
    """The PID of the first programme's map in a PAT section (2.4.4.3)."""
    for at in range(8, len(section) - 3, 4):
        if section[at : at + 2] != b"\0\0":  # programme 0 is the network PID
            return (section[at + 2] & 0x1F) << 8 | section[at + 3]
    return None


def elementary_pids(section: bytes) -> list[tuple[int, int]]:
    """(stream_type, PID) of each stream in a PMT section (2.4.4.8)."""
    if len(section) < 12:
        return []
    at = 12 + ((section[10] & 0x0F) << 8 | section[11])
    streams = []
    while at + 5 <= len(section):
        streams.append((section[at], (section[at + 1] & 0x1F) << 8 | section[at + 2]))
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
    return streams


def timing_stream(streams: list[tuple[int, int]]) -> tuple[int, bool] | None:
    """The PID whose timestamps pace the stream, and whether it is video."""
    for stream_type, pid in streams:
        if stream_type in _VIDEO_STREAM_TYPES:
            return pid, True
    return (streams[0][1], False) if streams else None


def stamp_offsets(packet: bytes | bytearray, payload_at: int) -> tuple[int, ...]:
    """Where PTS and DTS are in a packet that begins a PES packet (2.4.3.6); PTS first."""
    pes = payload_at
    if pes + 14 > PACKET_BYTES or packet[pes : pes + 3] != b"\0\0\1":
        return ()
    if packet[pes + 3] in _PES_STREAMS_WITHOUT_HEADER:
        return ()
    flags = packet[pes + 7] >> 6
    if flags == 2:
        return (pes + 9,)
    if flags == 3 and pes + 19 <= PACKET_BYTES:
        return (pes + 9, pes + 14)
    return ()


def read_stamp(data: bytes | bytearray, at: int) -> int:
    """A PTS or DTS, in 90 kHz ticks."""
    return (
        (data[at] >> 1 & 0x07) << 30
        | data[at + 1] << 22
        | (data[at + 2] >> 1) << 15
        | data[at + 3] << 7
        | data[at + 4] >> 1
    )


def shift_stamps(packet: bytearray, header: Packet, ticks: int) -> None:
    """Move PCR, PTS and DTS of one packet by `ticks` of 90 kHz, modulo 2^33."""
    if header.pcr_at:
        at = header.pcr_at
        base = (int.from_bytes(packet[at : at + 4], "big") << 1 | packet[at + 4] >> 7) + ticks
        base %= PTS_MODULUS
        packet[at : at + 4] = (base >> 1).to_bytes(4, "big")
        packet[at + 4] = (base & 1) << 7 | packet[at + 4] & 0x7F
    if header.unit_start:
        for at in stamp_offsets(packet, header.payload_at):
            stamp = (read_stamp(packet, at) + ticks) % PTS_MODULUS
            packet[at] = packet[at] & 0xF1 | stamp >> 29 & 0x0E
            packet[at + 1] = stamp >> 22 & 0xFF
            packet[at + 2] = stamp >> 14 & 0xFE | 1
            packet[at + 3] = stamp >> 7 & 0xFF
            packet[at + 4] = stamp << 1 & 0xFE | 1


def begins_with_parameter_sets(packet: bytes, payload_at: int) -> bool:
    """Whether a PES packet of video begins with what only a keyframe has before it.

    For streams whose muxer does not set random_access_indicator: an H.264 SPS or IDR slice, an
    HEVC parameter set or IDR picture, an MPEG-2 sequence header, among the first start codes.
    """
    at = packet.find(b"\0\0\1", payload_at + 9)
    while 0 <= at < PACKET_BYTES - 4:
        first = packet[at + 3]
        h264_type, hevc_type = first & 0x1F, first >> 1 & 0x3F
        if first == 0xB3 or (not first & 0x80 and h264_type in (5, 7)):
            return True
        if not first & 0x81 and hevc_type in (19, 20, 32, 33) and packet[at + 4] == 1:
            return True
        at = packet.find(b"\0\0\1", at + 3)
    return False
