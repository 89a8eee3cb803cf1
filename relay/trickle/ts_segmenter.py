"""Cuts an MPEG-TS stream into segments that begin with a keyframe, and says when each part of
it is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from relay.trickle.ts_packets import (
    CLOCK_RATE,
    PAT_PID,
    PTS_MODULUS,
    SDT_PID,
    Packet,
    PacketAligner,
    SectionAssembler,
    begins_with_parameter_sets,
    elementary_pids,
    programme_map_pid,
    read_stamp,
    shift_stamps,
    stamp_offsets,
    timing_stream,
)

_JUMP_S = 10.0
"""A timestamp further than this from its predecessor is a discontinuity, not a pause."""
_KEYFRAME_SLACK_S = 0.02
"""A keyframe this little before the wanted length still ends a segment."""


@dataclass(frozen=True, slots=True)
class TimedBytes:
    """A run of whole packets."""

    data: bytes
    due_s: float
    """When to send it, in seconds after the first."""
    begins_segment: bool
    """It starts with the tables and a keyframe: a new segment begins here."""


class TsSegmenter:
    """Stream in, timed and cut stream out. No I/O, no waiting.

    Args:
        segment_s: the least duration of a segment; it ends at the next keyframe after that.
    """

    def __init__(self, segment_s: float = 1.0) -> None:
        self.segment_s = segment_s
        self.segments = 0
        self._aligner = PacketAligner()
        self._sections: dict[int, SectionAssembler] = {PAT_PID: SectionAssembler()}
        self._map_pid: int | None = None
        self._timing_pid: int | None = None
        self._has_video = False
        self._tables: dict[int, bytes] = {}
        self._held_tables: list[bytes] = []
        self._due_s = 0.0
        self._step_s = 0.0
        self._last_stamp: int | None = None
        self._segment_due_s = 0.0
        self._shift_ticks = 0
        self._first_stamp: int | None = None
        self._end_ticks = 0

    def feed(self, data: bytes) -> list[TimedBytes]:
        """What is to be sent of `data` and of what was held before."""
        parts: list[TimedBytes] = []
        run: list[bytes] = []
        for packet in self._aligner.feed(data):
            header = Packet.parse(packet)
            if self._shift_ticks:
                moved = bytearray(packet)
                shift_stamps(moved, header, self._shift_ticks)
                packet = bytes(moved)
            if self._is_table(header, packet):
                self._held_tables.append(packet)
                continue
            if header.unit_start and header.pid == self._timing_pid:
                parts.extend(self._end_run(run))
                self._advance(packet, header)
                if self._begins_segment(packet, header):
                    self.segments += 1
                    self._segment_due_s = self._due_s
                    tables, self._held_tables = self._tables_before_keyframe(), []
                    parts.append(TimedBytes(b"".join(tables) + packet, self._due_s, True))
                    continue
            run += self._held_tables
            self._held_tables = []
            run.append(packet)
        parts.extend(self._end_run(run))
        return parts

    def rewind(self) -> None:
        """The same input comes again from its start: its timestamps go on rising."""
        if self._first_stamp is not None:
            self._shift_ticks = (self._end_ticks - self._first_stamp) % PTS_MODULUS
        self._aligner = PacketAligner()
        self._held_tables = []

    def _is_table(self, header: Packet, packet: bytes) -> bool:
        """Whether it belongs to a table; tables are read and kept on the way."""
        if header.pid not in (PAT_PID, SDT_PID, self._map_pid):
            return False
        if header.unit_start:
            self._tables[header.pid] = packet
        assembler = self._sections.get(header.pid)
        if assembler is None:
            return True
        section = assembler.feed(packet[header.payload_at :], unit_start=header.unit_start)
        if section is None:
            return True
        if header.pid == PAT_PID:
            map_pid = programme_map_pid(section)
            if map_pid != self._map_pid and map_pid is not None:
                self._map_pid = map_pid
                self._sections[map_pid] = SectionAssembler()
        elif (found := timing_stream(elementary_pids(section))) is not None:
            self._timing_pid, self._has_video = found
        return True

    def _advance(self, packet: bytes, header: Packet) -> None:
        """Move the clock to the decoding time of the unit that begins here."""
        offsets = stamp_offsets(packet, header.payload_at)
        if not offsets:
            return
        stamp = read_stamp(packet, offsets[-1])
        if self._last_stamp is not None:
            step = (stamp - self._last_stamp) % PTS_MODULUS
            if step >= PTS_MODULUS // 2:
                step -= PTS_MODULUS
            step_s = step / CLOCK_RATE
            if abs(step_s) <= _JUMP_S:
                self._step_s = step_s if step_s > 0 else self._step_s
            else:
                step_s = self._step_s  # the file was joined here: go on at the same pace
            self._due_s += max(0.0, step_s)
        if self._first_stamp is None:
            self._first_stamp = stamp
        self._last_stamp = stamp
        self._end_ticks = stamp + round(self._step_s * CLOCK_RATE)

    def _begins_segment(self, packet: bytes, header: Packet) -> bool:
        if self._has_video and not (
            header.random_access or begins_with_parameter_sets(packet, header.payload_at)
        ):
            return False
        elapsed_s = self._due_s - self._segment_due_s
        return not self.segments or elapsed_s >= self.segment_s - _KEYFRAME_SLACK_S

    def _tables_before_keyframe(self) -> list[bytes]:
        """The tables that stand there anyway, or else the last ones seen."""
        held = {Packet.parse(packet).pid for packet in self._held_tables}
        if {PAT_PID, self._map_pid} <= held:
            return self._held_tables
        order = (SDT_PID, PAT_PID, self._map_pid)
        return [self._tables[pid] for pid in order if pid is not None and pid in self._tables]

    def _end_run(self, run: list[bytes]) -> Iterator[TimedBytes]:
        """What came since, if a segment has begun: before the first keyframe nothing is sent."""
        if run and self.segments:
            yield TimedBytes(b"".join(run), self._due_s, False)
        run.clear()
