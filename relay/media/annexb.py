"""Start codes: what H.264, H.265 and the MPEG-2 family have in common.

Everything is found with `bytes.find`, so a 4 KB picture costs a microsecond or two, not a loop
over its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

START_CODE = b"\x00\x00\x00\x01"
SHORT_START_CODE = b"\x00\x00\x01"


@dataclass(slots=True)
class UnitScan:
    """What one pass over a buffer of coded video tells."""

    cuts: list[int] = field(default_factory=list)
    """Where further access units begin."""
    has_slice: bool = False
    """A coded picture, or part of one, is in it."""
    keyframe: bool = False
    """Decoding can begin with its first picture."""
    continues: bool = False
    """It can only be the rest of a picture begun earlier: nothing in it begins one."""
    parameters: bool = False
    """It holds parameter sets or messages for the picture that follows."""


def nal_positions(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each NAL unit's start code (leading zero byte included) and its header begin."""
    position = data.find(SHORT_START_CODE)
    end = len(data) - 3
    while 0 <= position < end:
        header = position + 3
        yield nal_start(data, position), header
        position = data.find(SHORT_START_CODE, header)


def nal_start(data: bytes, position: int) -> int:
    """Where the NAL unit begins whose short start code is at `position`: at the zero byte in front
    of that, if there is one."""
    return position - 1 if position and data[position - 1] == 0 else position


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    """The pieces of `data` between the cuts; joined they are `data`."""
    if not cuts:
        return [data]
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
