"""Streams that ffmpeg made, read as libavformat and libavcodec read them, only sooner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relay.media.access_unit import PTS_MODULUS, AccessUnit, DecodedFrame, MediaKind
from relay.media.demuxer import TsDemuxer
from relay.media.muxer import TsMuxer
from relay.media.stream_decoder import TrickleStreamDecoder
from tests.integration.media_samples import (
    H264_SAMPLES,
    SAMPLES,
    ffmpeg,
    frames_by_libav,
    packets_by_libav,
    sample,
)

VIDEO_SAMPLES = [name for name in SAMPLES if name != "audio_only"]


def demux(data: bytes, size: int = 1316) -> list[AccessUnit]:
    demuxer = TsDemuxer()
    units: list[AccessUnit] = []
    for position in range(0, len(data), size):
        units += demuxer.feed(data[position : position + size], 0.0)
    return units + demuxer.segment_boundary(0.0)


def of(units: list[AccessUnit], kind: MediaKind) -> list[AccessUnit]:
    return [unit for unit in units if unit.stream.kind is kind]


@pytest.mark.parametrize("name", VIDEO_SAMPLES)
def test_video_units_are_libavs_packets_byte_for_byte(name: str) -> None:
    """Payload, pts, dts and keyframe flag of every picture."""
    data = sample(name)
    units = of(demux(data), MediaKind.VIDEO)
    assert [(u.pts, u.dts, u.data, u.keyframe) for u in units] == packets_by_libav(data, "video")
    assert not any(u.damaged for u in units)


@pytest.mark.parametrize("name", [n for n in SAMPLES if "-an" not in SAMPLES[n].split()])
def test_audio_is_carried_untouched(name: str) -> None:
    """The payload that libavformat finds, and its codec name."""
    data = sample(name)
    demuxer = TsDemuxer()
    units = of(demuxer.feed(data, 0.0) + demuxer.segment_boundary(0.0), MediaKind.AUDIO)
    packets = packets_by_libav(data, "audio")
    assert units[0].pts - packets[0][0] in (0, -648)  # libav counts Opus's pre-skip in
    assert demuxer.audio is not None
    if demuxer.audio.codec != "opus":  # libavformat takes its control headers off
        assert b"".join(u.data for u in units) == b"".join(payload for _, _, payload, _ in packets)
    expected = {"libopus": "opus", "libmp3lame": "mp3"}
    words = SAMPLES[name].split()
    encoder = words[words.index("-c:a") + 1]
    wanted = "aac_latm" if name == "latm" else expected.get(encoder, encoder)
    assert units[-1].stream.codec == demuxer.audio.codec == wanted


@pytest.mark.parametrize("name", VIDEO_SAMPLES)
def test_pictures_are_libavs_pictures(name: str) -> None:
    """Every one, in display order, with its pts, its pixels and the arrival of its own unit."""
    data = sample(name)
    decoder = TrickleStreamDecoder(None, None)
    arrivals: dict[int, float] = {}
    frames: list[DecodedFrame] = []
    for n, unit in enumerate(of(demux(data), MediaKind.VIDEO)):
        unit.arrived_at = arrivals[unit.pts] = float(n)
        frames += decoder.decode(unit)
    frames += decoder.flush()
    decoder.close()
    wanted = frames_by_libav(data)
    assert [frame.pts for frame in frames] == [frame.pts for frame in wanted]
    assert [frame.arrived_at for frame in frames] == [arrivals[frame.pts] for frame in frames]
    assert decoder.decode_errors == 0
    for ours, theirs in zip(frames[::7], wanted[::7], strict=True):
        assert np.array_equal(ours.frame.to_ndarray(), theirs.to_ndarray())


def test_a_picture_without_b_frames_is_decoded_from_its_own_last_byte() -> None:
    """No picture waits for the next one, however the multiplexer ends them."""
    for name in ("baseline", "multi_slice", "tiny_frames"):
        data = sample(name)
        decoder = TrickleStreamDecoder(None, None)
        last_byte = {u.pts: n for n, u in _units_by_packet(data)}
        late = 0
        for n in range(0, len(data), 188):
            for item in decoder.feed(data[n : n + 188], 0.0):
                if isinstance(item, DecodedFrame):
                    late += last_byte[item.pts] != n
        decoder.close()
        assert late == 0


def _units_by_packet(data: bytes) -> list[tuple[int, AccessUnit]]:
    """Each video unit with the offset of the packet that brought it out."""
    demuxer = TsDemuxer()
    found = []
    for n in range(0, len(data), 188):
        found += [(n, unit) for unit in of(demuxer.feed(data[n : n + 188], 0.0), MediaKind.VIDEO)]
    return found


@pytest.mark.parametrize("name", ["baseline", "high_b_pyramid", "multi_slice", "interlaced"])
def test_nearly_every_unbounded_pes_ends_early(name: str) -> None:
    """With the packet that holds its last byte, not with the next picture's first."""
    data = sample(name)
    starts = [
        n
        for n in range(0, len(data), 188)
        if data[n + 1] & 0x5F == 0x41 and data[n + 2] == 0  # PID 0x100, a payload unit starts
    ]
    early = [n for n, _ in _units_by_packet(data) if n not in starts[1:]]
    assert len(early) >= 0.9 * len(starts)


