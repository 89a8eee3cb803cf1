"""PES packets and sections to the transport packets of one PID.

Sections cited are of ISO/IEC 13818-1.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from relay.media.pes import PACKET_BYTES

PAYLOAD_BYTES = PACKET_BYTES - 4
"""Of a packet without an adaptation field."""
UNCOUNTED_BYTES, MOST_COUNTED_BYTES = 6, 0xFFFF
"""In front of what a PES packet's length counts, and the most that it can count (2.4.3.7)."""

_COUNTS = 16
_STARTS, _HAS_PAYLOAD, _HAS_FIELD = 0x40, 0x10, 0x20
"""Bits of a packet's header (2.4.3.2)."""
_STUFFING = b"\xff" * PACKET_BYTES
_EMPTY_FIELDS = (
    b"",
    b"\x00",
    *(bytes((size - 1, 0)) + _STUFFING[: size - 2] for size in range(2, PACKET_BYTES)),
)
"""Adaptation fields with nothing in them (2.4.3.4), by their size."""


class Packetizer:
    """Writes what goes out on one PID. Its continuity counter runs on from call to call."""

    __slots__ = ("_count", "_first", "_first_with_field", "_further", "_last_with_field")

    def __init__(self, pid: int) -> None:
        self._count = 0
        """Of the next packet."""
        self._first = _headers(pid, _STARTS, _HAS_PAYLOAD)
        self._first_with_field = _headers(pid, _STARTS, _HAS_FIELD | _HAS_PAYLOAD)
        self._further = _headers(pid, 0, _HAS_PAYLOAD)
        self._last_with_field = _headers(pid, 0, _HAS_FIELD | _HAS_PAYLOAD)

    def pes(self, pes: bytes, field: bytes = b"") -> bytes:
        """The packets of a PES packet, stuffing in the last one.

        Args:
            field: the first packet's adaptation field; empty for none.
        """
        size, room = len(pes), PAYLOAD_BYTES - len(field)
        if size > UNCOUNTED_BYTES + MOST_COUNTED_BYTES and (size - room) % PAYLOAD_BYTES == 0:
            # Unbounded and filling its last packet: one byte of header stuffing (2.4.3.7) makes
            # it end in a packet with stuffing, which can be seen.
            pes = pes[:8] + bytes((pes[8] + 1,)) + pes[9 : 9 + pes[8]] + b"\xff" + pes[9 + pes[8] :]
            size += 1
        if size < room:
            field = _longer(field, room - size)
        count = self._count
        first = (self._first_with_field if field else self._first)[count]
        full, rest = divmod(size - room, PAYLOAD_BYTES) if size > room else (0, 0)
        packets = [b""] * (3 + 2 * full)
        packets[:3] = first, field, pes[:room]
        packets[3::2] = self._further_headers(count + 1, full)
        packets[4::2] = _payloads(full).unpack_from(pes, min(room, size))
        count = (count + full) % _COUNTS
        if rest:
            count = (count + 1) % _COUNTS
            packets += (
                self._last_with_field[count],
                _EMPTY_FIELDS[PAYLOAD_BYTES - rest],
                pes[-rest:],
            )
        self._count = (count + 1) % _COUNTS
        return b"".join(packets)

    def section(self, section: bytes) -> bytes:
        """The packets of a section, filled up with 0xFF (2.4.4)."""
        data = b"\x00" + section  # pointer_field
        packets: list[bytes] = []
        for position in range(0, len(data), PAYLOAD_BYTES):
            headers = self._further if position else self._first
            piece = data[position : position + PAYLOAD_BYTES]
            packets += headers[self._count], piece, _STUFFING[: PAYLOAD_BYTES - len(piece)]
            self._count = (self._count + 1) % _COUNTS
        return b"".join(packets)

    def _further_headers(self, count: int, packets: int) -> tuple[bytes, ...]:
        first = count % _COUNTS
        rounds = 1 + (first + packets) // _COUNTS
        return (self._further * rounds)[first : first + packets]


def _headers(pid: int, start: int, content: int) -> tuple[bytes, ...]:
    """Those of a PID's packets, by their continuity_counter."""
    return tuple(
        bytes((0x47, start | pid >> 8, pid & 0xFF, content | count)) for count in range(_COUNTS)
    )


@lru_cache
def _payloads(packets: int) -> struct.Struct:
    """Cuts out the payloads of so many full packets."""
    return struct.Struct(f"{PAYLOAD_BYTES}s" * packets)


def _longer(field: bytes, size: int) -> bytes:
    """An adaptation field with `size` bytes of stuffing more."""
    if not field:
        return _EMPTY_FIELDS[size]
    return bytes((field[0] + size,)) + field[1:] + _STUFFING[:size]
