"""PES packets put together: where they end, and what is lost."""

from __future__ import annotations

import pytest

from relay.media.pes import DemuxerStats, Pes, PesAssembler, has_stuffing, parse_pes
from tests.unit.media.transport import VIDEO_PID, PacketWriter, pes

PCR = b"\x00" * 6


class Reader:
    """Feeds packets to an assembler the way the demuxer does."""

    def __init__(self) -> None:
        self.stats = DemuxerStats()
        self.assembler = PesAssembler(VIDEO_PID, self.stats)

    def feed(self, *packets: bytes) -> list[Pes]:
        data, position, done = b"".join(packets), 0, []
        while position < len(data):
            self.assembler.push(data, position, done)
            position = self.assembler.run(data, position + 188)
        return done

    def end(self, *, truncated: bool = False) -> list[Pes]:
        done: list[Pes] = []
        self.assembler.boundary(done, truncated=truncated)
        return done


def packets(data: bytes) -> list[bytes]:
    return [data[i : i + 188] for i in range(0, len(data), 188)]


@pytest.mark.parametrize(
    ("field", "stuffed"),
    [
        (b"", True),  # length 0: a single stuffing byte
        (b"\x00", True),  # flags with nothing in them: two stuffing bytes
        (b"\x40", False),  # random access, nothing to spare
        (b"\x40\xff", True),
        (b"\x10" + PCR, False),
        (b"\x50" + PCR + b"\xff", True),
        (b"\x18" + PCR + PCR, False),
        (b"\x1c" + PCR + PCR + b"\x05", False),
        (b"\x1c" + PCR + PCR + b"\x05\xff", True),
        (b"\x02\x03abc", False),
        (b"\x02\x03abc\xff", True),
        (b"\x12" + PCR + b"\x02ab", False),
        (b"\x01\x01\x0f", False),
        (b"\x03\x01a\x02\x0f\x0f", False),
        (b"\x03\x01a\x02\x0f\x0f\xff", True),
        (b"\x02\x50a", False),  # private data longer than the field
        (b"\x10\x00", False),  # PCR cut short
        (b"\x02", False),
    ],
)
def test_stuffing_is_what_no_field_needs(field: bytes, stuffed: bool) -> None:
    """PCR, OPCR, splice countdown, private data and extension are counted; the rest is stuffing."""
    assert has_stuffing(bytes([len(field)]) + field + b"\xff" * 300, 0) is stuffed


def test_an_unbounded_pes_ends_with_the_packet_that_is_stuffed() -> None:
    """It comes out before anything of the next one is there."""
    reader, writer = Reader(), PacketWriter()
    data = packets(writer.pes(VIDEO_PID, pes(b"a" * 1000, 90_000)))
    assert reader.feed(*data[:-1]) == []
    (unit,) = reader.feed(data[-1])
    assert (unit.payload, unit.pts, unit.dts, unit.damaged) == (b"a" * 1000, 90_000, None, False)
    assert reader.stats.early_ends == 1
    assert reader.end() == []


def test_an_unbounded_pes_that_fills_its_last_packet_ends_with_the_next() -> None:
    """Without stuffing there is nothing to see; the next start, or the segment's end, tells."""
    reader, writer = Reader(), PacketWriter()
    full = pes(b"a" * (184 * 3 - 14), 1)
    assert reader.feed(writer.pes(VIDEO_PID, full)) == []
    first, second = reader.feed(writer.pes(VIDEO_PID, pes(b"b" * 20, 2)))
    assert (first.payload, second.payload) == (full[14:], b"b" * 20)
    assert reader.feed(writer.pes(VIDEO_PID, full)) == []
    assert [unit.payload for unit in reader.end()] == [full[14:]]
    assert reader.stats.continuity_errors == 0


@pytest.mark.parametrize("size", [1, 100, 170, 171, 184 * 2 - 14, 184 * 4 - 14, 5000])
def test_a_bounded_pes_ends_with_its_last_byte(size: int) -> None:
    """At every fill of the last packet, full ones included."""
    reader, writer = Reader(), PacketWriter()
    data = packets(writer.pes(VIDEO_PID, pes(b"x" * size, 5, bounded=True, dts=3)))
    assert reader.feed(*data[:-1]) == []
    (unit,) = reader.feed(data[-1])
    assert (unit.payload, unit.pts, unit.dts, unit.damaged) == (b"x" * size, 5, 3, False)


