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
    """Each whole packet: where its control header begins, where its data begins and ends."""
    position = 0
    while position + 3 <= len(data):
        word = data[position] << 8 | data[position + 1]
        if word & 0xFFE0 != 0x7FE0:
            return
        begin, size = position + 2, 0
        while begin < len(data) and data[begin] == 255:
            size += 255
            begin += 1
        if begin >= len(data):
            return
        size += data[begin]
        begin += 1
        begin += 2 * bool(word & 0x10) + 2 * bool(word & 0x08)  # trim at start, at end
        if word & 0x04 and begin < len(data):  # control extension
            begin += 1 + data[begin]
        if size == 0 or begin + size > len(data):
            return
        yield position, begin, begin + size
        position = begin + size


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
