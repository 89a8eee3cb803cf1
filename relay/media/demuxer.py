"""Stage 2 of the path in: MPEG-TS bytes to access units, pushed, ended as early as they can be.

Bytes come in any cut, as the network gives them; an access unit goes out with the feed that brings
its last byte. What comes out depends on the bytes alone, not on how they were cut. Nothing a
stream holds raises or grows memory: what can't be used is counted and skipped.
"""

from __future__ import annotations

from relay.media.access_unit import AccessUnit, ElementaryStream, MediaKind
from relay.media.framing import Framing, framing_for
from relay.media.pes import PACKET_BYTES, DemuxerStats, Pes, PesAssembler
from relay.media.programmes import ProgrammeSelector
from relay.media.psi import PAT_PID, SectionAssembler
from relay.media.timestamps import TimestampUnwrapper

SYNC_BYTE = 0x47
_SYNC_SPAN = 2 * PACKET_BYTES + 1
"""Three sync bytes in a row make a packet boundary believable, when searching."""


class _Flow:
    """One elementary stream on its way through: PID, PES packets, access units."""

    __slots__ = ("announced", "framing", "is_video", "pes", "pid")

    def __init__(self, pid: int, announced: ElementaryStream, framing: Framing, pes: PesAssembler):
        self.pid = pid
        self.announced = announced
        self.is_video = announced.kind is MediaKind.VIDEO
        self.framing = framing
        self.pes = pes


