"""Opus in MPEG-TS: the control header in front of each packet, and the stream's descriptors.

As FFmpeg and the Opus project's mapping have it ("Encapsulation of Opus in MPEG-TS", draft of
2013): a 16-bit word 0x7FE0 with three flags, then the packet's size in bytes of 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from relay.media.access_unit import ElementaryStream, MediaKind
from relay.media.stream_types import descriptors

STEREO: Final = ElementaryStream(MediaKind.AUDIO, "opus", 0x06, b"\x05\x04Opus\x7f\x02\x80\x02")
"""Private PES with a registration descriptor and an extension that says two channels."""

_STREAMS = {1: (1, 0), 2: (1, 1), 3: (2, 1), 4: (2, 2), 5: (3, 2), 6: (4, 2), 7: (4, 3), 8: (5, 3)}
"""Streams in a packet and how many of them are coupled, by channels (RFC 7845, 5.1.1.2)."""
_MAPPINGS = {
    3: (0, 2, 1),
    4: (0, 1, 2, 3),
    5: (0, 4, 1, 2, 3),
    6: (0, 4, 1, 2, 3, 5),
    7: (0, 4, 1, 2, 3, 5, 6),
    8: (0, 6, 1, 2, 3, 4, 5, 7),
}


def packets(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each whole packet: where its control header begins, where its data begins and ends. Bytes
    that are no packet are skipped.

    A packet is believed if another header, or the end of what is there, follows it.
    """
    position = data.find(0x7F)
    while 0 <= position < len(data):
        span = _span(data, position)
        if span is None or (span[1] < len(data) and not _may_begin(data, span[1])):
            position = data.find(0x7F, position + 1)
            continue
        begin, end = span
        if end > len(data):
            return
        yield position, begin, end
        position = end


def _may_begin(data: bytes, position: int) -> bool:
    """Whether a control header begins there, as far as it is there."""
    return data[position] == 0x7F and (
        position + 1 == len(data) or data[position + 1] & 0xE0 == 0xE0
    )


def _span(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the data of the packet at `position` begins and ends, the latter beyond `data` if not
    all of it is there; None if there is no packet."""
    if not _may_begin(data, position):
        return None
    incomplete = len(data), len(data) + 1
    if len(data) - position < 3:
        return incomplete
    flags = data[position + 1]
    begin, size = position + 2, 0
    while begin < len(data) and data[begin] == 255:
        size += 255
        begin += 1
    if begin >= len(data):
        return incomplete
    size += data[begin]
    begin += 1
    begin += 2 * bool(flags & 0x10) + 2 * bool(flags & 0x08)  # trim at start, at end
    if flags & 0x04:  # control extension
        if begin >= len(data):
            return incomplete
        begin += 1 + data[begin]
    return (begin, begin + size) if size else None


def control_header(size: int) -> bytes:
    """What goes in front of a packet of `size` bytes."""
    return b"\x7f\xe0" + b"\xff" * (size // 255) + bytes((size % 255,))


def channels(stream: ElementaryStream) -> int:
    """How many the stream's descriptors say; 2 if they say nothing of use."""
    for tag, body in descriptors(stream.descriptors):
        if tag == 0x7F and len(body) >= 2 and body[0] == 0x80 and 1 <= body[1] <= 8:
            return body[1]
    return 2


def identification_header(count: int) -> bytes:
    """An OpusHead (RFC 7845, 5.1) for `count` channels, without pre-skip: timestamps in
    MPEG-TS leave it out already."""
    family = 0 if count <= 2 else 1
    head = b"OpusHead\x01" + bytes((count,)) + b"\0\0" + (48_000).to_bytes(4, "little") + b"\0\0"
    head += bytes((family,))
    if family:
        head += bytes((*_STREAMS[count], *_MAPPINGS[count]))
    return head
