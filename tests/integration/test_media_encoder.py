"""x264 as the relay uses it: one picture in, one access unit out, at any rate and time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from relay.errors import MediaError
from relay.media import h264
from relay.media.access_unit import AccessUnit
from relay.media.decoder import VideoDecoder
from relay.media.encoder import H264_STREAM, VideoEncoder, default_bit_rate
from relay.media.h264_sps import parse_sps
from tests.integration.media_samples import frames_by_libav, sample


@pytest.fixture(scope="module")
def pictures() -> list[av.VideoFrame]:
    """A moving picture, 512x512."""
    return [
        f.reformat(format="yuv420p") for f in frames_by_libav(sample("baseline", size="512x512"))
    ]


@pytest.fixture
def encoder() -> Iterator[VideoEncoder]:
    made = VideoEncoder(512, 512)
    yield made
    made.close()


def encode(
    encoder: VideoEncoder, pictures: list[av.VideoFrame], times: list[int], *, keys: int = 1 << 30
) -> list[AccessUnit]:
    """One unit for every picture, with its time; every `keys`-th forced to be a keyframe."""
    units = []
    for n, pts in enumerate(times):
        made = encoder.encode(pictures[n % len(pictures)], pts, n % keys == 0)
        assert [unit.pts for unit in made] == [pts]
        units += made
    return units


def test_every_picture_comes_out_at_once_with_its_own_time(
    encoder: VideoEncoder, pictures: list[av.VideoFrame]
) -> None:
    """Even, uneven, far jumps in both directions, repeats, negative and beyond 2^33."""
    times = [0, 3000, 3001, 9000, 1 << 34, -5, -5, 3000, 93_000, 93_000 + 600 * 90_000]
    units = encode(encoder, pictures, times)
    assert all(unit.dts == unit.pts and unit.stream == H264_STREAM for unit in units)
    assert encoder.frames == len(times)


def test_what_was_encoded_can_be_decoded(
    encoder: VideoEncoder, pictures: list[av.VideoFrame]
) -> None:
    """Every picture, alike to the eye, with its time."""
    decoder = VideoDecoder("h264")
    times = [3000 * n for n in range(30)]
    decoded = [f for u in encode(encoder, pictures, times) for f in decoder.decode(u)]
    decoder.close()
    assert [frame.pts for frame in decoded] == times
    for ours, source in zip(decoded[::5], pictures[:30:5], strict=True):
        error = ours.frame.to_ndarray().astype(float) - source.to_ndarray()
        assert (error**2).mean() < 100


def test_keyframes_come_on_demand_and_carry_their_parameter_sets(
    encoder: VideoEncoder, pictures: list[av.VideoFrame]
) -> None:
    """IDR pictures with SPS and PPS exactly where asked for, none for the source's own."""
    units = encode(encoder, pictures, [3000 * n for n in range(60)], keys=13)
    keys = [n for n, unit in enumerate(units) if unit.keyframe]
    assert keys == [0, 13, 26, 39, 52]
    for n, unit in enumerate(units):
        assert h264.is_idr(unit.data) == h264.has_parameter_sets(unit.data) == (n in keys)
    assert encoder.keyframes == 5


def test_a_keyframe_comes_after_the_safety_interval(pictures: list[av.VideoFrame]) -> None:
    """Without anybody asking."""
    encoder = VideoEncoder(512, 512, keyframe_seconds=0.5)
    units = encode(encoder, pictures, [3000 * n for n in range(40)])
    encoder.close()
    assert [n for n, unit in enumerate(units) if unit.keyframe] == [0, 15, 30]


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
def test_one_slice_a_picture_and_no_reordering(profile: str, pictures: list[av.VideoFrame]) -> None:
    """Whatever the profile; and the SPS says so."""
    encoder = VideoEncoder(512, 512, profile=profile)
    units = encode(encoder, pictures, [3000 * n for n in range(5)])
    encoder.close()
    for unit in units:
        assert sum(nal.type in (1, 5) for nal in h264.nal_units(unit.data)) == 1
        assert not h264.starts_with_delimiter(unit.data)
    sps = parse_sps(h264.find_sps(units[0].data) or b"")
    assert sps.profile.lower().endswith(profile)
    assert sps.max_num_reorder_frames in (0, None)
    assert not sps.may_reorder
    assert (sps.width, sps.height, sps.matrix_coefficients) == (512, 512, 6)
    assert sps.frame_interval == Fraction(1, 30)


