"""H.264 in RTP: what is packetized comes out the same, here and in aiortc, whose peers read it."""

from __future__ import annotations

import contextlib

import pytest
from aiortc.codecs.h264 import h264_depayload
from hypothesis import given
from hypothesis import strategies as st

from relay.media.annexb import START_CODE
from relay.webrtc.h264_payload import FU_A, STAP_A, depacketize, packetize

LIMIT = 100


@st.composite
def nal_units(draw: st.DrawFn) -> bytes:
    """Of any size, without anything that looks like a start code in it."""
    kind = draw(st.sampled_from([1, 5, 6, 7, 8, 9]))
    importance = draw(st.sampled_from([0x00, 0x20, 0x60]))
    length = draw(st.integers(1, 5 * LIMIT))
    body = bytes(1 + (index * 7) % 255 for index in range(length))
    return bytes([importance | kind]) + body


@given(st.lists(nal_units(), min_size=1, max_size=8))
def test_what_was_packetized_is_depacketized(nals: list[bytes]) -> None:
    """To the byte, and no payload is larger than allowed."""
    data = b"".join(START_CODE + nal for nal in nals)
    payloads = packetize(data, LIMIT)
    assert max(map(len, payloads)) <= LIMIT
    assert b"".join(map(depacketize, payloads)) == data
    assert b"".join(map(h264_depayload, payloads)) == data


def test_short_start_codes_are_start_codes() -> None:
    payloads = packetize(b"\x00\x00\x01\x67ab\x00\x00\x01\x68cd\x00\x00\x00\x01\x65ef", LIMIT)
    (payload,) = payloads
    assert depacketize(payload) == b"".join(START_CODE + one for one in (b"gab", b"hcd", b"eef"))


def test_parts_are_of_one_size_but_for_the_last() -> None:
    """So that the kernel can cut them from one datagram."""
    nal = b"\x65" + bytes(range(1, 251))
    payloads = packetize(START_CODE + nal, LIMIT)
    sizes = [len(payload) for payload in payloads]
    assert len(sizes) == 3
    assert len(set(sizes[:-1])) == 1
    assert sizes[-1] <= sizes[0]
    assert all(payload[0] & 0x1F == FU_A for payload in payloads)


def test_an_aggregate_is_as_important_as_its_most_important_unit() -> None:
    (payload,) = packetize(START_CODE + b"\x06a" + START_CODE + b"\x67b", LIMIT)
    assert payload[0] == 0x60 | STAP_A


def test_nothing_makes_no_packets() -> None:
    assert packetize(b"", LIMIT) == []
    assert packetize(b"no start code", LIMIT) == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x65",
        bytes([STAP_A]),
        bytes([STAP_A, 0]),
        bytes([STAP_A, 0, 9]) + b"cut off",
        bytes([0, 1]),
        bytes([29, 1, 2]),
    ],
)
def test_what_is_cut_off_or_of_another_kind_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"H\.264|cut off|mode 1"):
        depacketize(payload)


@given(st.lists(st.sampled_from([b"", b"\x00", b"\x01", b"\x00\x00\x01", b"\x65", b"x" * 150])))
def test_any_bytes_make_payloads_that_can_be_read(pieces: list[bytes]) -> None:
    """Also of units without a body, or without even a header."""
    for payload in packetize(b"".join(pieces), LIMIT):
        assert 2 <= len(payload) <= LIMIT
        with contextlib.suppress(ValueError):  # of a type that RTP has no place for
            depacketize(payload)


@given(st.binary(max_size=60))
def test_anything_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        depacketize(payload)
