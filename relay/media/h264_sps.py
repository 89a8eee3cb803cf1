"""The H.264 sequence parameter set: size, profile, shape of pixels, rate, reordering.

What a relay needs to know of a stream before, or without, decoding it: whether it fits a WebRTC
peer, how long a frame lasts, whether pictures come out of order.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fractions import Fraction

from relay.errors import MediaError
from relay.media.bits import BitReader, EndOfBits, unescape_rbsp

_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles whose SPS has chroma format and scaling lists (ITU-T H.264, 7.3.2.1.1)."""

_SAMPLE_ASPECT_RATIOS = (
    (0, 1), (1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11),
    (80, 33), (18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1),
)  # fmt: skip
"""aspect_ratio_idc, table E-1."""
_EXTENDED_SAR = 255
_MAX_BYTES = 1024
"""The largest SPS there can be is smaller."""

_PROFILE_NAMES = {
    66: "Baseline", 77: "Main", 88: "Extended", 100: "High", 110: "High 10", 122: "High 4:2:2",
    244: "High 4:4:4 Predictive",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SequenceParameters:
    """One SPS, read."""

    profile_idc: int
    constraint_flags: int
    """The byte after profile_idc: constraint_set0_flag is its highest bit."""
    level_idc: int
    """Ten times the level: 31 is level 3.1."""
    width: int
    """Displayed, after cropping."""
    height: int
    frame_mbs_only: bool
    """False: the stream may hold fields or field-coded macroblocks."""
    separate_colour_planes: bool
    log2_max_frame_num: int
    pic_order_cnt_type: int
    max_num_ref_frames: int
    sample_aspect_ratio: Fraction
    """1 if unspecified."""
    full_range: bool
    matrix_coefficients: int
    """Table E-5; 2 if unspecified."""
    num_units_in_tick: int
    """0 without timing information."""
    time_scale: int
    max_num_reorder_frames: int | None
    """How many pictures may precede one in decoding and follow it in display; None if untold."""

    @property
    def profile(self) -> str:
        """As FFmpeg calls it."""
        if self.profile_idc == 66 and self.constraint_flags & 0x40:
            return "Constrained Baseline"
        return _PROFILE_NAMES.get(self.profile_idc, f"profile {self.profile_idc}")

    @property
    def frame_interval(self) -> Fraction | None:
        """Seconds a frame lasts by the stream's own timing information, if believable.

        None without timing information, or when it says more than 240 or less than 1 frame a
        second: encoders fed variable frame rates write their clock's tick there.
        """
        if not self.num_units_in_tick or not self.time_scale:
            return None
        interval = Fraction(2 * self.num_units_in_tick, self.time_scale)  # E.2.1: fields
        return interval if Fraction(1, 240) <= interval <= 1 else None

    @property
    def may_reorder(self) -> bool:
        """Whether B-frames must be expected.

        By the bitstream restriction if there is one; else by profile (Baseline has none) and
        picture order count (type 2 can't express any).
        """
        if self.max_num_reorder_frames is not None:
            return self.max_num_reorder_frames > 0
        return self.profile_idc != 66 and self.pic_order_cnt_type != 2


def parse_sps(nal: bytes) -> SequenceParameters:
    """Read a sequence parameter set.

    Args:
        nal: the NAL unit from its header byte on, emulation prevention still in it.

    Raises:
        MediaError: it is not one, or it is cut short or absurd.
    """
    if not nal or nal[0] & 0x1F != 7:
        raise MediaError("not an H.264 sequence parameter set", code="bad_sps")
    try:
        sps = _parse(BitReader(unescape_rbsp(nal[1:_MAX_BYTES])))
    except EndOfBits as error:
        raise MediaError(f"bad H.264 parameter set: {error}", code="bad_sps") from error
    if not (0 < sps.width <= 16384 and 0 < sps.height <= 16384):
        raise MediaError(f"H.264 picture of {sps.width}x{sps.height}", code="bad_sps")
    return sps


def _parse(bits: BitReader) -> SequenceParameters:
    profile_idc, constraint_flags, level_idc = bits.u(8), bits.u(8), bits.u(8)
    bits.ue()  # seq_parameter_set_id
    chroma_format_idc, separate_colour_planes = 1, False
    if profile_idc in _HIGH_PROFILES:
        chroma_format_idc = bits.ue()
        if chroma_format_idc == 3:
            separate_colour_planes = bits.flag()
        bits.ue()  # bit_depth_luma_minus8
        bits.ue()  # bit_depth_chroma_minus8
        bits.flag()  # qpprime_y_zero_transform_bypass_flag
        if bits.flag():
            for index in range(8 if chroma_format_idc != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    log2_max_frame_num = 4 + _limited(bits.ue(), 12)
    pic_order_cnt_type = bits.ue()
    if pic_order_cnt_type == 0:
        bits.ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif pic_order_cnt_type == 1:
        bits.flag()  # delta_pic_order_always_zero_flag
        bits.se()  # offset_for_non_ref_pic
        bits.se()  # offset_for_top_to_bottom_field
        for _ in range(_limited(bits.ue(), 255)):
            bits.se()
    max_num_ref_frames = bits.ue()
    bits.flag()  # gaps_in_frame_num_value_allowed_flag
    width = 16 * (bits.ue() + 1)
    height_map_units = bits.ue() + 1
    frame_mbs_only = bits.flag()
    height = 16 * height_map_units * (1 if frame_mbs_only else 2)
    if not frame_mbs_only:
        bits.flag()  # mb_adaptive_frame_field_flag
    bits.flag()  # direct_8x8_inference_flag
    if bits.flag():  # frame_cropping_flag
        # 6.2: the crop unit is a chroma sample, and in a frame of fields two rows.
        unit_x = 2 if chroma_format_idc in (1, 2) and not separate_colour_planes else 1
        unit_y = 2 if chroma_format_idc == 1 and not separate_colour_planes else 1
        unit_y *= 1 if frame_mbs_only else 2
        width -= unit_x * (bits.ue() + bits.ue())
        height -= unit_y * (bits.ue() + bits.ue())
    usability = _parse_vui(bits) if bits.flag() else _Usability()
    return SequenceParameters(
        profile_idc=profile_idc,
        constraint_flags=constraint_flags,
        level_idc=level_idc,
        width=width,
        height=height,
        frame_mbs_only=frame_mbs_only,
        separate_colour_planes=separate_colour_planes,
        log2_max_frame_num=log2_max_frame_num,
        pic_order_cnt_type=pic_order_cnt_type,
        max_num_ref_frames=max_num_ref_frames,
        sample_aspect_ratio=usability.sample_aspect_ratio,
        full_range=usability.full_range,
        matrix_coefficients=usability.matrix_coefficients,
        num_units_in_tick=usability.num_units_in_tick,
        time_scale=usability.time_scale,
        max_num_reorder_frames=usability.max_num_reorder_frames,
    )


@dataclass(slots=True)
class _Usability:
    """Video usability information (annex E.1.1), the part that SequenceParameters keeps."""

    sample_aspect_ratio: Fraction = Fraction(1)
    full_range: bool = False
    matrix_coefficients: int = 2
    num_units_in_tick: int = 0
    time_scale: int = 0
    max_num_reorder_frames: int | None = None


def _parse_vui(bits: BitReader) -> _Usability:
    vui = _Usability()
    # A cut VUI costs only what it would have told: the picture itself is described.
    with contextlib.suppress(EndOfBits):
        _read_vui(bits, vui)
    return vui


def _read_vui(bits: BitReader, vui: _Usability) -> None:
    if bits.flag():
        index = bits.u(8)
        ratio = (bits.u(16), bits.u(16)) if index == _EXTENDED_SAR else (0, 1)
        if index < len(_SAMPLE_ASPECT_RATIOS):
            ratio = _SAMPLE_ASPECT_RATIOS[index]
        if ratio[0] and ratio[1]:
            vui.sample_aspect_ratio = Fraction(*ratio)
    if bits.flag():
        bits.flag()  # overscan_appropriate_flag
    if bits.flag():  # video_signal_type_present_flag
        bits.u(3)
        vui.full_range = bits.flag()
        if bits.flag():
            bits.u(16)  # colour_primaries, transfer_characteristics
            vui.matrix_coefficients = bits.u(8)
    if bits.flag():  # chroma_loc_info_present_flag
        bits.ue()
        bits.ue()
    if bits.flag():  # timing_info_present_flag
        num_units_in_tick, time_scale = bits.u(32), bits.u(32)
        bits.flag()  # fixed_frame_rate_flag
        vui.num_units_in_tick, vui.time_scale = num_units_in_tick, time_scale
    nal_hrd, vcl_hrd = bits.flag(), False
    if nal_hrd:
        _skip_hrd(bits)
    vcl_hrd = bits.flag()
    if vcl_hrd:
        _skip_hrd(bits)
    if nal_hrd or vcl_hrd:
        bits.flag()  # low_delay_hrd_flag
    bits.flag()  # pic_struct_present_flag
    if bits.flag():  # bitstream_restriction_flag
        bits.flag()  # motion_vectors_over_pic_boundaries_flag
        bits.ue()  # max_bytes_per_pic_denom
        bits.ue()  # max_bits_per_mb_denom
        bits.ue()  # log2_max_mv_length_horizontal
        bits.ue()  # log2_max_mv_length_vertical
        vui.max_num_reorder_frames = _limited(bits.ue(), 16)


def _skip_hrd(bits: BitReader) -> None:
    count = _limited(bits.ue(), 31) + 1
    bits.u(8)  # bit_rate_scale, cpb_size_scale
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.flag()
    bits.u(20)


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _limited(value: int, highest: int) -> int:
    if value > highest:
        raise EndOfBits(f"{value} where at most {highest} is allowed")
    return value
