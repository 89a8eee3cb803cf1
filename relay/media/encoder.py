"""Pictures to H.264 access units: towards the server, and onto the output channel.

One picture in, one access unit out, at once: zerolatency, no B-frames, one thread (sliced threads
would make several slices a picture, and cost more). Mostly x264 does it; where another encoder was
chosen (`encoder_choice`) and fails, x264 takes its place. x264 is told of a constant frame rate,
because with a variable one it holds a picture back until it knows how long it lasts. So its clock
just counts pictures, and jumps in the source's timestamps can't confuse it; the source's pts goes
around it and comes out to the tick. Where pictures come at another rate than x264 was told, it is
opened anew with the right one at the next keyframe that is due anyway, so that the output has the
bit rate asked for at any rate of pictures.
"""

from __future__ import annotations

from fractions import Fraction

import av
import structlog
from av import VideoStream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from relay.errors import MediaError
from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream, MediaKind
from relay.media.encoder_open import SOFTWARE, EncoderSettings, open_encoder

_log = structlog.get_logger(__name__)

H264_STREAM = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B)
"""What every unit made here belongs to."""

_REFERENCE_BIT_RATE = 1_750_000
_REFERENCE_PIXEL_RATE = 512 * 512 * 30
_MIN_BIT_RATE, _MAX_BIT_RATE = 200_000, 12_000_000
_MAX_STEP = 2 * CLOCK_RATE
"""A longer distance between pictures is a gap, and says nothing about their rate."""
_RATE_TOLERANCE = 1.1
"""How far x264's idea of the frame rate may be off, as a factor; the bit rate is off as far, and
players read the rate in the SPS."""
_USUAL_RATES = tuple(
    Fraction(*rate)
    for rate in (
        (5, 1), (10, 1), (12, 1), (15, 1), (20, 1), (24, 1), (25, 1), (30, 1), (50, 1), (60, 1),
    )
)  # fmt: skip
_MIN_FPS, _MAX_FPS = 1.0, 120.0


def default_bit_rate(width: int, height: int, fps: float) -> int:
    """Bits per second that fit a size and rate: 1.75 Mbit/s at 512x512 and 30 fps.

    Grows with the 0.75th power of the pixels per second, as neighbouring pixels and pictures are
    the more alike the more of them there are.
    """
    scale: float = (width * height * max(1.0, fps) / _REFERENCE_PIXEL_RATE) ** 0.75
    return round(min(_MAX_BIT_RATE, max(_MIN_BIT_RATE, _REFERENCE_BIT_RATE * scale)))


