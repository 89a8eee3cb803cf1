"""H.265 in Annex B: what the demuxer and the muxer need of it.

Sections cited are of ITU-T H.265.
"""

from __future__ import annotations

from relay.media.annexb import START_CODE, UnitScan, nal_positions

ACCESS_UNIT_DELIMITER = START_CODE + b"\x46\x01\x50"
"""pic_type 2: any slice type may follow (7.3.2.5)."""

_DELIMITER = 35
_BEGINS_ACCESS_UNIT = frozenset({32, 33, 34, _DELIMITER, 39, 41, 42, 43, 44, 48, 49, 50, 51, 52})
"""Parameter sets, delimiter, prefix SEI, reserved and unspecified ones: none of them may follow
a picture's last slice without beginning the next one (7.4.2.4.4)."""


def scan(data: bytes) -> UnitScan:
    """Everything the demuxer asks of a buffer, in one pass; see `relay.media.h264.scan`."""
    result = UnitScan(continues=True)
    boundary = -1
    first = True
    for start, header in nal_positions(data):
        kind = (data[header] >> 1) & 0x3F
        if kind < 32:
            # first_slice_segment_in_pic_flag
            begins = header + 2 < len(data) and data[header + 2] >= 0x80
            if first:
                result.continues = not begins
            if not result.has_slice:
                result.has_slice = True
                result.keyframe = 16 <= kind <= 23  # BLA, IDR, CRA (table 7-1)
            elif boundary >= 0:
                result.cuts.append(boundary)
            elif begins:
                result.cuts.append(start)
            boundary = -1
        elif kind in _BEGINS_ACCESS_UNIT:
            if first:
                result.continues = False
            if boundary < 0:
                boundary = start
            if kind != _DELIMITER and not result.has_slice:
                result.parameters = True
        first = False
    return result


def with_delimiter(data: bytes) -> bytes:
    """The access unit with a delimiter in front, as MPEG-TS demands (ISO/IEC 13818-1, 2.17.1)."""
    return data if without_delimiter(data) is not data else ACCESS_UNIT_DELIMITER + data


def without_delimiter(data: bytes) -> bytes:
    """The access unit without delimiters in front; `data` itself if there are none."""
    delimited = False
    for start, header in nal_positions(data):
        if (data[header] >> 1) & 0x3F != _DELIMITER:
            return data[start:] if delimited else data
        delimited = True
    return b"" if delimited else data
