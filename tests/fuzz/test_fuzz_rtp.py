"""RTP packets of any kind, in any order: units in order, and no more held than the bound."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from relay.webrtc.assembly import AccessUnitAssembler, AssembledUnit
from relay.webrtc.rtp_header import SEQUENCE_MODULUS
from tests.fuzz.examples import examples

CAPACITY = 64


@dataclass
class Packet:
    sequence_number: int
    timestamp: int
    marker: int
    _data: bytes


payloads = st.binary(max_size=6) | st.sampled_from([b"", b"\x00\x00\x00\x01\x65", b"\x00\x00"])
anywhere = st.builds(
    Packet,
    st.integers(0, SEQUENCE_MODULUS - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 1),
    payloads,
)
steps = st.lists(
    st.tuples(
        # Mostly near the last one: repeats, gaps, late ones; sometimes elsewhere altogether.
        st.integers(-120, 300) | st.integers(0, SEQUENCE_MODULUS),
        st.sampled_from([0, 0, 3000, -3000, 2**31]),
        st.integers(0, 1),
        payloads,
        st.sampled_from([0.0, 0.001, 0.04, 1.0]),
    ),
    max_size=200,
)


@examples(150)
@given(first=anywhere, steps=steps, on_marker=st.booleans())
def test_any_packets(
    first: Packet, steps: list[tuple[int, int, int, bytes, float]], on_marker: bool
) -> None:
    """Nothing raises; what is held stays in its bounds; gaps that are asked for are short."""
    now = 0.0
    units: list[AssembledUnit] = []
    asked: list[list[int]] = []
    assembler = AccessUnitAssembler(
        units.append,
        asked.append,
        capacity=CAPACITY,
        clock=lambda: now,
        release_on_marker=on_marker,
    )
    packet = first
    given_bytes = 0
    assembler.add(first)
    for jump, stamp_jump, marker, data, pause_s in steps:
        now += pause_s
        packet = Packet(
            (packet.sequence_number + jump) % SEQUENCE_MODULUS,
            (packet.timestamp + stamp_jump) % 2**32,
            marker,
            data,
        )
        keyframe_needed, nothing = assembler.add(packet)
        assert isinstance(keyframe_needed, bool)
        assert nothing is None
        given_bytes += len(data)
        assert len(assembler._held) <= CAPACITY + 1
    assert all(0 < len(missing) <= 100 for missing in asked)
    assert all(unit.data for unit in units)
    assert sum(len(unit.data) for unit in units) <= given_bytes + len(first._data)