class VideoEncoder:
    """Encodes pictures of one size; another size needs another encoder.

    Every IDR picture carries SPS and PPS. IDR pictures come on demand and, without a demand, every
    `keyframe_seconds`.

    Not thread-safe: one call at a time, from any thread. libav releases the GIL.

    Args:
        width, height: even, at least 16.
        fps_hint: the rate to expect, for the default bit rate, the safety interval and the first
            pictures' share of bits; pictures may come at any rate, even or not.
        bit_rate: bits per second on average; by size and rate if None.
        keyframe_seconds: the longest distance between IDR pictures, at the nominal rate.
        delimiters: begin each access unit with a delimiter, as MPEG-TS wants it and RTP doesn't.
        profile: ``baseline`` (constrained), ``main`` or ``high``.
        preset: x264's; superfast costs 1.4 ms at 512x512, and veryfast twice that.
        threads: of x264, by slices.
        codec: FFmpeg's name of the encoder.
        falls_back: whether x264 takes its place when it fails.

    Raises:
        MediaError: the encoder refuses these settings.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        fps_hint: float = 30.0,
        bit_rate: int | None = None,
        keyframe_seconds: float = 10.0,
        delimiters: bool = False,
        profile: str = "high",
        preset: str = "superfast",
        threads: int = 1,
        codec: str = SOFTWARE,
        falls_back: bool = True,
    ) -> None:
        if width < 16 or height < 16 or width % 2 or height % 2:
            raise MediaError(
                f"can't encode {width}x{height}: both must be even and at least 16",
                code="bad_picture_size",
            )
        self.width = width
        self.height = height
        self.fps_hint = min(_MAX_FPS, max(_MIN_FPS, fps_hint))
        self.bit_rate = bit_rate or default_bit_rate(width, height, self.fps_hint)
        self.frames = 0
        self.keyframes = 0
        self._keyframe_seconds = keyframe_seconds
        self._delimiters = delimiters
        self._profile = profile
        self._preset = preset
        self._threads = threads
        self.codec = codec
        """Which encoder runs."""
        self._falls_back = falls_back
        self._fps = self.fps_hint
        self._interval = CLOCK_RATE / self._fps
        self._steps = 0
        self._pictures = 0
        self._context: VideoCodecContext | None = self._open()
        self._last_pts: int | None = None

    def encode(
        self, frame: av.VideoFrame, pts: int, force_keyframe: bool = False
    ) -> list[AccessUnit]:
        """Encode one picture.

        Args:
            frame: yuv420p of the encoder's size; left as it was.
            pts: 90 kHz ticks, any value; goes onto the access unit exactly, as pts and dts.
            force_keyframe: make it an IDR picture.

        Returns:
            Its access unit, `arrived_at` 0.

        Raises:
            MediaError: the picture doesn't fit, encoding failed, or the encoder is closed.
        """
        if self._context is None:
            raise MediaError("the encoder is closed", code="encoder_closed")
        if (frame.width, frame.height, frame.format.name) != (self.width, self.height, "yuv420p"):
            raise MediaError(
                f"a {frame.format.name} picture of {frame.width}x{frame.height} for an encoder "
                f"of yuv420p {self.width}x{self.height}",
                code="bad_picture_size",
            )
        self._measure_rate(pts)
        if force_keyframe and self._rate_is_off():
            self._fps = _usual_rate(CLOCK_RATE / self._interval)
            self._context = self._open()
            self._pictures = 0
        try:
            packets = self._encode(self._context, frame, force_keyframe)
        except MediaError as error:
            self._give_up(error)
            self._context = self._open()
            self._pictures = 0
            packets = self._encode(self._context, frame, True)
        units = [
            AccessUnit(H264_STREAM, bytes(packet), pts, pts, keyframe=packet.is_keyframe)
            for packet in packets
        ]
        self.frames += len(units)
        self.keyframes += sum(unit.keyframe for unit in units)
        return units

    def _encode(
        self, context: VideoCodecContext, frame: av.VideoFrame, force_keyframe: bool
    ) -> list[av.Packet[VideoStream]]:
        if context.pix_fmt != frame.format.name:
            frame = frame.reformat(format=context.pix_fmt)
        saved = frame.pts, frame.time_base, frame.pict_type
        frame.pts, frame.time_base = self._pictures, context.time_base
        self._pictures += 1
        # A decoded frame says what it was: left so, x264 would repeat the source's I and B.
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        try:
            return context.encode(frame)
        except av.FFmpegError as error:
            raise MediaError(f"{self.codec} failed: {error}", code="encoder_failed") from error
        finally:
            frame.pts, frame.pict_type = saved[0], saved[2]
            frame.time_base = saved[1] or Fraction(0, 1)

    def close(self) -> None:
        """Free the encoder. Nothing is held back in it, so nothing is lost. Idempotent."""
        self._context = None

    def _measure_rate(self, pts: int) -> None:
        """Keep the mean distance between pictures, over the last second or so."""
        step = pts - self._last_pts if self._last_pts is not None else 0
        self._last_pts = pts
        if 0 < step <= _MAX_STEP:
            self._steps += 1
            weight = max(1 / self._steps, min(0.5, step / CLOCK_RATE))
            self._interval += (step - self._interval) * weight

    def _rate_is_off(self) -> bool:
        ratio = self._interval * self._fps / CLOCK_RATE
        return not 1 / _RATE_TOLERANCE < ratio < _RATE_TOLERANCE

    def _open(self) -> VideoCodecContext:
        settings = EncoderSettings(
            self.width,
            self.height,
            fps=self._fps,
            bit_rate=self.bit_rate,
            keyframe_seconds=self._keyframe_seconds,
            delimiters=self._delimiters,
            profile=self._profile,
            preset=self._preset,
            threads=self._threads,
        )
        try:
            return open_encoder(self.codec, settings)
        except MediaError as error:
            self._give_up(error)
            return open_encoder(self.codec, settings)

    def _give_up(self, error: MediaError) -> None:
        """Go on with x264, where that is wanted and not what failed."""
        if self.codec == SOFTWARE or not self._falls_back:
            raise error
        _log.warning("encoder.fell_back", encoder=SOFTWARE, failed=self.codec, error=error.message)
        self.codec = SOFTWARE


def _usual_rate(fps: float) -> float:
    """The rate meant by a measured one: a usual one if it is within 3 %."""
    usual = min(_USUAL_RATES, key=lambda rate: abs(rate - fps))
    if abs(usual - fps) <= 0.03 * usual:
        return float(usual)
    return min(_MAX_FPS, max(_MIN_FPS, round(fps, 1)))
