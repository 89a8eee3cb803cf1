"""AAC frames in ADTS (ISO/IEC 14496-3, 1.A.2): cut apart, and made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

HEADER_BYTES: Final = 7
"""Without the optional CRC, which adds two."""
_RATES: Final = (
    96_000,
    88_200,
    64_000,
    48_000,
    44_100,
    32_000,
    24_000,
    22_050,
    16_000,
    12_000,
    11_025,
    8_000,
    7_350,
)
_LC: Final = 1
"""profile_ObjectType of AAC-LC: its audio object type less one."""


def frame_length(data: bytes, position: int) -> int | None:
    """Bytes of the frame at `position`, its header included; 0 if the header is not all there,
    None if there is no frame."""
    if len(data) - position < HEADER_BYTES:
        return 0
    if data[position] != 0xFF or data[position + 1] & 0xF6 != 0xF0:
        return None
    length = (data[position + 3] & 3) << 11 | data[position + 4] << 3 | data[position + 5] >> 5
    return length if length > HEADER_BYTES else None


def frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each whole frame begins and ends; bytes that are no frame are skipped.

    A frame is believed if another header, or the end of what is there, follows it.
    """
    position = 0
    while position < len(data):
        length = frame_length(data, position)
        if length is None or (
            length
            and length < len(data) - position
            and frame_length(data, position + length) is None
        ):
            position = data.find(b"\xff", position + 1)
            if position < 0:
                return
            continue
        if length == 0 or position + length > len(data):
            return
        yield position, position + length
        position += length


def header(size: int, sample_rate: int, channels: int) -> bytes:
    """The header of an AAC-LC frame of `size` bytes of raw data.

    Args:
        sample_rate: one that ADTS knows.
        channels: 1 to 6, meaning the default layout of so many.
    """
    length = size + HEADER_BYTES
    rate_index = _RATES.index(sample_rate)
    return bytes(
        (
            0xFF,
            0xF1,  # MPEG-4, no CRC
            _LC << 6 | rate_index << 2 | channels >> 2,
            (channels & 3) << 6 | length >> 11,
            length >> 3 & 0xFF,
            (length & 7) << 5 | 0x1F,  # buffer fullness: variable rate
            0xFC,
        )
    )
