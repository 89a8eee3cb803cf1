"""Sections, tables, and which streams of which programme they name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.media.access_unit import ElementaryStream, MediaKind
from relay.media.programmes import ProgrammeSelector
from relay.media.psi import (
    PAT_PID,
    PmtEntry,
    SectionAssembler,
    build_pat,
    build_pmt,
    build_section,
    crc32_mpeg2,
    parse_pat,
    parse_pmt,
    parse_section,
)
from relay.media.stream_types import elementary_stream, mpeg_audio_codec
from tests.unit.media.transport import AAC, H264, OPUS

VIDEO = (0x100, H264)
AUDIO = (0x101, AAC)


def pat(programmes: dict[int, int], version: int = 0) -> bytes:
    return build_pat(1, programmes, version)


def test_crc_is_the_one_of_mpeg2() -> None:
    """The check value of CRC-32/MPEG-2, and zero over data with its own CRC behind it."""
    assert crc32_mpeg2(b"123456789") == 0x0376E6E7
    assert crc32_mpeg2(build_section(2, 1, 0, b"body")) == 0


@given(
    sections=st.lists(st.binary(min_size=1, max_size=900), min_size=1, max_size=4),
    data=st.data(),
)
def test_sections_are_put_together_from_any_packets(
    sections: list[bytes], data: st.DataObject
) -> None:
    """Several sections, over several payloads, with stuffing at the end, come out whole."""
    whole = [build_section(2, n, 0, body) for n, body in enumerate(sections)]
    stream = b"".join(whole)
    assembler = SectionAssembler()
    found = assembler.feed(b"\x00" + stream[:150], starts=True)
    position = 150
    while position < len(stream):
        size = data.draw(st.integers(1, 184))
        found += assembler.feed(stream[position : position + size], starts=False)
        position += size
    found += assembler.feed(b"\xff" * 20, starts=False)
    assert found == whole


def test_a_section_that_ends_behind_the_pointer_is_kept() -> None:
    """The payload that starts a section may end the one before."""
    first, second = build_section(2, 1, 0, b"a" * 200), build_section(2, 2, 0, b"b")
    assembler = SectionAssembler()
    assert assembler.feed(b"\x00" + first[:183], starts=True) == []
    rest = first[183:]
    payload = bytes([len(rest)]) + rest + second
    assert assembler.feed(payload, starts=True) == [first, second]


@given(st.lists(st.tuples(st.binary(max_size=184), st.booleans()), max_size=60))
def test_garbage_never_grows_the_assembler(payloads: list[tuple[bytes, bool]]) -> None:
    """Whatever comes, no more than a section is kept."""
    assembler = SectionAssembler()
    for payload, starts in payloads:
        assembler.feed(payload, starts)
        assert len(assembler._data) < 4096 + 184


def test_tables_written_are_tables_read() -> None:
    """Stream types and descriptors come back verbatim."""
    section = parse_section(build_pmt(7, 0x100, [VIDEO, (0x101, OPUS)], version=3))
    assert section is not None
    assert (section.extension, section.version, section.current) == (7, 3, True)
    programme = parse_pmt(section.body)
    assert programme is not None
    assert [(e.pid, elementary_stream(e)) for e in programme.streams] == [VIDEO, (0x101, OPUS)]
    read = parse_section(pat({1: 0x1000, 2: 0x1001}))
    assert read is not None
    assert parse_pat(read.body) == {1: 0x1000, 2: 0x1001}


@pytest.mark.parametrize("position", [0, 1, 5, 9, -1])
def test_a_section_with_a_wrong_bit_is_refused(position: int) -> None:
    """Its CRC doesn't fit, and the selector counts it."""
    section = bytearray(build_pat(1, {1: 0x1000}))
    section[position] ^= 0x10
    assert parse_section(bytes(section)) is None
    selector = ProgrammeSelector()
    assert not selector.take(PAT_PID, bytes(section))


@given(st.binary(max_size=300))
def test_table_parsers_never_raise(data: bytes) -> None:
    """Lengths that don't add up give None or what there is."""
    parse_section(data)
    parse_pat(data)
    parse_pmt(data)
    for entry in [PmtEntry(0x100, data[0] if data else 6, data[1:])]:
        elementary_stream(entry, data)
    mpeg_audio_codec(data)


