"""NAL units, access unit boundaries and parameter sets of H.264."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import MediaError
from relay.media import h264, hevc
from relay.media.bits import BitReader, EndOfBits, unescape_rbsp
from relay.media.h264_sps import parse_sps
from tests.unit.media.h264_bits import Bits, slice_of, sps
from tests.unit.media.transport import DELIMITER, IDR_SLICE, P_SLICE, SPS_PPS, idr, picture

SEI_RECOVERY = b"\x00\x00\x01\x06\x06\x01\xc4\x80"
SEI_OTHER = b"\x00\x00\x01\x06\x05\x02ab\x80"
NEXT_SLICE = b"\x00\x00\x01\x41\x4a\x24"  # first_mb_in_slice is not 0


def test_finds_every_nal_unit_behind_long_and_short_start_codes() -> None:
    """Positions and types come out for 3 and 4 byte start codes alike."""
    data = DELIMITER + b"\x00\x00\x01\x67abc\x00\x00\x00\x01\x68d" + IDR_SLICE
    nals = list(h264.nal_units(data))
    assert [nal.type for nal in nals] == [9, 7, 8, 5]
    assert [nal.start for nal in nals] == [0, 6, 13, 19]
    assert h264.nal_bytes(data, nals[1]) == b"\x67abc"


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x00\x01", b"\x00\x00\x00", b"garbage", b"\x00\x00\x01\x65"]
)
def test_fragments_are_read_without_error(data: bytes) -> None:
    """Too short, empty or no Annex B at all: no error, and nothing found that isn't there."""
    assert h264.split_access_units(data) == [data]
    assert not h264.is_keyframe(data) or data.endswith(b"\x65")


def test_tells_idr_slice_and_recovery_point_apart() -> None:
    """A recovery point is a keyframe, but not an IDR; other messages are neither."""
    assert h264.is_idr(idr())
    assert h264.is_keyframe(idr())
    recovery = DELIMITER + SPS_PPS + SEI_RECOVERY + P_SLICE
    assert h264.is_keyframe(recovery)
    assert not h264.is_idr(recovery)
    assert not h264.is_keyframe(DELIMITER + SEI_OTHER + P_SLICE)
    assert not h264.is_keyframe(DELIMITER + SPS_PPS + SEI_RECOVERY)
    assert h264.has_slice(picture())
    assert not h264.has_slice(DELIMITER + SPS_PPS)
    assert h264.has_parameter_sets(idr())
    assert not h264.has_parameter_sets(picture())


@given(
    st.lists(
        st.sampled_from([b"\x00", b"\x00\x00\x01", b"\x09", b"\x41", b"\x65", b"\x67", b"\x80"]),
        max_size=12,
    )
)
def test_what_is_asked_of_each_picture_agrees_with_its_nal_units(parts: list[bytes]) -> None:
    """Start codes in any place, cut off ones too: each answer as the list of NAL units has it."""
    data = b"".join(parts)
    nals = list(h264.nal_units(data))
    slices = [nal for nal in nals if nal.type in (1, 2, 5)]
    assert h264.has_slice(data) == bool(slices)
    assert h264.scan(data).has_slice == bool(slices)
    assert h264.is_idr(data) == (bool(slices) and slices[0].type == 5)
    assert h264.starts_with_delimiter(data) == (bool(nals) and nals[0].type == 9)
    kept = [nal for nal in nals if nal.type != 9]
    assert h264.without_delimiter(data) == (data[kept[0].start :] if kept else data)


def test_recovery_point_behind_other_messages_in_one_nal_unit_is_found() -> None:
    """The message may come after a long one whose size takes several bytes."""
    long_message = b"\x05\xff\x02" + b"x" * 257
    data = b"\x00\x00\x01\x06" + long_message + b"\x06\x01\xc4\x80" + P_SLICE
    assert h264.is_keyframe(data)