def test_stuffing_does_not_end_a_bounded_pes() -> None:
    """Its length counts, whatever its packets hold in the middle."""
    reader, writer = Reader(), PacketWriter()
    data = pes(b"a" * 400, 1, bounded=True)
    stream = writer.stuffed(VIDEO_PID, data[:100], starts=True) + writer.stuffed(
        VIDEO_PID, data[100:250]
    )
    assert reader.feed(stream) == []
    (unit,) = reader.feed(writer.stuffed(VIDEO_PID, data[250:414][:164] + b""))
    assert unit.payload == b"a" * 400
    assert not unit.damaged


def test_a_stream_that_stuffs_in_mid_pes_is_not_ended_early_again() -> None:
    """The first such PES is lost, and said so; the next come out whole."""
    reader, writer = Reader(), PacketWriter()

    def stuffed_in_the_middle(fill: bytes, pts: int) -> bytes:
        data = pes(fill * 300, pts)
        return writer.stuffed(VIDEO_PID, data[:100], starts=True) + writer.pes(
            VIDEO_PID, data[100:]
        ).replace(b"\x47\x41", b"\x47\x01", 1)

    cut = reader.feed(stuffed_in_the_middle(b"a", 1))
    assert len(cut) == 1
    assert reader.stats.early_end_misfires == 1
    whole = reader.feed(stuffed_in_the_middle(b"b", 2), stuffed_in_the_middle(b"c", 3))
    whole += reader.end()
    assert [unit.payload for unit in whole] == [b"b" * 300, b"c" * 300]
    assert whole[0].after_loss
    assert not whole[1].after_loss


def test_a_lost_start_is_not_taken_for_stuffing_in_mid_pes() -> None:
    """The continuity counter tells the two apart: early release stays on."""
    reader, writer = Reader(), PacketWriter()
    assert len(reader.feed(writer.pes(VIDEO_PID, pes(b"a" * 300, 1)))) == 1
    lost = packets(writer.pes(VIDEO_PID, pes(b"b" * 300, 2)))
    assert reader.feed(*lost[1:]) == []
    (unit,) = reader.feed(writer.pes(VIDEO_PID, pes(b"c" * 300, 3)))
    assert unit.after_loss
    assert reader.stats.early_end_misfires == 0
    assert reader.stats.continuity_errors == 1


@pytest.mark.parametrize("bounded", [True, False])
def test_a_lost_packet_damages_its_pes_and_no_other(bounded: bool) -> None:
    """The counter shows it; what comes after is whole again."""
    reader, writer = Reader(), PacketWriter()
    data = packets(writer.pes(VIDEO_PID, pes(b"a" * 1000, 1, bounded=bounded)))
    del data[2]
    units = reader.feed(*data, writer.pes(VIDEO_PID, pes(b"b" * 300, 2, bounded=bounded)))
    assert [(unit.damaged, unit.pts) for unit in units] == [(True, 1), (False, 2)]
    assert reader.stats.continuity_errors == 1


def test_a_pes_shorter_than_its_length_is_damaged() -> None:
    """As after a segment that was cut off between two packets."""
    reader, writer = Reader(), PacketWriter()
    data = packets(writer.pes(VIDEO_PID, pes(b"a" * 1000, 1, bounded=True)))
    assert reader.feed(*data[:-1]) == []
    (unit,) = reader.end()
    assert unit.damaged


def test_an_unbounded_pes_cut_off_in_a_packet_is_damaged() -> None:
    """Nothing but the partial packet tells that its end is missing."""
    for truncated in (False, True):
        reader, writer = Reader(), PacketWriter()
        assert reader.feed(writer.pes(VIDEO_PID, pes(b"a" * (184 * 3 - 14), 1))) == []
        (unit,) = reader.end(truncated=truncated)
        assert unit.damaged is truncated


def test_counters_may_start_anew_after_a_boundary() -> None:
    """A segment muxed on its own is no loss."""
    reader = Reader()
    for pts in (1, 2, 3):
        (unit,) = reader.feed(PacketWriter().pes(VIDEO_PID, pes(b"a" * 1000, pts)))
        assert not unit.after_loss
        reader.end()
    assert reader.stats.continuity_errors == 0


def test_a_repeated_packet_is_taken_once() -> None:
    """A packet may be sent twice (2.4.3.3); 16 lost ones look alike but for their payload."""
    reader, writer = Reader(), PacketWriter()
    body = bytes(n & 0xFF for n in range(1000))
    data = packets(writer.pes(VIDEO_PID, pes(body, 1, bounded=True)))
    (unit,) = reader.feed(*data[:3], data[2], *data[3:])
    assert (unit.payload, unit.damaged) == (body, False)
    assert reader.stats.duplicate_packets == 1
    long = packets(writer.pes(VIDEO_PID, pes(body * 8, 2)))
    del long[10:26]
    (unit,) = reader.feed(*long)
    assert not unit.damaged  # what 16 lost packets leave is a counter that fits
    long = packets(writer.pes(VIDEO_PID, pes(body * 8, 2)))
    del long[10:25]
    (unit,) = reader.feed(*long)
    assert unit.damaged


