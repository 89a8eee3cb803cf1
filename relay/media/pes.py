"""PES packets of one PID, put together from transport packets, each ended as early as it can be.

A PES packet with a length ends with its last byte. Video usually has none, and a reader that
waits for the next one to begin gives away a frame interval (measured: 33.4 ms at 30 fps against
0.1 ms). But a multiplexer fills the last transport packet of a PES up with stuffing in the
adaptation field (ISO/IEC 13818-1, 2.4.3.5), so a packet that holds stuffing ends its PES. FFmpeg
ends 98.8 % of its video PES packets so; the others just fill their last packet and wait for the
next. Should a stream stuff in mid-PES (a continuation follows an end taken early), it is not
ended early again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PACKET_BYTES: Final = 188
MAX_PES_BYTES = 4 << 20
"""A keyframe of a 4K intra stream stays below; more is garbage, and dropped."""

_NO_HEADER_STREAM_IDS = frozenset({0xBC, 0xBE, 0xBF, 0xF0, 0xF1, 0xF2, 0xF8, 0xFF})
"""stream_ids without the optional PES header (2.4.3.7): maps, padding, private 2, ECM, EMM."""


@dataclass(slots=True)
class DemuxerStats:
    """What a demuxer saw; counters only grow."""

    bytes: int = 0
    packets: int = 0
    sync_losses: int = 0
    skipped_bytes: int = 0
    """Searching for sync, and partial packets at the end of a segment."""
    continuity_errors: int = 0
    duplicate_packets: int = 0
    transport_errors: int = 0
    scrambled_packets: int = 0
    crc_errors: int = 0
    programme_changes: int = 0
    early_ends: int = 0
    """PES packets ended by stuffing."""
    early_end_misfires: int = 0
    """Streams that turned out to stuff in mid-PES."""
    video_units: int = 0
    audio_units: int = 0
    damaged_units: int = 0
    dropped_units: dict[str, int] = field(default_factory=dict)
    """PES packets that gave no access unit, by reason."""

    def drop(self, reason: str) -> None:
        self.dropped_units[reason] = self.dropped_units.get(reason, 0) + 1


@dataclass(slots=True)
class Pes:
    """A PES packet's payload and times."""

    payload: bytes
    pts: int | None
    """33 bits, 90 kHz."""
    dts: int | None
    damaged: bool
    """Bytes of it are missing."""
    after_loss: bool
    """Packets of this PID were lost between the one before and this one."""