@pytest.mark.parametrize(
    ("stream_type", "descriptors", "kind", "codec"),
    [
        (0x1B, b"", MediaKind.VIDEO, "h264"),
        (0x24, b"", MediaKind.VIDEO, "hevc"),
        (0x02, b"", MediaKind.VIDEO, "mpeg2video"),
        (0x0F, b"", MediaKind.AUDIO, "aac"),
        (0x11, b"", MediaKind.AUDIO, "aac_latm"),
        (0x04, b"", MediaKind.AUDIO, "mp2"),
        (0x81, b"\x05\x04AC-3", MediaKind.AUDIO, "ac3"),
        (0x06, b"\x05\x04Opus\x7f\x02\x80\x02", MediaKind.AUDIO, "opus"),
        (0x06, b"\x6a\x01\x00", MediaKind.AUDIO, "ac3"),
        (0x06, b"\x0a\x04eng\x00\x7a\x01\x00", MediaKind.AUDIO, "eac3"),
        (0x06, b"\x05\x04HEVC", MediaKind.VIDEO, "hevc"),
        (0x06, b"\x59\x08", MediaKind.OTHER, "unknown"),
        (0x15, b"", MediaKind.OTHER, "unknown"),
        (0x06, b"", MediaKind.OTHER, "unknown"),
    ],
)
def test_codecs_have_ffmpegs_names(
    stream_type: int, descriptors: bytes, kind: MediaKind, codec: str
) -> None:
    """By stream type, registration or DVB descriptor; both kept as they came."""
    stream = elementary_stream(PmtEntry(0x100, stream_type, descriptors))
    assert stream == ElementaryStream(kind, codec, stream_type, descriptors)


def test_blu_ray_stream_types_need_their_registration() -> None:
    """0x83 is TrueHD only in a programme registered as HDMV."""
    entry = PmtEntry(0x100, 0x83, b"")
    assert elementary_stream(entry).codec == "unknown"
    assert elementary_stream(entry, b"\x05\x04HDMV").codec == "truehd"


def test_mpeg_audio_layers() -> None:
    """Stream types 3 and 4 stand for any layer; the frame header says which."""
    assert mpeg_audio_codec(b"\xff\xfd\x94") == "mp2"
    assert mpeg_audio_codec(b"\xff\xfb\x94") == "mp3"
    assert mpeg_audio_codec(b"\x00\xfb") is None


def test_the_first_programme_with_video_is_taken_and_kept() -> None:
    """An audio programme seen first gives way to video; video does not give way to more video."""
    selector = ProgrammeSelector()
    assert selector.take(PAT_PID, pat({1: 0x1000, 2: 0x1001, 3: 0x1002}))
    assert selector.table_pids == {0x1000, 0x1001, 0x1002}
    assert selector.take(0x1000, build_pmt(1, 0x201, [(0x201, AAC)]))
    assert (selector.video, selector.audio) == (None, (0x201, AAC))
    assert selector.take(0x1002, build_pmt(3, 0x300, [(0x300, H264)]))
    assert (selector.video, selector.audio) == ((0x300, H264), None)
    assert not selector.take(0x1001, build_pmt(2, 0x100, [VIDEO, AUDIO]))
    assert selector.video == (0x300, H264)
    assert selector.take(PAT_PID, pat({1: 0x1000, 2: 0x1001}, version=1))
    assert (selector.video, selector.audio) == (VIDEO, AUDIO)
    assert selector.take(PAT_PID, pat({1: 0x1000}, version=2))
    assert (selector.video, selector.audio) == (None, (0x201, AAC))


def test_a_pmt_is_obeyed_only_where_the_pat_says() -> None:
    """Private sections, other programmes and tables on the wrong PID change nothing."""
    selector = ProgrammeSelector()
    selector.take(PAT_PID, pat({1: 0x1000}))
    pmt = build_pmt(1, 0x100, [VIDEO])
    assert not selector.take(0x1001, pmt)
    assert not selector.take(PAT_PID, pmt)
    assert not selector.take(0x1000, build_pmt(2, 0x100, [VIDEO]))
    assert not selector.take(0x1000, build_section(0x40, 1, 0, b"private data here"))
    assert selector.video is None
    assert selector.take(0x1000, pmt)
    assert not selector.take(0x1000, pmt)
    assert selector.take(0x1000, build_pmt(1, 0x100, [VIDEO, AUDIO], version=1))
    assert selector.audio == AUDIO


def test_a_pat_in_several_sections_waits_for_all_of_them() -> None:
    """Only when the last part is there do its programmes count."""
    parts = [build_section(0, 1, 0, bytes([0, n, 0xE0 | 0x10, n])) for n in (1, 2)]
    numbered = []
    for number, part in enumerate(parts):
        body = part[:6] + bytes([number, 1]) + part[8:-4]
        numbered.append(body + crc32_mpeg2(body).to_bytes(4, "big"))
    selector = ProgrammeSelector()
    assert not selector.take(PAT_PID, numbered[0])
    assert selector.take(PAT_PID, numbered[1])
    assert selector.table_pids == {0x1001, 0x1002}


def test_streams_on_the_pids_of_tables_are_not_taken() -> None:
    """A PMT that names its own PID, the PAT's or the null PID can't make us deaf to tables."""
    selector = ProgrammeSelector()
    selector.take(PAT_PID, pat({1: 0x1000}))
    selector.take(0x1000, build_pmt(1, 0x1000, [(0x1000, H264), (0, H264), (0x1FFF, AAC)]))
    assert (selector.video, selector.audio) == (None, None)
