"""Pictures as JPEG, for people to look at."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

QUALITY = 4
"""libavcodec's quantiser, 1 to 31 (worst)."""
SIZES_KEPT = 4
"""Encoders that are kept: to make one, and its scaler, takes longer than to encode (480 wide:
4.2 ms of CPU a picture, 1.7 with those kept)."""


@dataclass(slots=True)
class _Size:
    """What makes pictures of one size into JPEGs of one size."""

    width: int
    height: int
    scaler: VideoReformatter = field(default_factory=VideoReformatter)
    encoder: VideoCodecContext = field(init=False)

    def __post_init__(self) -> None:
        encoder = av.CodecContext.create("mjpeg", "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = self.width, self.height, "yuvj420p"
        encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
        encoder.qmin = encoder.qmax = QUALITY
        self.encoder = encoder

    def encode(self, frame: av.VideoFrame, number: int) -> bytes:
        # A frame of its own: an encoder writes pts and picture type onto what it is given.
        picture = self.scaler.reformat(
            frame,
            self.width,
            self.height,
            "yuvj420p",
            dst_color_range="JPEG",
            interpolation="FAST_BILINEAR",
        )
        picture.pts, picture.time_base = number, self.encoder.time_base
        return b"".join(bytes(packet) for packet in self.encoder.encode(picture))


class JpegEncoder:
    """Encodes pictures of any size. Not thread-safe: one call at a time, from any thread."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[tuple[int, int, int], _Size] = OrderedDict()
        self._encoded = 0

    def encode(self, frame: av.VideoFrame, width: int) -> tuple[bytes, int]:
        """One picture as JPEG, in full range as JFIF has it.

        Args:
            frame: yuv420p, limited range, any even size; only read.
            width: even, in pixels; the height follows.

        Returns:
            The JPEG and its height.
        """
        key = frame.width, frame.height, width
        size = self._sizes.get(key)
        if size is None:
            height = max(2, 2 * round(frame.height * width / frame.width / 2))
            size = self._sizes[key] = _Size(width, height)
            if len(self._sizes) > SIZES_KEPT:
                self._sizes.popitem(last=False)
        self._sizes.move_to_end(key)
        self._encoded += 1
        return size.encode(frame, self._encoded), size.height
