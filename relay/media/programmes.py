"""Which programme of a transport stream is taken, and which of its streams, table by table."""

from __future__ import annotations

from dataclasses import dataclass

from relay.media.access_unit import ElementaryStream, MediaKind
from relay.media.psi import (
    NULL_PID,
    PAT_PID,
    PAT_TABLE,
    PMT_TABLE,
    TableSection,
    parse_pat,
    parse_pmt,
    parse_section,
)
from relay.media.stream_types import elementary_stream

Stream = tuple[int, ElementaryStream]
"""PID and what is on it."""


@dataclass(frozen=True, slots=True)
class _Programme:
    video: Stream | None
    audio: Stream | None


class ProgrammeSelector:
    """Reads PAT and PMTs, every one of them again, and names the streams to take.

    The programme: the one taken before as long as it has video; else the first in the PAT that
    has video; else the first that has audio. Of it, the first video and the first audio stream.
    """

    def __init__(self) -> None:
        self.bad_sections = 0
        """Sections with a wrong CRC, or lengths that don't add up."""
        self.video: Stream | None = None
        self.audio: Stream | None = None
        self._pat_parts: dict[int, TableSection] = {}
        self._pmt_pids: dict[int, int] = {}
        self._programmes: dict[int, _Programme] = {}
        self._accepted: dict[tuple[int, int], bytes] = {}
        self._taken: int | None = None

    @property
    def table_pids(self) -> set[int]:
        """PIDs on which PMTs are to be expected."""
        return set(self._pmt_pids.values())

    def take(self, pid: int, section: bytes) -> bool:
        """Take a section that came on `pid`; True if the streams or the PMT PIDs changed."""
        if len(section) < 8 or section[0] not in (PAT_TABLE, PMT_TABLE):
            return False
        if (section[0] == PAT_TABLE) != (pid == PAT_PID):
            return False
        # The same table comes ten times a second; comparing is cheaper than checking its CRC.
        key = (pid, section[3] << 8 | section[4])
        if self._accepted.get(key) == section:
            return False
        table = parse_section(section)
        if table is None:
            self.bad_sections += 1
            return False
        if not table.current:
            return False
        before = (self._pmt_pids, self.video, self.audio)
        taken = self._take_pat(table) if pid == PAT_PID else self._take_pmt(pid, table)
        if taken:
            self._accepted[key] = section
            self._select()
        return (self._pmt_pids, self.video, self.audio) != before

    def _take_pat(self, table: TableSection) -> bool:
        parts = self._pat_parts
        if table.number > table.last_number:
            self.bad_sections += 1
            return False
        if any(
            (p.version, p.extension, p.last_number)
            != (table.version, table.extension, table.last_number)
            for p in parts.values()
        ):
            parts.clear()
        parts[table.number] = table
        if len(parts) <= table.last_number:
            return False
        self._pmt_pids = {}
        for number in sorted(parts):
            self._pmt_pids |= parse_pat(parts[number].body)
        parts.clear()
        self._programmes = {n: p for n, p in self._programmes.items() if n in self._pmt_pids}
        self._accepted = {
            key: section
            for key, section in self._accepted.items()
            if self._pmt_pids.get(key[1]) == key[0]
        }
        return True

    def _take_pmt(self, pid: int, table: TableSection) -> bool:
        number = table.extension
        if self._pmt_pids.get(number) != pid:
            return False
        programme_map = parse_pmt(table.body)
        if programme_map is None:
            self.bad_sections += 1
            return False
        video = audio = None
        for entry in programme_map.streams:
            if entry.pid in (PAT_PID, NULL_PID, pid):
                continue
            stream = elementary_stream(entry, programme_map.descriptors)
            if stream.kind is MediaKind.VIDEO and video is None:
                video = (entry.pid, stream)
            elif (
                stream.kind is MediaKind.AUDIO
                and audio is None
                and (video is None or video[0] != entry.pid)
            ):
                audio = (entry.pid, stream)
        self._programmes[number] = _Programme(video, audio)
        return True

    def _select(self) -> None:
        in_order = [n for n in self._pmt_pids if n in self._programmes]
        if self._taken is not None and self._taken in in_order:
            in_order.insert(0, self._taken)
        chosen = next((n for n in in_order if self._programmes[n].video), None)
        if chosen is None:
            chosen = next((n for n in in_order if self._programmes[n].audio), None)
        self._taken = chosen
        programme = self._programmes[chosen] if chosen is not None else _Programme(None, None)
        self.video, self.audio = programme.video, programme.audio
