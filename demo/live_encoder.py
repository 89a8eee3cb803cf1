"""The encoders of the demo's sources: x264 as live encoders are set up, and AAC."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from demo.segment_writer import CLOCK_RATE

SAMPLE_RATE = 48_000
SAMPLES_PER_FRAME = 1024
"""Of AAC; 1920 ticks of 90 kHz."""


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """How to encode the picture."""

    width: int
    height: int
    fps: Fraction
    gop: int | None = None
    """Frames from IDR to IDR; None for a second's worth."""
    bit_rate: int = 2_000_000
    preset: str = "ultrafast"
    profile: str | None = None
    """H.264 profile, e.g. ``high``; None leaves it to the preset (ultrafast: baseline)."""
    b_frames: int = 0
    slices: int = 1
    """Of each picture."""


class LiveEncoder:
    """An H.264 encoder and, if wanted, an AAC one, that give packets in 90 kHz ticks.

    Their streams serve as templates for the segments' streams. Use it as a context manager.
    """

    def __init__(self, settings: VideoSettings, *, audio: bool) -> None:
        # libavformat lends the streams their parameters; nothing is written to this container.
        self._container = av.open(io.BytesIO(), "w", format="mpegts")
        self.video = self._container.add_stream(
            "libx264", settings.fps, options=_x264_options(settings)
        )
        self.video.width = settings.width
        self.video.height = settings.height
        self.video.pix_fmt = "yuv420p"
        self.video.bit_rate = settings.bit_rate
        self.video.codec_context.time_base = Fraction(1, CLOCK_RATE)
        self.audio: av.AudioStream | None = None
        if audio:
            self.audio = self._container.add_stream("aac", SAMPLE_RATE, layout="stereo")
        self._container.start_encoding()

    def __enter__(self) -> LiveEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def encode(self, frame: av.VideoFrame | None, pts: int = 0) -> list[av.Packet]:
        """Encode a picture whose pts is `pts`; None ends the stream and gives what is left."""
        if frame is not None:
            frame.pts = pts
            frame.time_base = Fraction(1, CLOCK_RATE)
        return self.video.encode(frame)

    def encode_audio(
        self, frames: Iterable[NDArray[np.float32]], start_pts: int
    ) -> Iterator[av.Packet]:
        """Encode sound without a gap, from `start_pts` on.

        Args:
            frames: stereo, shape (2, SAMPLES_PER_FRAME) each, 48 kHz.
        """
        assert self.audio is not None
        for index, samples in enumerate(frames):
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate = SAMPLE_RATE
            frame.pts = index * SAMPLES_PER_FRAME
            frame.time_base = Fraction(1, SAMPLE_RATE)
            for packet in self.audio.encode(frame):
                packet.pts = packet.dts = start_pts + packet.pts * CLOCK_RATE // SAMPLE_RATE
                packet.time_base = Fraction(1, CLOCK_RATE)
                yield packet


def _x264_options(settings: VideoSettings) -> dict[str, str]:
    gop = settings.gop or max(1, round(settings.fps))
    options = {
        "preset": settings.preset,
        "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:b-adapt=0",
        "bf": str(settings.b_frames),
        "threads": "1",
        "slices": str(settings.slices),
    }
    if not settings.b_frames:
        options["tune"] = "zerolatency"
    if settings.profile is not None:
        options["profile"] = settings.profile
    return options