def test_delimiters_are_written_when_asked_for(pictures: list[av.VideoFrame]) -> None:
    """In front of every access unit."""
    encoder = VideoEncoder(512, 512, delimiters=True)
    units = encode(encoder, pictures, [3000 * n for n in range(5)])
    encoder.close()
    assert all(h264.starts_with_delimiter(unit.data) for unit in units)


@pytest.mark.parametrize("fps", [1, 5, 24, 30, 60])
def test_the_bit_rate_is_kept_at_any_picture_rate(fps: int, pictures: list[av.VideoFrame]) -> None:
    """Once a keyframe came that the encoder could learn the rate by; below it, VBV is the limit."""
    encoder = VideoEncoder(512, 512, bit_rate=1_000_000)
    units = encode(encoder, pictures, [n * 90_000 // fps for n in range(180)], keys=30)
    encoder.close()
    rate = sum(len(unit.data) for unit in units[60:]) * 8 * fps / 120
    assert rate < 1_150_000
    if fps >= 24:
        assert rate > 850_000


@pytest.mark.parametrize(
    ("width", "height", "bit_rate", "limit"),
    [(512, 512, None, 64_000), (1280, 720, None, 128 * 1200), (1280, 720, 12_000_000, 128 * 1200)],
)
def test_no_picture_is_too_large_for_a_burst(
    width: int, height: int, bit_rate: int | None, limit: int
) -> None:
    """Noise is the worst there is: a keyframe of it stays below 64 KB, or 128 packets at 720p."""
    noise = np.random.default_rng(1).integers(0, 255, (height * 3 // 2, width), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="yuv420p")
    encoder = VideoEncoder(width, height, bit_rate=bit_rate)
    units = encode(encoder, [frame], [3000 * n for n in range(12)], keys=4)
    encoder.close()
    assert max(len(unit.data) for unit in units) < limit


def test_the_picture_given_is_left_as_it_was(
    encoder: VideoEncoder, pictures: list[av.VideoFrame]
) -> None:
    """Time, time base and picture type are restored: it may be encoded twice."""
    frame = pictures[3]
    before = frame.pts, frame.time_base, frame.pict_type
    assert before[2] != 0
    encoder.encode(frame, 1, force_keyframe=True)
    assert (frame.pts, frame.time_base, frame.pict_type) == before
    fresh = av.VideoFrame(512, 512, "yuv420p")
    encoder.encode(fresh, 2)
    assert fresh.pts is None
    assert not fresh.time_base


def test_what_does_not_fit_is_refused(encoder: VideoEncoder, pictures: list[av.VideoFrame]) -> None:
    """Another size, another format, a size nobody encodes, an encoder that was closed."""
    with pytest.raises(MediaError, match="256x512"):
        encoder.encode(av.VideoFrame(256, 512, "yuv420p"), 0)
    with pytest.raises(MediaError, match="rgb24"):
        encoder.encode(av.VideoFrame(512, 512, "rgb24"), 0)
    for size in ((511, 512), (512, 0), (8, 8)):
        with pytest.raises(MediaError):
            VideoEncoder(*size)
    encoder.close()
    encoder.close()
    with pytest.raises(MediaError, match="closed"):
        encoder.encode(pictures[0], 0)


def test_bit_rates_grow_with_size_and_rate() -> None:
    """From the reference at 512x512, within bounds."""
    assert default_bit_rate(512, 512, 30) == 1_750_000
    rates = [default_bit_rate(*a) for a in ((64, 64, 5), (512, 512, 15), (1280, 720, 30))]
    assert rates == sorted(rates)
    assert 3_500_000 < rates[-1] < 6_000_000
    assert default_bit_rate(16, 16, 1) == 200_000
    assert default_bit_rate(4096, 4096, 120) == 12_000_000