@pytest.mark.parametrize(
    ("data", "pieces"),
    [
        ([idr(), picture(), picture()], 3),
        ([idr() + NEXT_SLICE + b"abc", picture()], 2),
        ([P_SLICE + b"abc" + NEXT_SLICE + b"def", P_SLICE + b"abc"], 2),
        ([P_SLICE + b"abc", SEI_OTHER + P_SLICE], 2),
        ([P_SLICE + b"abc", SPS_PPS + IDR_SLICE], 2),
        ([SPS_PPS + SEI_OTHER + P_SLICE + b"\x00\x00\x01\x0cfill"], 1),
        ([P_SLICE + DELIMITER], 1),
    ],
)
def test_splits_where_the_next_picture_begins(data: list[bytes], pieces: int) -> None:
    """Every boundary rule of 7.4.1.2.3, and no cut between the slices of one picture."""
    split = h264.split_access_units(b"".join(data))
    assert len(split) == pieces
    if pieces > 1:
        assert split == data


@given(st.lists(st.sampled_from([idr(), picture(), NEXT_SLICE, SEI_OTHER, b"x", b"\x00"])))
def test_split_pieces_joined_are_the_whole(parts: list[bytes]) -> None:
    """Splitting neither loses nor adds a byte, and every piece has a picture in it."""
    data = b"".join(parts)
    pieces = h264.split_access_units(data)
    assert b"".join(pieces) == data
    assert len(pieces) == 1 or all(h264.has_slice(piece) for piece in pieces)


def test_delimiter_is_put_on_and_taken_off() -> None:
    """Adding is idempotent, and taking off gives the picture back."""
    bare = SPS_PPS + IDR_SLICE + b"abc"
    assert h264.without_delimiter(h264.with_delimiter(bare)) == bare
    assert h264.with_delimiter(h264.with_delimiter(bare)) == h264.with_delimiter(bare)
    assert h264.starts_with_delimiter(h264.with_delimiter(bare))
    assert h264.without_delimiter(bare) is bare


def test_reads_size_profile_and_cropping() -> None:
    """Cropping counts in chroma samples, and in field pairs where there may be fields."""
    plain = parse_sps(sps())
    assert (plain.width, plain.height, plain.profile) == (640, 352, "Constrained Baseline")
    assert not plain.may_reorder
    cropped = parse_sps(sps(crop=(0, 4, 0, 3)))
    assert (cropped.width, cropped.height) == (632, 346)
    interlaced = parse_sps(sps(frame_mbs_only=0, crop=(0, 0, 0, 2)))
    assert (interlaced.width, interlaced.height) == (640, 352 - 8)
    high = parse_sps(sps(profile=100, flags=0, poc_type=0))
    assert (high.profile, high.level_idc, high.width) == ("High", 31, 640)
    assert high.may_reorder
    assert high.max_num_reorder_frames is None


def vui(*, reorder: int | None = 2, units: int = 1, scale: int = 50) -> Bits:
    bits = Bits().u(1, 1).u(255, 8).u(16, 16).u(11, 16)  # extended SAR 16:11
    bits.u(0, 1)
    bits.u(1, 1).u(5, 3).u(1, 1).u(1, 1).u(1, 8).u(1, 8).u(6, 8)  # full range, matrix 6
    bits.u(0, 1)
    bits.u(1, 1).u(units, 32).u(scale, 32).u(1, 1)
    bits.u(1, 1).ue(0).u(0, 8).ue(9, 9).u(0, 1).u(0, 20)  # NAL HRD
    bits.u(0, 1).u(0, 1).u(0, 1)
    if reorder is None:
        return bits.u(0, 1)
    return bits.u(1, 1).u(1, 1).ue(0, 0, 10, 10, reorder, 4)


