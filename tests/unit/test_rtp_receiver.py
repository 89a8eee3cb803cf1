"""RTP packets as they come off the wire."""

from __future__ import annotations

import contextlib

import pytest
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from relay.webrtc.rtp_receiver import parse

SLICE = b"\x41\x9a\x84"


def test_every_field_is_read() -> None:
    """Also behind contributing sources, an extension and padding."""
    packet = RtpPacket(96, 1, 0xFFFE, 0xFFFFFFF0, 0x80000001, SLICE)
    packet.csrc = [1, 2, 3]
    packet.padding_size = 7
    bare = packet.serialize()
    head, rest = bare[: 12 + 12], bare[12 + 12 :]
    extended = bytes([head[0] | 0x10]) + head[1:] + b"\xbe\xde\x00\x01\x10\x30\x00\x00" + rest
    for data in (bare, extended):
        found = parse(data)
        assert found._data == b"\x00\x00\x00\x01" + SLICE
        assert (found.sequence_number, found.timestamp) == (0xFFFE, 0xFFFFFFF0)
        assert (found.ssrc, bool(found.marker)) == (0x80000001, True)


def test_a_packet_of_padding_alone_adds_nothing() -> None:
    packet = RtpPacket(96, 0, 5, 6, 7, b"")
    packet.padding_size = 4
    assert parse(packet.serialize())._data == b""


@pytest.mark.parametrize(
    "data",
    [
        RtpPacket(96, 1, 1, 1, 1, b"\x00\x01").serialize(),
        bytes([0x8F]) + RtpPacket(96, 1, 1, 1, 1, SLICE).serialize()[1:],
        bytes([0x90]) + RtpPacket(96, 1, 1, 1, 1, b"\xbe\xde\xff\xff").serialize()[1:],
        bytes([0xA0]) + RtpPacket(96, 1, 1, 1, 1, SLICE + b"\xff").serialize()[1:],
    ],
    ids=["payload", "sources", "extension", "padding"],
)
def test_lengths_that_contradict_one_another_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"RTP packet|mode 1"):
        parse(data)


@given(st.binary(min_size=12, max_size=40))
def test_anything_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(data)
