"""A few seconds of live video, encoded once and sent for ever, with timestamps that go on rising.

However many channels carry it, it is stamped once a frame: sources cost the machine next to
nothing, and what is measured is the relay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from demo.test_pattern import PatternOptions, generate

CLOCK_RATE = 90_000
PTS_MODULUS = 1 << 33
_PACKET_BYTES = 188


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A timestamp in the bytes of a chunk."""

    offset: int
    ticks: int
    prefix: int
    """The four bits before a PTS or DTS (ISO/IEC 13818-1, 2.4.3.7); 0 is a PCR's base."""


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """One frame of the loop, as it goes onto a channel."""

    pts: int
    """90 kHz, modulo 2^33."""
    starts_segment: bool
    data: bytes


class LoopedClip:
    """Frames by number, from 0 without end.

    Args:
        width, height: of the picture.
        fps: whole frames a second.
        seconds: of the loop; a segment, and a group of pictures, is one second.
        bit_rate: of the video, bits per second.
    """

    def __init__(
        self, width: int, height: int, fps: int, *, seconds: int = 4, bit_rate: int = 2_000_000
    ) -> None:
        self.fps = fps
        self._loop_ticks = seconds * CLOCK_RATE
        options = PatternOptions(
            width=width,
            height=height,
            fps=Fraction(fps),
            frames=seconds * fps,
            bit_rate=bit_rate,
            audio=False,
        )
        self._start_pts = options.start_pts
        self._chunks = [chunk.data for chunk in generate(options) if chunk.frame is not None]
        self._stamps = [list(_stamps(data)) for data in self._chunks]
        self._newest: OrderedDict[int, ClipFrame] = OrderedDict()

    @property
    def bit_rate(self) -> float:
        """Bits per second that a channel carries."""
        return sum(map(len, self._chunks)) * 8 * self.fps / len(self._chunks)

    def frame(self, number: int) -> ClipFrame:
        """Frame `number`; made once for all who ask for it within the next two seconds."""
        frame = self._newest.get(number)
        if frame is None:
            frame = self._newest[number] = self._make(number)
            if len(self._newest) > 2 * self.fps:
                self._newest.popitem(last=False)
        return frame

    def _make(self, number: int) -> ClipFrame:
        rounds, index = divmod(number, len(self._chunks))
        data = bytearray(self._chunks[index])
        for stamp in self._stamps[index]:
            ticks = (stamp.ticks + rounds * self._loop_ticks) % PTS_MODULUS
            if stamp.prefix:
                _write_timestamp(data, stamp.offset, stamp.prefix, ticks)
            else:
                _write_clock_reference(data, stamp.offset, ticks)
        pts = self._start_pts + number * CLOCK_RATE // self.fps
        return ClipFrame(pts % PTS_MODULUS, index % self.fps == 0, bytes(data))


def _stamps(data: bytes) -> Iterator[_Stamp]:
    """Every PCR, PTS and DTS in a run of whole transport packets."""
    for start in range(0, len(data), _PACKET_BYTES):
        control, payload = data[start + 3] >> 4 & 3, start + 4
        if control & 2:
            if data[start + 4] and data[start + 5] & 0x10:
                yield _Stamp(start + 6, _read_clock_reference(data, start + 6), 0)
            payload += 1 + data[start + 4]
        begins = data[start + 1] & 0x40 and control & 1
        if not begins or data[payload : payload + 3] != b"\x00\x00\x01":
            continue  # no PES packet begins here
        flags = data[payload + 7] >> 6
        if flags & 2:
            yield _Stamp(payload + 9, _read_timestamp(data, payload + 9), flags)
        if flags == 3:
            yield _Stamp(payload + 14, _read_timestamp(data, payload + 14), 1)


def _read_timestamp(data: bytes, at: int) -> int:
    high, middle, low = data[at] >> 1 & 7, data[at + 1 : at + 3], data[at + 3 : at + 5]
    middle_bits, low_bits = int.from_bytes(middle) >> 1, int.from_bytes(low) >> 1
    return high << 30 | middle_bits << 15 | low_bits


def _write_timestamp(data: bytearray, at: int, prefix: int, ticks: int) -> None:
    data[at] = prefix << 4 | (ticks >> 30 & 7) << 1 | 1
    data[at + 1 : at + 3] = ((ticks >> 15 & 0x7FFF) << 1 | 1).to_bytes(2)
    data[at + 3 : at + 5] = ((ticks & 0x7FFF) << 1 | 1).to_bytes(2)


def _read_clock_reference(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 5]) >> 7


def _write_clock_reference(data: bytearray, at: int, ticks: int) -> None:
    rest = data[at + 4] & 0x7F
    data[at : at + 5] = (ticks << 7 | rest).to_bytes(5)
