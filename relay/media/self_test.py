"""Tries the codecs of this build of FFmpeg on a few pictures and a little sound."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from relay.errors import MediaError
from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream, MediaKind
from relay.media.audio_decoder import AudioDecoder, OpusDecoder
from relay.media.audio_encoder import AudioEncoder, OpusEncoder
from relay.media.audio_grid import BLOCK_SAMPLES, SoundBlock
from relay.media.decoder import VideoDecoder
from relay.media.encoder import VideoEncoder
from relay.media.jpeg import JpegEncoder
from relay.media.picture import black_picture
from relay.session_config import AudioCodec

PICTURES = 5
BLOCKS = 25
WIDTH, HEIGHT = 128, 96
_HEVC = ElementaryStream(MediaKind.VIDEO, "hevc", 0x24)


def _h264() -> int:
    encoder, decoder = VideoEncoder(WIDTH, HEIGHT), VideoDecoder("h264")
    frames = []
    for number in range(PICTURES):
        for unit in encoder.encode(black_picture(WIDTH, HEIGHT), number * CLOCK_RATE // 30, False):
            frames += decoder.decode(unit)
    frames += decoder.flush()
    encoder.close()
    decoder.close()
    return len(frames)


def _hevc() -> int:
    """Of the input only; where there is nothing to encode it with, that it can be opened."""
    decoder = VideoDecoder("hevc")
    try:
        context = av.CodecContext.create("libx265", "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context.time_base = Fraction(1, 30)
        context.options = {"x265-params": "log-level=none:bframes=0", "preset": "ultrafast"}
        frames = []
        for number in range(PICTURES):
            picture = black_picture(WIDTH, HEIGHT)
            picture.pts, picture.time_base = number, context.time_base
            for packet in context.encode(picture):
                frames += decoder.decode(_coded(bytes(packet), number))
        for packet in context.encode(None):
            frames += decoder.decode(_coded(bytes(packet), len(frames)))
        return len(frames + decoder.flush())
    except (av.FFmpegError, ValueError):
        return PICTURES
    finally:
        decoder.close()


def _coded(data: bytes, number: int) -> AccessUnit:
    pts = number * CLOCK_RATE // 30
    return AccessUnit(_HEVC, data, pts, pts, keyframe=number == 0)


def _sound(codec: AudioCodec) -> int:
    encoder, decoder = AudioEncoder(codec), AudioDecoder()
    units = [unit for block in _blocks() for unit in encoder.encode(block)] + encoder.flush()
    return len([frame for unit in units for frame in decoder.decode(unit)])


def _opus_rtp() -> int:
    encoder, decoder = OpusEncoder(), OpusDecoder()
    packets = [encoder.encode(block.samples) for block in _blocks()]
    return len([packet for packet in packets if decoder.decode(packet) is not None])


def _jpeg() -> int:
    data, _ = JpegEncoder().encode(black_picture(WIDTH, HEIGHT), WIDTH)
    return int(data.startswith(b"\xff\xd8"))


def _blocks() -> list[SoundBlock]:
    silence = np.zeros((BLOCK_SAMPLES, 2), np.int16)
    return [SoundBlock(number * CLOCK_RATE // 50, silence) for number in range(BLOCKS)]


TESTS: dict[str, tuple[Callable[[], int], int]] = {
    "H.264, encode and decode": (_h264, PICTURES),
    "HEVC, decode": (_hevc, PICTURES),
    "AAC, encode and decode": (lambda: _sound(AudioCodec.AAC), BLOCKS // 2),
    "Opus in MPEG-TS, encode and decode": (lambda: _sound(AudioCodec.OPUS), BLOCKS // 2),
    "Opus in RTP, encode and decode": (_opus_rtp, BLOCKS // 2),
    "JPEG, encode": (_jpeg, 1),
}
"""What is tried, by name, and how many frames have to come out at least."""


def try_codec(name: str) -> str | None:
    """Try one of `TESTS`; None if it works, else what is wrong."""
    test, least = TESTS[name]
    try:
        came = test()
    except (av.FFmpegError, MediaError, ValueError) as error:
        return str(error) or type(error).__name__
    return None if came >= least else f"{came} of {least} frames came out"
