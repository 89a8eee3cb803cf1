"""Transport packets of one PID, read back by the letter of ISO/IEC 13818-1, 2.4.3.2 to 2.4.3.4."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.media.packetizer import Packetizer
from relay.media.pes import PACKET_BYTES

PID = 0x1ABC
FIELDS = [b"", b"\x01\x40", b"\x07\x10" + bytes(6)]
"""Adaptation fields: none, one of flags, one with a PCR."""


class Packet:
    """One transport packet, taken apart."""

    def __init__(self, data: bytes) -> None:
        assert len(data) == PACKET_BYTES
        assert data[0] == 0x47
        self.starts = bool(data[1] & 0x40)
        self.pid = (data[1] & 0x1F) << 8 | data[2]
        self.scrambled = data[3] >> 6
        self.counter = data[3] & 15
        assert data[3] & 0x10, "has no payload"
        begin = 5 + data[4] if data[3] & 0x20 else 4
        self.field = data[4:begin]
        self.payload = data[begin:]

    @property
    def stuffing(self) -> bytes:
        """Of an adaptation field without anything else in it."""
        return self.field[2:] if self.field[1:2] == b"\x00" else b""


def packets(data: bytes) -> list[Packet]:
    """All of `data`, with the header fields that are the same in each."""
    found = [Packet(data[at : at + PACKET_BYTES]) for at in range(0, len(data), PACKET_BYTES)]
    assert {packet.pid for packet in found} == {PID}
    assert {packet.scrambled for packet in found} == {0}
    assert [packet.starts for packet in found] == [True] + [False] * (len(found) - 1)
    return found


@given(st.lists(st.tuples(st.integers(9, 4000), st.sampled_from(FIELDS)), max_size=40))
def test_a_pes_packet_fills_its_packets(pes_packets: list[tuple[int, bytes]]) -> None:
    """Every byte once and in order; stuffing only in the last one, and counters that run on."""
    packetizer, counter = Packetizer(PID), 0
    for size, field in pes_packets:
        pes = bytes(at % 251 for at in range(size))
        first, *more = found = packets(packetizer.pes(pes, field))
        assert b"".join(packet.payload for packet in found) == pes
        assert [packet.counter for packet in found] == [
            (counter + index) % 16 for index in range(len(found))
        ]
        counter += len(found)
        assert first.field[1 : len(field)] == field[1:]
        if more:
            assert first.field == field
        for packet in more[:-1]:
            assert not packet.field
        for packet in more[-1:]:
            assert set(packet.stuffing) <= {0xFF}


def test_a_section_is_filled_up() -> None:
    """Behind its pointer field, with 0xFF; one of more than a packet goes on in the next."""
    packetizer = Packetizer(PID)
    short, long = bytes(range(1, 51)), bytes(range(1, 201))
    (packet,) = packets(packetizer.section(short))
    assert packet.payload == b"\x00" + short + b"\xff" * 133
    assert packet.counter == 0
    first, second = packets(packetizer.section(long))
    assert first.payload + second.payload == b"\x00" + long + b"\xff" * (2 * 184 - 201)
    assert [first.counter, second.counter] == [1, 2]
