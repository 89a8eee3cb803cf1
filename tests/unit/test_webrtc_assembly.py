"""RTP packets to access units: order, gaps, retransmissions, restarts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.webrtc.assembly import MOST_PARTS, AccessUnitAssembler, AssembledUnit


@dataclass
class Packet:
    sequence_number: int
    timestamp: int
    marker: int
    _data: bytes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def packets_of(frames: int, per_frame: int, first_sequence: int = 65_500) -> list[Packet]:
    """Frames of `per_frame` packets each; the sequence number wraps on the way."""
    return [
        Packet(
            (first_sequence + frame * per_frame + part) % 65_536,
            frame * 3000,
            int(part == per_frame - 1),
            fragment(frame, part),
        )
        for frame in range(frames)
        for part in range(per_frame)
    ]


def fragment(frame: int, part: int) -> bytes:
    return (b"" if part else b"\x00\x00\x00\x01") + f"<{frame}.{part}>".encode()


def whole(frame: int, per_frame: int) -> bytes:
    return b"".join(fragment(frame, part) for part in range(per_frame))


def test_a_unit_leaves_with_its_last_packet() -> None:
    """Nothing waits for the next frame's first packet."""
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append)
    for count, packet in enumerate(packets_of(3, 4), start=1):
        assembler.add(packet)
        assert len(units) == count // 4
    assert [unit.data for unit in units] == [whole(frame, 4) for frame in range(3)]
    assert [unit.timestamp for unit in units] == [0, 3000, 6000]


def test_without_the_marker_rule_a_unit_waits_for_the_next() -> None:
    """The stock rule, for senders whose marker can't be trusted."""
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append, release_on_marker=False)
    for packet in packets_of(3, 2):
        assembler.add(packet)
    assert [unit.timestamp for unit in units] == [0, 3000]


@given(seed=st.integers(0, 1 << 20), frames=st.integers(2, 40), per_frame=st.integers(1, 6))
def test_reordering_and_repeats_change_nothing(seed: int, frames: int, per_frame: int) -> None:
    """Packets shuffled within a window, some twice: the same units, once, in order."""
    random = Random(seed)
    packets = packets_of(frames, per_frame)
    shuffled = sorted(
        [*packets[1:], *random.sample(packets, len(packets) // 3)],
        key=lambda p: packets.index(p) + random.uniform(0, 12),
    )
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append)
    for packet in [packets[0], *shuffled]:
        assert assembler.add(packet) == (False, None)
    assert [unit.data for unit in units] == [whole(frame, per_frame) for frame in range(frames)]
    assert not any(unit.damaged for unit in units)


def test_a_late_retransmission_releases_everything_behind_it() -> None:
    """All whole frames leave at once when the gap closes, not one per further packet."""
    units: list[AssembledUnit] = []
    asked: list[list[int]] = []
    clock = Clock()
    assembler = AccessUnitAssembler(units.append, asked.append, clock=clock)
    packets = packets_of(8, 3, first_sequence=0)
    lost = packets.pop(4)
    for packet in packets:
        assembler.add(packet)
        clock.now += 0.01
    assert len(units) == 1
    assert asked, "a gap that lasts is asked for again"
    assert all(numbers == [4] for numbers in asked)
    assembler.add(lost)
    assert [unit.timestamp // 3000 for unit in units] == list(range(8))
    assert not any(unit.damaged for unit in units)


def test_the_last_packet_of_all_can_be_asked_for() -> None:
    """Nothing shows that it is missing: what would be next is asked for, or the gap there is."""
    units: list[AssembledUnit] = []
    asked: list[list[int]] = []
    assembler = AccessUnitAssembler(units.append, asked.append)
    assembler.ask_for_tail()
    assert asked == [], "nothing has come yet"
    packets = packets_of(2, 4)
    for packet in packets[:7]:
        assembler.add(packet)
    assembler.ask_for_tail(2)
    last = packets[7].sequence_number
    assert asked.pop() == [last, last + 1]
    assembler.add(packets[7])
    assert len(units) == 2
    later = packets_of(3, 4)[8:]
    assembler.add(later[2])
    assembler.ask_for_tail()
    assert asked.pop() == [packet.sequence_number for packet in later[:2]]


def test_a_gap_that_stays_is_skipped_with_a_keyframe_request() -> None:
    """After the patience the broken frame is given up, the rest flows, once marked damaged."""
    units: list[AssembledUnit] = []
    clock = Clock()
    assembler = AccessUnitAssembler(units.append, patience_s=0.1, clock=clock)
    packets = packets_of(12, 3, first_sequence=0)
    del packets[4]
    keyframes_asked = 0
    for packet in packets:
        keyframe_needed, _ = assembler.add(packet)
        keyframes_asked += keyframe_needed
        clock.now += 0.011
    assert keyframes_asked == 1
    assert [unit.timestamp // 3000 for unit in units] == [0, *range(2, 12)]
    assert [unit.damaged for unit in units] == [False, True, *[False] * 9]


@pytest.mark.parametrize("lost", [5, 7, 9], ids=["head", "middle", "tail"])
def test_the_rest_of_a_broken_frame_is_not_output(lost: int) -> None:
    """A frame that lost a packet gives nothing; its neighbours are whole."""
    units: list[AssembledUnit] = []
    clock = Clock()
    assembler = AccessUnitAssembler(units.append, patience_s=0.0, clock=clock)
    for packet in [p for p in packets_of(3, 5, first_sequence=0) if p.sequence_number != lost]:
        clock.now += 0.01
        assembler.add(packet)
    assert [unit.data for unit in units] == [whole(0, 5), whole(2, 5)]


def test_a_sender_that_restarts_is_followed() -> None:
    """A sequence number far behind begins anew instead of being taken for a late packet."""
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append)
    for packet in packets_of(2, 2, first_sequence=30_000) + packets_of(2, 2, first_sequence=100):
        assembler.add(packet)
    assert [unit.timestamp // 3000 for unit in units] == [0, 1, 0, 1]


def test_what_is_held_behind_a_gap_is_bounded() -> None:
    """With a patience that never ends the capacity still lets go of the gap."""
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append, patience_s=1e9, capacity=32)
    packets = packets_of(40, 2, first_sequence=0)
    del packets[3]
    for packet in packets:
        assembler.add(packet)
    assert [unit.timestamp // 3000 for unit in units] == [0, *range(2, 40)]


def test_what_was_asked_for_twice_and_comes_twice_is_no_restart() -> None:
    """The first packet of a large picture was lost; its second copy comes behind 200 others."""
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append)
    packets = packets_of(4, 90)
    lost = packets[90]
    for packet in [*packets[:90], *packets[91:300], lost, *packets[300:310], lost, *packets[310:]]:
        assembler.add(packet)
    assert [unit.data for unit in units] == [whole(frame, 90) for frame in range(4)]
    assert not any(unit.damaged for unit in units)


def test_a_picture_without_an_end_fills_no_memory() -> None:
    """It is let go of, and the next one says that something is missing."""
    units: list[AssembledUnit] = []
    assembler = AccessUnitAssembler(units.append)
    for number in range(2 * MOST_PARTS):
        assembler.add(Packet(number % 65_536, 3000, 0, b"part"))
        assert len(assembler._parts) <= MOST_PARTS
    last = 2 * MOST_PARTS
    assembler.add(Packet(last % 65_536, 3000, 1, b"end"))
    assert units == []
    assembler.add(Packet((last + 1) % 65_536, 6000, 1, b"\x00\x00\x00\x01next"))
    assert [(unit.data, unit.damaged) for unit in units] == [(b"\x00\x00\x00\x01next", True)]