def test_an_announced_discontinuity_is_no_loss() -> None:
    """discontinuity_indicator (2.4.3.5) allows the counter to jump."""
    reader, writer = Reader(), PacketWriter()
    reader.feed(writer.pes(VIDEO_PID, pes(b"a" * 300, 1)))
    data = pes(b"b" * 20, 2)
    adaptation = b"\x80" + b"\xff" * (183 - 1 - len(data))
    (unit,) = reader.feed(
        writer.packet(VIDEO_PID, data, starts=True, adaptation=adaptation, counter=9)
    )
    assert not unit.after_loss
    assert reader.stats.continuity_errors == 0


def test_scrambled_packets_are_a_loss() -> None:
    """Their payload is of no use, and the PES they belong to is damaged."""
    reader, writer = Reader(), PacketWriter()
    data = packets(writer.pes(VIDEO_PID, pes(b"a" * 1000, 1)))
    data[2] = data[2][:3] + bytes([data[2][3] | 0x80]) + data[2][4:]
    (unit,) = reader.feed(*data)
    assert unit.damaged
    assert reader.stats.scrambled_packets == 1
    assert reader.stats.continuity_errors == 0


def test_a_pes_without_end_is_given_up() -> None:
    """Memory stays bounded, and the stream goes on with the next start."""
    reader, writer = Reader(), PacketWriter()
    start = writer.packet(VIDEO_PID, pes(b"a" * 170, 1), starts=True)
    assert reader.feed(start) == []
    for _ in range(30):
        filler = b"".join(writer.packet(VIDEO_PID, b"z" * 184) for _ in range(1000))
        assert reader.feed(filler) == []
    assert reader.stats.dropped_units == {"too_large": 1}
    (unit,) = reader.feed(writer.pes(VIDEO_PID, pes(b"b" * 300, 2)))
    assert unit.after_loss


def test_a_header_over_two_packets_is_read() -> None:
    """Even the six bytes that hold the length."""
    reader, writer = Reader(), PacketWriter()
    data = pes(b"a" * 300, 7, bounded=True)
    stream = writer.stuffed(VIDEO_PID, data[:3], starts=True)
    stream += writer.stuffed(VIDEO_PID, data[3:11])
    rest = writer.pes(VIDEO_PID, data[11:])
    (unit,) = reader.feed(stream + rest.replace(b"\x47\x41", b"\x47\x01", 1))
    assert (unit.payload, unit.pts, unit.damaged) == (b"a" * 300, 7, False)


def test_a_length_that_comes_with_the_second_packet_is_read() -> None:
    """Also when the packets after it are full and plain."""
    reader, writer = Reader(), PacketWriter()
    data = pes(b"a" * (4 * 184 - 14 + 3), 7, bounded=True)
    stream = writer.stuffed(VIDEO_PID, data[:3], starts=True)
    stream += b"".join(writer.packet(VIDEO_PID, data[n : n + 184]) for n in range(3, 739, 184))
    (unit,) = reader.feed(stream)
    assert unit.payload == data[14:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad_pes_header"),
        (b"\x00\x00\x02" + b"\x80" * 20, "bad_pes_header"),
        (b"\x00\x00\x01\xe0\x00\x00\x00\x80\x05" + b"\x21" * 9, "bad_pes_header"),
        (b"\x00\x00\x01\xe0\x00\x00\x80\x80\xff" + b"\x21" * 9, "bad_pes_header"),
        (b"\x00\x00\x01\xbe\x00\x00" + b"\xff" * 20, "no_media"),
        (b"\x00\x00\x01\xe0\x00\x00\x90\x00\x00data", "scrambled"),
    ],
)
def test_what_is_no_media_is_dropped_with_a_reason(data: bytes, reason: str) -> None:
    """Bad headers, padding, scrambled payloads."""
    assert parse_pes(data, damaged=False, after_loss=False) == reason


def test_timestamps_of_33_bits_are_read() -> None:
    """The highest bit included."""
    top = (1 << 33) - 1
    read = parse_pes(pes(b"x", top, dts=1 << 32), damaged=False, after_loss=False)
    assert isinstance(read, Pes)
    assert (read.pts, read.dts) == (top, 1 << 32)