class TsDemuxer:
    """Demultiplexes one channel, across all its segments.

    It follows the programme tables as they change and takes the first video and the first audio
    stream of the first programme that has video (of the first with audio, if none has). It lives
    on the event loop: no call blocks, and one picture costs some tens of microseconds.
    """

    def __init__(self) -> None:
        self.stats = DemuxerStats()
        self._rest = b""
        self._in_sync = True
        self._clock = TimestampUnwrapper()
        self._selector = ProgrammeSelector()
        self._sections: dict[int, SectionAssembler] = {PAT_PID: SectionAssembler()}
        self._section_counters: dict[int, int] = {}
        self._flows: dict[int, _Flow] = {}
        self._video: _Flow | None = None
        self._audio: _Flow | None = None

    @property
    def video(self) -> ElementaryStream | None:
        """The video stream announced just now; None if there is none."""
        return self._video.framing.stream if self._video else None

    @property
    def audio(self) -> ElementaryStream | None:
        """The audio stream announced just now; None if there is none."""
        return self._audio.framing.stream if self._audio else None

    def feed(self, data: bytes, arrived_at: float) -> list[AccessUnit]:
        """Take the next bytes of the channel.

        Args:
            data: any number of bytes, cut anywhere.
            arrived_at: seconds on the caller's clock; goes onto the units they complete.

        Returns:
            The access units completed, in the order their last bytes came.
        """
        self.stats.bytes += len(data)
        data = self._rest + data if self._rest else bytes(data)
        units: list[AccessUnit] = []
        position = self._take_packets(data, arrived_at, units)
        self._rest = data[position:]
        return units

    def segment_boundary(self, arrived_at: float) -> list[AccessUnit]:
        """A trickle segment ended: what is pending comes out, and what follows is a fresh start.

        A packet cut short is dropped, and the unit it belonged to marked damaged. Continuity
        counters may begin anew; tables, timestamps and streams are kept.
        """
        units: list[AccessUnit] = []
        rest = self._rest
        if not self._in_sync:
            rest = self._take_tail(rest, arrived_at, units)
        self._rest = b""
        self._in_sync = True
        self.stats.skipped_bytes += len(rest)
        for flow in list(self._flows.values()):
            self._end_flow(flow, arrived_at, units, truncated=bool(rest))
        for sections in self._sections.values():
            sections.reset()
        self._section_counters.clear()
        return units

    def _take_packets(self, data: bytes, arrived_at: float, units: list[AccessUnit]) -> int:
        """Take every whole packet; returns where the rest begins."""
        size, position = len(data), 0
        flows, stats = self._flows, self.stats
        done: list[Pes] = []
        while True:
            if not self._in_sync:
                position = self._search_sync(data, position)
                if not self._in_sync:
                    return position
            if position + PACKET_BYTES > size:
                return position
            if data[position] != SYNC_BYTE:
                self._lose_sync()
                continue
            flags = data[position + 1]
            pid = (flags & 0x1F) << 8 | data[position + 2]
            stats.packets += 1
            flow = flows.get(pid)
            if flow is None:
                if pid in self._sections:
                    self._take_section_packet(data, position, pid, arrived_at, units)
                position += PACKET_BYTES
            elif flags & 0x80:
                stats.transport_errors += 1
                flow.pes.lose()
                position += PACKET_BYTES
            else:
                flow.pes.push(data, position, done)
                position = flow.pes.run(data, position + PACKET_BYTES)
                if done:
                    self._frame(flow, done, arrived_at, units)
                    done.clear()

    def _frame(
        self, flow: _Flow, done: list[Pes], arrived_at: float, units: list[AccessUnit]
    ) -> None:
        for pes in done:
            self._count(flow, flow.framing.add(pes, arrived_at), units)

    def _count(self, flow: _Flow, new: list[AccessUnit], units: list[AccessUnit]) -> None:
        for unit in new:
            if flow.is_video:
                self.stats.video_units += 1
            else:
                self.stats.audio_units += 1
            if unit.damaged:
                self.stats.damaged_units += 1
            units.append(unit)

    def _lose_sync(self) -> None:
        self._in_sync = False
        self.stats.sync_losses += 1
        for flow in self._flows.values():
            flow.pes.lose()
        for sections in self._sections.values():
            sections.reset()

    def _search_sync(self, data: bytes, position: int) -> int:
        """Look for three sync bytes, a packet apart; returns where it looked up to."""
        begin, last = position, len(data) - _SYNC_SPAN
        while True:
            position = data.find(SYNC_BYTE, position)
            if position < 0:
                position = len(data)
                break
            if position > last:
                break
            if (
                data[position + PACKET_BYTES] == SYNC_BYTE
                and data[position + 2 * PACKET_BYTES] == SYNC_BYTE
            ):
                self._in_sync = True
                break
            position += 1
        self.stats.skipped_bytes += position - begin
        return position

    def _take_tail(self, rest: bytes, arrived_at: float, units: list[AccessUnit]) -> bytes:
        """At the end of a segment, out of sync: one or two packets that end where it ends."""
        begin = len(rest) % PACKET_BYTES
        while begin < len(rest):
            if all(b == SYNC_BYTE for b in rest[begin::PACKET_BYTES]):
                self.stats.skipped_bytes += begin
                self._in_sync = True
                self._take_packets(rest[begin:], arrived_at, units)
                return b""
            begin += PACKET_BYTES
        return rest

    def _take_section_packet(
        self, data: bytes, position: int, pid: int, arrived_at: float, units: list[AccessUnit]
    ) -> None:
        """One packet of a table: put sections together, act on the ones that are whole."""
        flags, control = data[position + 1], data[position + 3]
        assembler = self._sections[pid]
        if flags & 0x80 or control & 0xC0:
            self.stats.transport_errors += bool(flags & 0x80)
            self.stats.scrambled_packets += bool(control & 0xC0)
            assembler.reset()
            return
        begin, end = position + 4, position + PACKET_BYTES
        if control & 0x20:
            begin += 1 + data[begin]
        if not control & 0x10 or begin >= end:
            return
        before = self._section_counters.get(pid)
        self._section_counters[pid] = control & 15
        if before is not None and control & 15 != (before + 1) & 15:
            if control & 15 == before and not flags & 0x40:
                return  # a repeated packet (2.4.3.3); a repeated first one does no harm
            self.stats.continuity_errors += control & 15 != before
            assembler.reset()
        changed = False
        for section in assembler.feed(data[begin:end], flags & 0x40 != 0):
            changed = self._selector.take(pid, section) or changed
        self.stats.crc_errors = self._selector.bad_sections
        if changed:
            self._follow_programme(arrived_at, units)

    def _follow_programme(self, arrived_at: float, units: list[AccessUnit]) -> None:
        """The tables changed: keep the streams that stay, end those that went, begin new ones."""
        self.stats.programme_changes += 1
        table_pids = {PAT_PID, *self._selector.table_pids}
        for pid in self._sections.keys() - table_pids:
            del self._sections[pid]
            self._section_counters.pop(pid, None)
        for pid in table_pids - self._sections.keys():
            self._sections[pid] = SectionAssembler()
        self._video = self._follow(self._selector.video, self._video, arrived_at, units)
        self._audio = self._follow(self._selector.audio, self._audio, arrived_at, units)
        self._flows.clear()
        for flow in (self._video, self._audio):
            if flow is not None:
                self._flows[flow.pid] = flow

    def _follow(
        self,
        wanted: tuple[int, ElementaryStream] | None,
        flow: _Flow | None,
        arrived_at: float,
        units: list[AccessUnit],
    ) -> _Flow | None:
        if flow is not None:
            if wanted == (flow.pid, flow.announced):
                return flow
            self._end_flow(flow, arrived_at, units, truncated=False)
        if wanted is None:
            return None
        pid, stream = wanted
        framing = framing_for(stream, self._clock, self.stats)
        return _Flow(pid, stream, framing, PesAssembler(pid, self.stats))

    def _end_flow(
        self, flow: _Flow, arrived_at: float, units: list[AccessUnit], *, truncated: bool
    ) -> None:
        done: list[Pes] = []
        flow.pes.boundary(done, truncated=truncated)
        self._frame(flow, done, arrived_at, units)
        self._count(flow, flow.framing.boundary(), units)
