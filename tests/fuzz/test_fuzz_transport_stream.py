"""A transport stream with anything done to it: pictures or none, errors of ours or none."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from relay.errors import MediaError
from relay.media.access_unit import DecodedFrame
from relay.media.stream_decoder import TrickleStreamDecoder
from tests.fuzz.examples import examples
from tests.integration.media_samples import sample

PACKET = 188
WINDOW = 120 * PACKET
"""Of a sample: enough for its tables, a keyframe and some pictures."""

names = st.sampled_from(["baseline", "high_b_pyramid", "hevc", "mpeg2video", "mp3"])
damages = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "double", "insert", "zero", "swap"]),
        st.integers(0, WINDOW - 1),
        st.integers(1, 400),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=12,
)


def damaged(data: bytes, damage: list[tuple[str, int, int, bytes]]) -> bytes:
    """`data` after each damage: kind, place, size, bytes."""
    result = bytearray(data)
    for kind, at, size, raw in damage:
        match kind:
            case "set":
                result[at : at + len(raw)] = raw
            case "cut":
                del result[at : at + size]
            case "double":
                result[at:at] = result[at : at + size]
            case "insert":
                result[at:at] = raw * size
            case "zero":
                result[at : at + size] = bytes(size)
            case "swap":
                start = at // PACKET * PACKET
                first, second = result[start : start + PACKET], result[start + PACKET :][:PACKET]
                result[start : start + 2 * PACKET] = second + first
    return bytes(result)


def watch(data: bytes, chunk: int) -> int:
    """Decode two segments of the same bytes; how many items came out."""
    decoder = TrickleStreamDecoder(64, 48)
    items = 0
    with contextlib.closing(decoder), contextlib.suppress(MediaError):
        for _ in range(2):
            for at in range(0, len(data), chunk):
                items += shown(decoder.feed(data[at : at + chunk], 0.0))
            items += shown(decoder.end_segment(0.0))
        items += shown(list(decoder.flush()))
    return items


def shown(items: list[object]) -> int:
    for item in items:
        if isinstance(item, DecodedFrame):
            assert (item.frame.width, item.frame.height) == (64, 48)
    return len(items)


@examples(40)
@given(name=names, damage=damages, chunk=st.sampled_from([188, 1000, 7, 65536]))
def test_a_damaged_stream(name: str, damage: list[tuple[str, int, int, bytes]], chunk: int) -> None:
    """Tables, headers and pictures of real streams, damaged."""
    data = damaged(sample(name)[:WINDOW], damage)
    items = watch(data, chunk)
    # No more comes out than a packet could have begun.
    assert items <= 2 * (len(data) // 7 + 2)


@examples(60)
@given(data=st.binary(max_size=2000), aligned=st.booleans(), chunk=st.sampled_from([188, 50]))
def test_noise(data: bytes, aligned: bool, chunk: int) -> None:
    """Bytes that were never a stream, with sync bytes in the right places or not."""
    if aligned:
        data = b"".join(b"\x47" + data[at : at + 187] for at in range(0, len(data), 187))
    assert watch(data, chunk) <= 40