class PesAssembler:
    """The PES packets of one PID.

    `push` takes any packet of the PID; `run` is the short cut for the plain ones in the middle of
    a PES, which are nearly all.
    """

    __slots__ = (
        "_chunks",
        "_continuity",
        "_damaged",
        "_early_end",
        "_ended_early",
        "_headers",
        "_last_payload",
        "_length",
        "_lost",
        "_room",
        "_stats",
    )

    def __init__(self, pid: int, stats: DemuxerStats) -> None:
        self._stats = stats
        # The four header bytes of a payload-only continuation packet, for each counter value.
        self._headers = tuple(bytes((0x47, pid >> 8, pid & 0xFF, 0x10 | n)) for n in range(16))
        self._chunks: list[bytes] = []
        self._continuity = -1
        self._last_payload = b""
        self._length = 0
        self._room = 0
        self._damaged = False
        self._lost = False
        self._early_end = True
        self._ended_early = False

    def run(self, data: bytes, position: int) -> int:
        """Take the plain continuation packets that follow one another at `position`.

        The one that completes a PES by its length is left to `push`.

        Returns:
            The position after them: the first packet that `push` or somebody else must see.
        """
        chunks = self._chunks
        if not chunks or self._length < 0:
            return position
        headers, continuity = self._headers, self._continuity
        last = min(
            len(data) - PACKET_BYTES, position + ((self._room - 1) // 184 - 1) * PACKET_BYTES
        )
        begin = position
        while position <= last:
            continuity = (continuity + 1) & 15
            if not data.startswith(headers[continuity], position):
                break
            end = position + PACKET_BYTES
            chunks.append(data[position + 4 : end])
            position = end
        count = (position - begin) // PACKET_BYTES
        if count:
            self._continuity = (self._continuity + count) & 15
            self._room -= count * 184
            self._last_payload = chunks[-1]
            self._stats.packets += count
        return position

    def push(self, data: bytes, position: int, done: list[Pes]) -> None:
        """Take the packet of this PID at `position`; completed PES packets go to `done`."""
        flags, control = data[position + 1], data[position + 3]
        if control & 0xC0:
            self._stats.scrambled_packets += 1
            self._continuity = control & 15
            self.lose()
            return
        begin, end = position + 4, position + PACKET_BYTES
        stuffed = discontinuity = False
        if control & 0x20:
            size = data[begin]
            if size > 183:
                self.lose()
                return
            discontinuity = size > 0 and data[begin + 1] & 0x80 != 0
            stuffed = has_stuffing(data, begin)
            begin += 1 + size
        if not control & 0x10 or begin >= end:
            if discontinuity:
                self._continuity = -1
            return
        payload = data[begin:end]
        if control & 15 == (self._continuity + 1) & 15:
            self._continuity = control & 15
        elif self._is_duplicate(control & 15, payload, discontinuity):
            return
        self._last_payload = payload
        if flags & 0x40:
            if self._chunks:
                self._finish(done, complete=False)
            self._begin(payload)
        elif self._chunks:
            self._chunks.append(payload)
            self._room -= end - begin
            if self._length < 0:
                self._read_length()
        else:
            self._orphan()
            return
        if self._room <= 0:
            self._end_without_room(done)
        elif stuffed and self._length == 0 and self._early_end:
            self._stats.early_ends += 1
            self._finish(done, complete=False)
            self._ended_early = True

    def lose(self) -> None:
        """Packets of this PID were lost or unusable here."""
        if self._chunks:
            self._damaged = True
        self._lost = True
        self._ended_early = False

    def boundary(self, done: list[Pes], *, truncated: bool) -> None:
        """End of a trickle segment: what is pending comes out, continuity starts anew.

        Args:
            truncated: the segment ended in the middle of a packet.
        """
        if truncated and self._chunks:
            self._damaged = True
        self._finish(done, complete=False)
        self._continuity = -1
        self._last_payload = b""
        self._ended_early = False

    def _is_duplicate(self, continuity: int, payload: bytes, discontinuity: bool) -> bool:
        """Check the continuity counter; True if the packet is a repetition (2.4.3.3)."""
        before, self._continuity = self._continuity, continuity
        if before >= 0 and not discontinuity and continuity != (before + 1) & 15:
            if continuity == before and payload == self._last_payload:
                self._stats.duplicate_packets += 1
                return True
            self._stats.continuity_errors += 1
            self.lose()
        return False

    def _begin(self, payload: bytes) -> None:
        self._chunks = [payload]
        self._ended_early = False
        self._room = MAX_PES_BYTES - len(payload)
        self._length = -1
        self._read_length()

    def _read_length(self) -> None:
        """Once the first six bytes are here: how long is it?"""
        head = self._chunks[0]
        if len(head) < 6:
            head = b"".join(self._chunks)
            if len(head) < 6:
                return
        self._length = head[4] << 8 | head[5]
        if self._length:
            self._room = 6 + self._length - sum(map(len, self._chunks))

    def _end_without_room(self, done: list[Pes]) -> None:
        """It is complete by its length, or longer than any can be."""
        if self._length > 0:
            self._finish(done, complete=True)
        else:
            self._stats.drop("too_large")
            self._chunks = []
            self.lose()

    def _orphan(self) -> None:
        """A continuation of nothing: the start was lost, or the end was taken too early."""
        if self._ended_early:
            self._early_end = False
            self._ended_early = False
            self._stats.early_end_misfires += 1
            self._lost = True

    def _finish(self, done: list[Pes], *, complete: bool) -> None:
        if not self._chunks:
            return
        data = b"".join(self._chunks)
        damaged = self._damaged
        if self._length > 0 and not complete:
            damaged = damaged or self._room > 0
        if self._length > 0:
            data = data[: 6 + self._length]
        # A loss inside the PES shows in it; only one in front of it says something of its own.
        after_loss = self._lost
        self._chunks = []
        self._damaged = False
        self._lost = False
        self._ended_early = False
        pes = parse_pes(data, damaged, after_loss)
        if isinstance(pes, Pes):
            done.append(pes)
        else:
            self._stats.drop(pes)
            self._lost = pes != "no_media"


def has_stuffing(data: bytes, position: int) -> bool:
    """Whether the adaptation field at `position` (its length byte) holds stuffing (2.4.3.4).

    True if it is longer than its fields need, or there for no other reason than to fill: length
    0, or nothing but an empty flags byte.
    """
    size = data[position]
    if size == 0:
        return True
    flags = data[position + 1]
    if flags == 0:
        return True
    needed = 1
    if flags & 0x10:
        needed += 6  # PCR
    if flags & 0x08:
        needed += 6  # OPCR
    if flags & 0x04:
        needed += 1  # splice_countdown
    for present in (flags & 0x02, flags & 0x01):  # private data, extension: with own lengths
        if present:
            if needed >= size:
                return False
            needed += 1 + data[position + 1 + needed]
    return size > needed


def parse_pes(data: bytes, damaged: bool, after_loss: bool) -> Pes | str:
    """Read a PES packet's header; the reason as a stable word if there is nothing to be had."""
    if len(data) < 9 or data[:3] != b"\x00\x00\x01":
        return "bad_pes_header"
    if data[3] in _NO_HEADER_STREAM_IDS:
        return "no_media"
    if data[6] & 0xC0 != 0x80:
        return "bad_pes_header"
    if data[6] & 0x30:
        return "scrambled"
    begin = 9 + data[8]
    if begin > len(data):
        return "bad_pes_header"
    pts = dts = None
    if data[7] & 0x80 and data[8] >= 5:
        pts = _timestamp(data, 9)
        if data[7] & 0x40 and data[8] >= 10:
            dts = _timestamp(data, 14)
    return Pes(data[begin:], pts, dts, damaged, after_loss)


def _timestamp(data: bytes, position: int) -> int:
    """The 33 bits of a PTS or DTS field; marker bits are not checked, as FFmpeg doesn't."""
    return (
        (data[position] & 0x0E) << 29
        | data[position + 1] << 22
        | (data[position + 2] & 0xFE) << 14
        | data[position + 3] << 7
        | data[position + 4] >> 1
    )
