"""Opens an H.264 encoder of FFmpeg's so that one picture in is one access unit out, at once.

What that takes is another set of options for each: x264, and those of graphics cards. The latter
are as FFmpeg documents them (`ffmpeg -h encoder=h264_nvenc`); whether one of them works on a
machine is found out by trying (`encoder_choice`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.codeccontext import VideoCodecContext

from relay.errors import MediaError

SOFTWARE = "libx264"
_VBV_SECONDS = 0.25
_MAX_VBV_BITS = 110 * 1024 * 8
"""A keyframe may fill the buffer, and must stay below 128 RTP packets of 1200 bytes: more overflow
the retransmission history, and the jitter buffer, of older aiortc peers."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What an encoder is asked for; see `relay.media.encoder.VideoEncoder`."""

    width: int
    height: int
    fps: float
    bit_rate: int
    keyframe_seconds: float
    delimiters: bool
    profile: str
    preset: str
    """In x264's words."""
    threads: int

    @property
    def keyframe_interval(self) -> int:
        """Pictures from one safety keyframe to the next."""
        return max(1, round(self.keyframe_seconds * self.fps))


def _x264(settings: EncoderSettings) -> dict[str, str]:
    x264 = {
        "keyint": settings.keyframe_interval,
        "min-keyint": 1,
        "scenecut": 0,
        "bframes": 0,
        "force-cfr": 1,
        "sliced-threads": int(settings.threads > 1),
        "threads": settings.threads,
        "repeat-headers": 1,
        "aud": int(settings.delimiters),
    }
    return {
        "preset": settings.preset,
        "tune": "zerolatency",
        "profile": settings.profile,
        "forced-idr": "1",
        "x264-params": ":".join(f"{key}={value}" for key, value in x264.items()),
    }


def _nvenc(settings: EncoderSettings) -> dict[str, str]:
    return {
        "preset": "p1" if settings.preset == "ultrafast" else "p3",
        "tune": "ull",
        "zerolatency": "1",
        "delay": "0",
        "rc": "cbr",
        "no-scenecut": "1",
        "forced-idr": "1",
        "profile": settings.profile,
        "aud": str(int(settings.delimiters)),
    }


def _qsv(settings: EncoderSettings) -> dict[str, str]:
    return {
        "preset": "veryfast",
        "async_depth": "1",
        "look_ahead": "0",
        "forced_idr": "1",
        "profile": settings.profile,
        "aud": str(int(settings.delimiters)),
    }


def _amf(settings: EncoderSettings) -> dict[str, str]:
    # AMF knows no plain baseline.
    profile = "constrained_baseline" if settings.profile == "baseline" else settings.profile
    return {
        "usage": "ultralowlatency",
        "quality": "speed",
        "rc": "cbr",
        "forced_idr": "1",
        "header_insertion_mode": "idr",
        "profile": profile,
        "aud": str(int(settings.delimiters)),
    }


_ENCODERS: dict[str, tuple[str, Callable[[EncoderSettings], dict[str, str]]]] = {
    SOFTWARE: ("yuv420p", _x264),
    "h264_nvenc": ("yuv420p", _nvenc),
    "h264_qsv": ("nv12", _qsv),
    "h264_amf": ("nv12", _amf),
}
"""By FFmpeg's name: the pixel format that it takes, and its options."""


def open_encoder(name: str, settings: EncoderSettings) -> VideoCodecContext:
    """The encoder, open; its `pix_fmt` is what it takes.

    Raises:
        MediaError: there is none of that name, or it does not open with these settings.
    """
    try:
        pixel_format, options = _ENCODERS[name]
        context = av.CodecContext.create(name, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height = settings.width, settings.height
        context.pix_fmt = pixel_format
        context.framerate = Fraction(settings.fps).limit_denominator(1001)
        context.time_base = 1 / context.framerate
        context.bit_rate = settings.bit_rate
        context.gop_size = settings.keyframe_interval
        context.max_b_frames = 0
        context.options = {
            # What every RGB conversion on the way to here reads and writes (see fitter).
            "colorspace": "smpte170m",
            "color_range": "tv",
            "maxrate": str(settings.bit_rate),
            "bufsize": str(round(min(settings.bit_rate * _VBV_SECONDS, _MAX_VBV_BITS))),
            **options(settings),
        }
        context.open()
    except (av.FFmpegError, KeyError, ValueError) as error:
        raise MediaError(
            f"{name} does not open for {settings.width}x{settings.height}:"
            f" {getattr(error, 'strerror', None) or error}",
            code="encoder_failed",
        ) from error
    return context
