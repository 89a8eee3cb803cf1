"""H.264 in Annex B: finding NAL units, and telling where one access unit ends and the next begins.

Sections cited are of ITU-T H.264.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from relay.media.annexb import (
    SHORT_START_CODE,
    START_CODE,
    UnitScan,
    nal_positions,
    nal_start,
    split_at,
)
from relay.media.bits import BitReader, EndOfBits, unescape_rbsp
from relay.media.h264_sps import SequenceParameters

ACCESS_UNIT_DELIMITER = START_CODE + b"\x09\xf0"
"""primary_pic_type 7: any slice type may follow (7.3.2.4)."""

_SLICE_HEADER_BYTES = 24
"""Enough of a slice for the fields up to bottom_field_flag, emulation prevention included."""
_MAX_SEI_BYTES = 4096
"""How far into a message NAL unit a recovery point is looked for."""
_RECOVERY_POINT = 6


class NalType(IntEnum):
    """nal_unit_type (table 7-1), those that matter here."""

    SLICE = 1
    PARTITION_A = 2
    IDR_SLICE = 5
    SEI = 6
    SPS = 7
    PPS = 8
    DELIMITER = 9
    END_OF_SEQUENCE = 10
    END_OF_STREAM = 11
    FILLER = 12


class Nal(NamedTuple):
    """Where a NAL unit lies in a buffer."""

    start: int
    """Of its start code, the leading zero byte included."""
    header: int
    """Of its first byte after the start code."""
    type: int


# Plain ints: an IntEnum member costs a Python call each time it is looked up or hashed. What is
# asked of every picture finds its NAL units itself, since a `Nal` of each costs more than the rest.
_IDR_SLICE = 5
_DELIMITER = 9
_CODED_SLICES = frozenset({1, 2, _IDR_SLICE})
_BEGINS_ACCESS_UNIT = frozenset({6, 7, 8, 9})
"""What can't follow the last slice of a picture without beginning the next one (7.4.1.2.3)."""


def nal_units(data: bytes) -> Iterator[Nal]:
    """The NAL units of an Annex B buffer, in order."""
    for start, header in nal_positions(data):
        yield Nal(start, header, data[header] & 0x1F)


def nal_bytes(data: bytes, nal: Nal) -> bytes:
    """One NAL unit from its header to before the next start code, without trailing zeros."""
    end = data.find(SHORT_START_CODE, nal.header)
    return data[nal.header : end if end >= 0 else len(data)].rstrip(b"\x00")


def scan(data: bytes) -> UnitScan:
    """Everything the demuxer asks of a buffer, in one pass.

    A new access unit begins at a delimiter, SPS, PPS or SEI after a slice, or at a slice that is
    the first of its picture (first_mb_in_slice 0). Streams with redundant or arbitrarily ordered
    slices (Baseline and Extended tools that no encoder for TS uses) would be cut too often. The
    two fields of a pair are two access units here; `field_of` lets the caller join them.
    """
    cuts: list[int] = []
    picture = keyframe = parameters = False
    continues = first = True
    boundary = -1
    end = len(data)
    position = data.find(SHORT_START_CODE)
    while 0 <= position < end - 3:
        header = position + 3
        kind = data[header] & 0x1F
        if kind in _CODED_SLICES:
            begins = header + 1 < end and data[header + 1] >= 0x80  # ue(0) is one 1 bit
            if first:
                continues = not begins
            if not picture:
                picture = True
                keyframe = keyframe or kind == _IDR_SLICE
            elif boundary >= 0:
                cuts.append(boundary)
            elif begins:
                cuts.append(nal_start(data, position))
            boundary = -1
        elif kind in _BEGINS_ACCESS_UNIT:
            if first:
                continues = False
            if boundary < 0:
                boundary = nal_start(data, position)
            if kind != _DELIMITER and not picture:
                parameters = True
                if kind == 6 and _has_recovery_point(nal_bytes(data, Nal(position, header, kind))):
                    keyframe = True
        first = False
        position = data.find(SHORT_START_CODE, header)
    return UnitScan(cuts, picture, keyframe and picture, continues, parameters)


def has_slice(data: bytes) -> bool:
    """Whether there is a coded slice in it: an access unit without one shows nothing."""
    return _first_slice(data) >= 0


def is_idr(data: bytes) -> bool:
    """Whether it is an IDR picture: decoding can start here with nothing before."""
    header = _first_slice(data)
    return header >= 0 and data[header] & 0x1F == _IDR_SLICE


