"""Programme specific information: the tables that say which PID carries what.

Reading (sections put together from packets, checked, parsed) and writing (the two tables our
muxer repeats). Sections cited are of ISO/IEC 13818-1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from relay.media.access_unit import ElementaryStream

PAT_PID = 0x0000
NULL_PID = 0x1FFF
PAT_TABLE = 0x00
PMT_TABLE = 0x02
MAX_SECTION_BYTES = 4096
"""A private section's limit (2.4.4.11); PAT and PMT stay below 1024."""
MAX_PROGRAMMES = 64
"""How many programmes of a PAT are looked at; a trickle channel has one."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32_mpeg2(data: bytes) -> int:
    """CRC_32 of annex A: 0x04C11DB7, most significant bit first, starting at all ones.

    zlib's CRC is the same polynomial with the bits of every byte, and of the result, reversed.
    """
    mirrored = zlib.crc32(data.translate(_REVERSED)) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_REVERSED), "big")


class SectionAssembler:
    """Sections of one PID, put together from its packets' payloads."""

    __slots__ = ("_data", "_started")

    def __init__(self) -> None:
        self._data = b""
        self._started = False

    def reset(self) -> None:
        """Forget what is incomplete, after lost packets."""
        self._data = b""
        self._started = False

    def feed(self, payload: bytes, starts: bool) -> list[bytes]:
        """Take one packet's payload.

        Args:
            payload: what follows the packet header and adaptation field.
            starts: its payload_unit_start_indicator: the first byte is a pointer_field.

        Returns:
            The sections completed, whole, unchecked.
        """
        sections: list[bytes] = []
        if starts and payload:
            pointer = 1 + payload[0]
            if self._started:
                self._data += payload[1:pointer]
                self._take_complete(sections)
            self._data = payload[pointer:]
            self._started = True
        elif self._started:
            self._data += payload
        if self._started:
            self._take_complete(sections)
        return sections

    def _take_complete(self, sections: list[bytes]) -> None:
        data = self._data
        while len(data) >= 3:
            if data[0] == 0xFF:  # stuffing up to the end of the packet (2.4.4)
                self.reset()
                return
            size = 3 + ((data[1] & 0x0F) << 8 | data[2])
            if size > MAX_SECTION_BYTES:
                self.reset()
                return
            if len(data) < size:
                break
            sections.append(data[:size])
            data = data[size:]
        self._data = data


@dataclass(frozen=True, slots=True)
class TableSection:
    """A section with the long header (2.4.4.10), its CRC checked and taken off."""

    table_id: int
    extension: int
    """transport_stream_id in a PAT, program_number in a PMT."""
    version: int
    current: bool
    number: int
    last_number: int
    body: bytes


def parse_section(section: bytes) -> TableSection | None:
    """Read a PAT's or PMT's section; None if its CRC or its form is wrong."""
    if len(section) < 12 or not section[1] & 0x80 or crc32_mpeg2(section) != 0:
        return None
    return TableSection(
        table_id=section[0],
        extension=section[3] << 8 | section[4],
        version=(section[5] >> 1) & 0x1F,
        current=bool(section[5] & 1),
        number=section[6],
        last_number=section[7],
        body=section[8:-4],
    )


def parse_pat(body: bytes) -> dict[int, int]:
    """The PMT PID of each program_number; the network PID (program 0) is left out."""
    programmes: dict[int, int] = {}
    for position in range(0, len(body) - 3, 4):
        number, pid = struct.unpack_from(">HH", body, position)
        if number and len(programmes) < MAX_PROGRAMMES:
            programmes[number] = pid & 0x1FFF
    return programmes


@dataclass(frozen=True, slots=True)
class PmtEntry:
    """One elementary stream of a programme."""

    pid: int
    stream_type: int
    descriptors: bytes


@dataclass(frozen=True, slots=True)
class ProgrammeMap:
    """One PMT."""

    pcr_pid: int
    descriptors: bytes
    streams: tuple[PmtEntry, ...]


def parse_pmt(body: bytes) -> ProgrammeMap | None:
    """Read a PMT section's body; None if its lengths don't add up."""
    if len(body) < 4:
        return None
    pcr_pid, info_length = struct.unpack_from(">HH", body)
    position = 4 + (info_length & 0x0FFF)
    programme_descriptors = body[4:position]
    if position > len(body):
        return None
    streams: list[PmtEntry] = []
    while position + 5 <= len(body):
        stream_type, pid, info_length = struct.unpack_from(">BHH", body, position)
        position += 5
        end = position + (info_length & 0x0FFF)
        if end > len(body):
            return None
        streams.append(PmtEntry(pid & 0x1FFF, stream_type, body[position:end]))
        position = end
    return ProgrammeMap(pcr_pid & 0x1FFF, programme_descriptors, tuple(streams))


def build_section(table_id: int, extension: int, version: int, body: bytes) -> bytes:
    """A section with long header and CRC, current, number 0 of 0."""
    header = struct.pack(
        ">BHHBBB",
        table_id,
        0xB000 | (len(body) + 9),
        extension,
        0xC1 | (version & 0x1F) << 1,
        0,
        0,
    )
    section = header + body
    return section + crc32_mpeg2(section).to_bytes(4, "big")


def build_pat(transport_stream_id: int, programmes: dict[int, int], version: int = 0) -> bytes:
    """A PAT section that names each programme's PMT PID."""
    body = b"".join(struct.pack(">HH", n, 0xE000 | pid) for n, pid in programmes.items())
    return build_section(PAT_TABLE, transport_stream_id, version, body)


def build_pmt(
    program_number: int,
    pcr_pid: int,
    streams: Sequence[tuple[int, ElementaryStream]],
    version: int = 0,
) -> bytes:
    """A PMT section.

    Args:
        streams: PID and stream, in order; stream_type and descriptors are written as they are.
    """
    body = struct.pack(">HH", 0xE000 | pcr_pid, 0xF000)
    for pid, stream in streams:
        body += struct.pack(
            ">BHH", stream.stream_type, 0xE000 | pid, 0xF000 | len(stream.descriptors)
        )
        body += stream.descriptors
    return build_section(PMT_TABLE, program_number, version, body)
