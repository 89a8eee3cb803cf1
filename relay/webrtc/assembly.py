"""RTP packets to access units, released on the marker bit.

Stands in for aiortc's jitter buffer, which holds a frame until the first packet of the next one
(one frame interval: 33 ms at 30 fps), gives out at most one frame per packet, and after a lost
packet waits until 512 of them have piled up (all measured). Here a frame leaves with its last
packet, several leave at once when a gap closes, and a gap is waited for as long as a
retransmission may take, then skipped with a keyframe asked for.

Knows the shape of a packet, not aiortc: anything with `sequence_number`, `timestamp`, `marker`
and `_data` (the depayloaded bytes) will do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from relay.webrtc.rtp_header import SEQUENCE_MODULUS

REORDER_LIMIT = 1024
"""A packet this far behind is a restart of the sender, not a late one. Packets that were asked for
twice come twice, the second time behind all that waited for them: a sender keeps the last 128 of
them (aiortc: RTP_HISTORY_SIZE), and as many again may be on their way."""
MOST_ASKED_FOR = 100
MOST_PARTS = 8192
"""Packets of one picture: 10 MB. A sender without an end to its pictures fills no memory."""


class RtpPacketLike(Protocol):
    sequence_number: int
    timestamp: int
    marker: int
    _data: bytes


class AssembledUnit(NamedTuple):
    """One access unit as it came over RTP."""

    data: bytes
    """Annex B."""
    timestamp: int
    """The RTP timestamp, 32 bits, 90 kHz, with the sender's own origin."""
    damaged: bool
    """Packets before it were given up since the last unit."""
    arrived_at: float
    """Clock of the assembler, seconds, when its last packet came."""


class AccessUnitAssembler:
    """Puts packets in order and gives out whole access units.

    Args:
        on_unit: called with each unit, in order, from within `add`.
        on_gap: called with missing sequence numbers, at most every `renack_s`: ask for them
            again. The receiver's own NACK goes out once only, when the gap appears.
        patience_s: how long a gap may hold up what follows it.
        renack_s: the pause between two calls of `on_gap`.
        capacity: the largest number of packets held back behind a gap.
        release_on_marker: False restores the stock rule (release on the next timestamp), for
            senders that are not known to set the marker on the last packet of a frame.
    """

    def __init__(
        self,
        on_unit: Callable[[AssembledUnit], None],
        on_gap: Callable[[list[int]], None] | None = None,
        *,
        patience_s: float = 0.25,
        renack_s: float = 0.03,
        capacity: int = 1024,
        release_on_marker: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_unit = on_unit
        self._on_gap = on_gap
        self._patience_s = patience_s
        self._renack_s = renack_s
        self._capacity = capacity
        self._release_on_marker = release_on_marker
        self._clock = clock
        self._held: dict[int, RtpPacketLike] = {}
        self._next: int | None = None
        self._parts: list[bytes] = []
        self._parts_timestamp = 0
        self._damaged = False
        self._spoilt_timestamp: int | None = None
        self._gap_since: float | None = None
        self._renack_at = 0.0

    def add(self, packet: RtpPacketLike) -> tuple[bool, None]:
        """Take one packet; the shape of the call is aiortc's `JitterBuffer.add`.

        Returns:
            Whether the sender should be asked for a keyframe, and None: units leave through
            `on_unit`.
        """
        if packet.sequence_number == self._next and not self._held:
            self._take(packet)
            return False, None
        if self._next is None:
            self._next = packet.sequence_number
        ahead = (packet.sequence_number - self._next) % SEQUENCE_MODULUS
        if ahead >= SEQUENCE_MODULUS // 2:
            if SEQUENCE_MODULUS - ahead < REORDER_LIMIT:
                return False, None  # late or repeated: already delivered or given up
            self._restart_at(packet.sequence_number)
            ahead = 0
        self._held[packet.sequence_number] = packet
        keyframe_needed = False
        if ahead and (ahead >= self._capacity or self._gap_has_lasted()):
            self._skip_gap()
            keyframe_needed = True
        self._drain()
        return keyframe_needed, None

    def ask_for_tail(self, count: int = 8) -> None:
        """Ask for the packets that would be next: if the last of all were lost, nothing else shows
        it. Those that were never sent nobody answers."""
        if self._next is None or self._on_gap is None:
            return
        missing = self._missing() if self._held else []
        self._on_gap(missing or [(self._next + ahead) % SEQUENCE_MODULUS for ahead in range(count)])

    def _gap_has_lasted(self) -> bool:
        now = self._clock()
        if self._gap_since is None:
            self._gap_since = now
            self._renack_at = now + self._renack_s
        elif now >= self._renack_at and self._on_gap is not None:
            self._renack_at = now + self._renack_s
            self._on_gap(self._missing())
        return now - self._gap_since > self._patience_s

    def _missing(self) -> list[int]:
        """The first run of missing numbers: what everything else waits for."""
        assert self._next is not None
        missing: list[int] = []
        number = self._next
        while number not in self._held and len(missing) < MOST_ASKED_FOR:
            missing.append(number)
            number = (number + 1) % SEQUENCE_MODULUS
        return missing

    def _skip_gap(self) -> None:
        skipped = self._next
        assert skipped is not None
        self._next = min(self._held, key=lambda number: (number - skipped) % SEQUENCE_MODULUS)
        self._gap_since = None
        self._damaged = True
        # What had come of the broken frame is worthless without the rest, and so is the rest:
        # if its head was lost, what follows the gap is a fragment without a start code.
        if self._parts:
            self._spoilt_timestamp = self._parts_timestamp
        elif not self._held[self._next]._data.startswith(b"\x00\x00"):
            self._spoilt_timestamp = self._held[self._next].timestamp
        self._parts.clear()

    def _restart_at(self, sequence_number: int) -> None:
        self._held.clear()
        self._parts.clear()
        self._next = sequence_number
        self._gap_since = None
        self._damaged = True

    def _drain(self) -> None:
        assert self._next is not None
        while (packet := self._held.pop(self._next, None)) is not None:
            self._take(packet)

    def _take(self, packet: RtpPacketLike) -> None:
        """`packet` is the next one."""
        self._next = (packet.sequence_number + 1) % SEQUENCE_MODULUS
        self._gap_since = None
        if self._parts and packet.timestamp != self._parts_timestamp:
            self._release()
        if packet.timestamp == self._spoilt_timestamp:
            return
        self._spoilt_timestamp = None
        self._parts.append(packet._data)
        self._parts_timestamp = packet.timestamp
        if len(self._parts) > MOST_PARTS:
            self._parts.clear()
            self._damaged = True
            self._spoilt_timestamp = packet.timestamp
        elif packet.marker and self._release_on_marker:
            self._release()

    def _release(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        if not data:
            return
        unit = AssembledUnit(data, self._parts_timestamp, self._damaged, self._clock())
        self._damaged = False
        self._on_unit(unit)