def is_keyframe(data: bytes) -> bool:
    """Whether decoding can begin here: an IDR picture, or one with a recovery point.

    Broadcast encoders and open GOPs have no IDR after the first; FFmpeg, too, takes a recovery
    point message (D.2.8) for a keyframe. Use `is_idr` where nothing less will do.
    """
    return scan(data).keyframe


def has_parameter_sets(data: bytes) -> bool:
    """Whether it carries its own SPS and PPS, in front of its first slice."""
    seen = set()
    for nal in nal_units(data):
        if nal.type in _CODED_SLICES:
            break
        seen.add(nal.type)
    return {NalType.SPS, NalType.PPS} <= seen


def find_sps(data: bytes) -> bytes | None:
    """The sequence parameter set in front of the first slice, from its NAL header on, if any."""
    for nal in nal_units(data):
        if nal.type == NalType.SPS:
            return nal_bytes(data, nal)
        if nal.type in _CODED_SLICES:
            break
    return None


def starts_with_delimiter(data: bytes) -> bool:
    """Whether the first NAL unit is an access unit delimiter."""
    position = data.find(SHORT_START_CODE)
    return 0 <= position < len(data) - 3 and data[position + 3] & 0x1F == _DELIMITER


def with_delimiter(data: bytes) -> bytes:
    """The access unit with a delimiter in front, as MPEG-TS demands (ISO/IEC 13818-1, 2.14.1)."""
    return data if starts_with_delimiter(data) else ACCESS_UNIT_DELIMITER + data


def without_delimiter(data: bytes) -> bytes:
    """The access unit without delimiters in front, for carriers that don't want them (RTP)."""
    position = data.find(SHORT_START_CODE)
    while 0 <= position < len(data) - 3:
        if data[position + 3] & 0x1F != _DELIMITER:
            start = nal_start(data, position)
            return data[start:] if start else data
        position = data.find(SHORT_START_CODE, position + 3)
    return data


def split_access_units(data: bytes) -> list[bytes]:
    """Cut a buffer in front of every access unit but the first (see `scan` for the rule).

    Returns:
        The pieces, which joined are `data`; ``[data]`` if there is nothing to cut, or no NAL unit.
    """
    return split_at(data, scan(data).cuts)


@dataclass(frozen=True, slots=True)
class Field:
    """What tells the two fields of a frame from two frames (7.4.1.2.4)."""

    bottom: bool
    frame_num: int

    def completes(self, first: Field) -> bool:
        """Whether this is the second field of the frame that `first` began."""
        return self.bottom != first.bottom and self.frame_num == first.frame_num


def field_of(data: bytes, sps: SequenceParameters) -> Field | None:
    """Which field the access unit's picture is; None if it is a frame, or can't be told."""
    if sps.frame_mbs_only:
        return None
    for nal in nal_units(data):
        if nal.type not in _CODED_SLICES:
            continue
        head = data[nal.header + 1 : nal.header + 1 + _SLICE_HEADER_BYTES]
        try:
            bits = BitReader(unescape_rbsp(head))
            bits.ue()  # first_mb_in_slice
            bits.ue()  # slice_type
            bits.ue()  # pic_parameter_set_id
            if sps.separate_colour_planes:
                bits.u(2)
            frame_num = bits.u(sps.log2_max_frame_num)
            if bits.flag():  # field_pic_flag
                return Field(bottom=bits.flag(), frame_num=frame_num)
        except EndOfBits:
            pass
        return None
    return None


def _first_slice(data: bytes) -> int:
    """Where the header of the first coded slice is; -1 if there is none."""
    position = data.find(SHORT_START_CODE)
    while 0 <= position < len(data) - 3:
        if data[position + 3] & 0x1F in _CODED_SLICES:
            return position + 3
        position = data.find(SHORT_START_CODE, position + 3)
    return -1


def _has_recovery_point(sei: bytes) -> bool:
    """Whether an SEI NAL unit (from its header on) holds a recovery point message (7.3.2.3.1)."""
    data = unescape_rbsp(sei[:_MAX_SEI_BYTES])
    position = 1
    while position + 2 <= len(data) and data[position] != 0x80:
        values = [0, 0]  # payload type, payload size
        for index in range(2):
            while position < len(data) and data[position] == 0xFF:
                values[index] += 255
                position += 1
            if position >= len(data):
                return False
            values[index] += data[position]
            position += 1
        if values[0] == _RECOVERY_POINT:
            return True
        position += values[1]
    return False
