"""Pictures as JPEG, for people to look at."""

from __future__ import annotations

from fractions import Fraction

import av
from av.video.codeccontext import VideoCodecContext

QUALITY = 4
"""libavcodec's quantiser, 1 to 31 (worst)."""


def encode_jpeg(frame: av.VideoFrame, width: int) -> tuple[bytes, int]:
    """One picture as JPEG, in full range as JFIF has it; to be called on a codec thread.

    Args:
        frame: yuv420p, limited range, any even size; only read.
        width: even, in pixels; the height follows.

    Returns:
        The JPEG and its height.
    """
    height = max(2, 2 * round(frame.height * width / frame.width / 2))
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    encoder.qmin = encoder.qmax = QUALITY
    # A frame of its own: an encoder writes pts and picture type onto what it is given.
    picture = frame.reformat(width, height, "yuvj420p", dst_color_range="JPEG")
    picture.pts, picture.time_base = 0, encoder.time_base
    return b"".join(bytes(packet) for packet in encoder.encode(picture)), height