def test_reads_usability_information() -> None:
    """Pixel shape, range, matrix, frame rate and reordering."""
    read = parse_sps(sps(profile=77, flags=0, poc_type=0, vui=vui()))
    assert read.sample_aspect_ratio == Fraction(16, 11)
    assert read.full_range
    assert read.matrix_coefficients == 6
    assert read.frame_interval == Fraction(1, 25)
    assert read.max_num_reorder_frames == 2
    assert read.may_reorder
    assert not parse_sps(sps(profile=77, poc_type=0, vui=vui(reorder=0))).may_reorder


@pytest.mark.parametrize(("units", "scale"), [(0, 50), (1, 180_000), (100, 1)])
def test_incredible_timing_is_not_believed(units: int, scale: int) -> None:
    """A clock tick of 90 kHz, or minutes a frame, is not a frame rate."""
    assert parse_sps(sps(vui=vui(units=units, scale=scale))).frame_interval is None


def test_cut_usability_information_costs_only_itself() -> None:
    """The picture size is still read."""
    whole = sps(vui=vui())
    assert parse_sps(whole[:14]).width == 640


@given(st.binary(max_size=60))
def test_no_sps_makes_the_parser_raise_anything_but_media_error(data: bytes) -> None:
    """Bytes at random are a MediaError or a believable picture size."""
    try:
        read = parse_sps(b"\x67" + data)
    except MediaError:
        return
    assert 0 < read.width <= 16384
    assert 0 < read.height <= 16384


def test_not_an_sps_is_refused() -> None:
    """Another NAL unit type, or nothing."""
    for data in (b"", b"\x68\xce", b"\x67"):
        with pytest.raises(MediaError):
            parse_sps(data)


def test_fields_of_a_frame_are_told_from_frames() -> None:
    """Two fields pair up by opposite parity and equal frame_num; frames are no fields."""
    read = parse_sps(sps(frame_mbs_only=0))
    top = h264.field_of(slice_of(5, field=True), read)
    bottom = h264.field_of(slice_of(5, field=True, bottom=True), read)
    other = h264.field_of(slice_of(6, field=True, bottom=True), read)
    assert top is not None
    assert bottom is not None
    assert other is not None
    assert bottom.completes(top)
    assert not other.completes(top)
    assert not top.completes(top)
    assert h264.field_of(slice_of(5, field=False), read) is None
    assert h264.field_of(slice_of(5, field=True), parse_sps(sps())) is None
    assert h264.field_of(b"\x00\x00\x01\x41", read) is None


def test_bit_reader_reads_fields_and_ends_with_an_error() -> None:
    """Exp-Golomb codes as in table 9-1 and 9-2; past the end is an error."""
    bits = BitReader(Bits().ue(0, 1, 2, 3, 300).done())
    assert [bits.ue() for _ in range(5)] == [0, 1, 2, 3, 300]
    signed = BitReader(Bits().ue(0, 1, 2, 3, 4).done())
    assert [signed.se() for _ in range(5)] == [0, 1, -1, 2, -2]
    with pytest.raises(EndOfBits):
        BitReader(b"\x00" * 5).ue()
    assert unescape_rbsp(b"\x00\x00\x03\x00\x00\x03\x01") == b"\x00\x00\x00\x00\x01"


def test_hevc_pictures_and_keyframes() -> None:
    """Delimiter, parameter sets and the first slice segment begin a picture."""
    vps, sps_nal = b"\x00\x00\x00\x01\x40\x01a", b"\x00\x00\x00\x01\x42\x01b"
    key, trail = b"\x00\x00\x01\x26\x01\x80x", b"\x00\x00\x01\x02\x01\x80y"
    rest = b"\x00\x00\x01\x02\x01\x00z"
    scan = hevc.scan(vps + sps_nal + key + trail + rest + trail)
    assert scan.keyframe
    assert scan.parameters
    assert len(scan.cuts) == 2
    assert not hevc.scan(trail).keyframe
    assert hevc.scan(rest).continues
    assert hevc.with_delimiter(key).startswith(hevc.ACCESS_UNIT_DELIMITER)
    assert hevc.with_delimiter(hevc.with_delimiter(key)) == hevc.with_delimiter(key)
