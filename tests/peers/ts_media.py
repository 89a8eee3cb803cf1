"""Small MPEG-TS files, as libavformat writes them."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

FPS = 25


def make_ts(
    seconds: float = 4.0,
    *,
    gop_s: float = 1.0,
    codec: str = "libx264",
    audio: bool = False,
    b_frames: int = 0,
    first_s: float = 0.0,
) -> bytes:
    """A small film: 64x48, 25 pictures a second, a keyframe every `gop_s`."""
    output = io.BytesIO()
    with av.open(output, "w", format="mpegts") as container:
        video = container.add_stream(codec, rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.gop_size = round(gop_s * FPS)
        rate = FPS if codec == "mpeg2video" else 90_000
        video.time_base = video.codec_context.time_base = Fraction(1, rate)
        if codec == "libx264":
            video.options = {
                "preset": "ultrafast",
                "sc_threshold": "0",
                "forced-idr": "1",
                "bf": str(b_frames),
            }
        elif codec == "libx265":
            video.options = {
                "preset": "ultrafast",
                "x265-params": "keyint=25:min-keyint=25:open-gop=0:scenecut=0:log-level=none",
            }
        sound = container.add_stream("aac", rate=48_000) if audio else None
        for number in range(round(seconds * FPS)):
            pixels = np.full((48, 64, 3), number * 3 % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = round((first_s + number / FPS) * rate)
            frame.time_base = Fraction(1, rate)
            container.mux(video.encode(frame))
            if sound is not None:
                samples = np.zeros((1, 1920), np.float32)
                tone = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
                tone.sample_rate, tone.pts = 48_000, number * 1920
                container.mux(sound.encode(tone))
        container.mux(video.encode())
        if sound is not None:
            container.mux(sound.encode())
    return output.getvalue()


def decode_count(data: bytes) -> int:
    """How many pictures a decoder finds."""
    with av.open(io.BytesIO(data), format="mpegts") as container:
        return sum(1 for _ in container.decode(video=0))
