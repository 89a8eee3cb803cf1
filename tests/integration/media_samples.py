"""Real transport streams to test against, made by the ffmpeg command line once a test run.

Each is 2.4 s of a moving test picture, most with a tone. They come from another muxer and other
encoders than ours, which is the point.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import av
import pytest

DURATION_S = 2.4
_X264 = "-c:v libx264 -preset veryfast -g 24 -b:v 600k"
_NO_B = f"{_X264} -bf 0"

SAMPLES = {
    "baseline": f"{_NO_B} -profile:v baseline -c:a aac",
    "main_b_frames": f"{_X264} -profile:v main -bf 2 -c:a aac -ac 1",
    "high_b_pyramid": f"{_X264} -profile:v high -bf 3 -x264-params b-pyramid=normal -c:a libopus",
    "high_10": f"{_NO_B} -pix_fmt yuv420p10le -an",
    "yuv422": f"{_NO_B} -pix_fmt yuv422p -an",
    "multi_slice": f"{_NO_B} -slices 4 -c:a mp2",
    "interlaced": f"{_X264} -bf 2 -flags +ildct+ilme -x264-params tff=1 -c:a aac",
    "open_gop": f"{_X264} -bf 2 -x264-params open-gop=1:keyint=12 -an",
    "intra_refresh": f"{_NO_B} -x264-params intra-refresh=1:keyint=24 -an",
    "no_reorder_hint": f"{_X264} -bf 2 -bsf:v filter_units=remove_types=6 -an",
    "bounded_pes": f"{_X264} -bf 2 -omit_video_pes_length 0 -c:a aac",
    "mp3": f"{_NO_B} -c:a libmp3lame",
    "ac3": f"{_NO_B} -c:a ac3",
    "latm": f"{_NO_B} -c:a aac -mpegts_flags latm",
    "system_b": f"{_NO_B} -c:a ac3 -mpegts_flags system_b",
    "m2ts_ids": f"{_NO_B} -c:a aac -mpegts_start_pid 0x44 -mpegts_pmt_start_pid 0x30 "
    "-mpegts_service_id 77",
    "opus_5_1": f"{_NO_B} -ac 6 -c:a libopus -mapping_family 1",
    "hevc": "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=24:pools=1 -c:a aac",
    "mpeg2video": "-c:v mpeg2video -g 12 -bf 2 -b:v 1M -c:a mp2",
    "mpeg4": "-c:v mpeg4 -g 24 -b:v 1M -c:a mp2",
    "square_pixels_not": f"{_NO_B} -vf setsar=16/11 -an",
    "bt709_full_range": f"{_NO_B} -vf scale=out_range=pc:out_color_matrix=bt709 -pix_fmt yuvj420p "
    "-colorspace bt709 -color_range pc -an",
    "audio_only": "-vn -c:a aac",
    "tiny_frames": f"{_NO_B} -vf drawbox=t=fill -an",
}
"""Name to ffmpeg options."""

H264_SAMPLES = tuple(
    name for name in SAMPLES if name not in ("hevc", "mpeg2video", "mpeg4", "audio_only")
)


def ffmpeg(*arguments: str | Path) -> str:
    """Run ffmpeg, quietly; returns what it warned of."""
    return _run("ffmpeg", "-hide_banner", "-nostdin", "-v", "warning", *arguments)


def ffprobe(*arguments: str | Path) -> str:
    """Run ffprobe, quietly; returns what it warned of and what it printed."""
    return _run("ffprobe", "-v", "warning", *arguments)


def _run(*command: str | Path) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.fail(f"these tests need the {command[0]} command (Debian: apt install ffmpeg)")
    done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@cache
def sample(name: str, *, size: str = "320x240", fps: str = "25") -> bytes:
    """A transport stream; see SAMPLES."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.ts"
        ffmpeg(
            *("-f", "lavfi", "-i", f"testsrc2=size={size}:rate={fps}:duration={DURATION_S}"),
            *("-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={DURATION_S}"),
            *("-threads", "1", *SAMPLES[name].split()),
            *("-f", "mpegts", path),
        )
        return path.read_bytes()


def packets_by_libav(data: bytes, kind: str) -> list[tuple[int, int, bytes, bool]]:
    """pts, dts, payload and keyframe flag of the first stream of a kind, as libavformat sees it."""
    with av.open(io.BytesIO(data), format="mpegts") as container:
        streams: Sequence[av.stream.Stream] = getattr(container.streams, kind)
        return [
            (packet.pts, packet.dts, bytes(packet), packet.is_keyframe)
            for packet in container.demux(streams[0])
            if packet.pts is not None and packet.dts is not None
        ]


def frames_by_libav(data: bytes) -> list[av.VideoFrame]:
    """The pictures of the first video stream, in display order."""
    with av.open(io.BytesIO(data), format="mpegts") as container:
        return list(container.decode(video=0))