@pytest.mark.parametrize("name", SAMPLES)
def test_remuxed_streams_are_the_same_streams(name: str, tmp_path: Path) -> None:
    """mux(demux(x)) read by libavformat is x read by libavformat; ffmpeg has no complaint."""
    data = sample(name)
    demuxer = TsDemuxer()
    units = demuxer.feed(data, 0.0) + demuxer.segment_boundary(0.0)
    muxer = TsMuxer(demuxer.video, demuxer.audio)
    again = muxer.begin_segment() + b"".join(muxer.mux(unit) for unit in units)
    for kind in ("video", "audio"):
        if getattr(demuxer, kind) is not None:
            before, after = packets_by_libav(data, kind), packets_by_libav(again, kind)
            assert [p[:2] + p[3:] for p in before] == [p[:2] + p[3:] for p in after]
            if name not in ("high_b_pyramid", "opus_5_1") or kind == "video":
                assert [p[2] for p in before] == [p[2] for p in after]
    path = tmp_path / "again.ts"
    path.write_bytes(again)
    assert ffmpeg("-i", path, "-f", "null", "-") == ""


def test_a_stream_over_the_wrap_goes_on(tmp_path: Path) -> None:
    """Times rise through 2^33 for video and audio, and come out of the muxer as they went in."""
    source, shifted = tmp_path / "source.ts", tmp_path / "shifted.ts"
    source.write_bytes(sample("main_b_frames"))
    offset = PTS_MODULUS / 90_000 - 2.5
    ffmpeg(
        "-i", source, "-c", "copy", "-output_ts_offset", f"{offset:.3f}", "-f", "mpegts", shifted
    )
    data = shifted.read_bytes()
    plain, wrapped = demux(sample("main_b_frames")), demux(data)
    times = [u.pts for u in of(wrapped, MediaKind.VIDEO)]
    assert min(times) < PTS_MODULUS < max(times)
    for kind in (MediaKind.VIDEO, MediaKind.AUDIO):
        shift = of(wrapped, kind)[0].pts - of(plain, kind)[0].pts
        assert [u.pts - shift for u in of(wrapped, kind)] == [u.pts for u in of(plain, kind)]
        assert [u.dts - shift for u in of(wrapped, kind)] == [u.dts for u in of(plain, kind)]
    demuxer = TsDemuxer()
    units = demuxer.feed(data, 0.0) + demuxer.segment_boundary(0.0)
    muxer = TsMuxer(demuxer.video, demuxer.audio)
    again = muxer.begin_segment() + b"".join(muxer.mux(unit) for unit in units)
    assert [(u.pts, u.dts, u.data) for u in demux(again)] == [
        (u.pts, u.dts, u.data) for u in wrapped
    ]


@pytest.mark.parametrize("name", H264_SAMPLES)
def test_a_stream_joined_in_the_middle_starts_with_its_next_keyframe(name: str) -> None:
    """No picture before it, all from it on (but those that a wide GOP shows before it)."""
    data = sample(name)
    middle = len(data) // 188 // 3 * 188
    decoder = TrickleStreamDecoder(None, None)
    tables = data[: 188 * 3]
    items = decoder.feed(tables + data[middle:], 0.0) + decoder.end_segment(0.0)
    frames = [i.pts for i in items if isinstance(i, DecodedFrame)]
    frames += [frame.pts for frame in decoder.flush()]
    assert decoder.decode_errors == 0
    decoder.close()
    keyframes = [u.pts for u in of(demux(tables + data[middle:]), MediaKind.VIDEO) if u.keyframe]
    everything = sorted(u.pts for u in of(demux(data), MediaKind.VIDEO))
    assert frames == [pts for pts in everything if pts >= frames[0]]
    assert keyframes[0] - 3 * 3600 <= frames[0] <= keyframes[0] + 24 * 3600


def test_pictures_with_pixels_that_are_not_square_are_shown_in_their_shape() -> None:
    """320x240 at 16:11 is wider than 4:3: it gets bars above and below."""
    decoder = TrickleStreamDecoder(320, 240)
    items = decoder.feed(sample("square_pixels_not"), 0.0)
    decoder.close()
    pixels = next(i for i in items if isinstance(i, DecodedFrame)).frame.to_ndarray(format="rgb24")
    assert pixels[:30].max() < 20
    assert pixels[-30:].max() < 20
    assert pixels[120].max() > 100
