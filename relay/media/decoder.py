"""Stage 3 of the path in: access units to pictures, with libavcodec.

One thread a decoder, and slices rather than frames: frame threading holds back a frame a thread
(measured at 30 fps: 100 ms with two threads, 167 with four), and PyAV's own default of all cores
buys nothing at these sizes.
"""

from __future__ import annotations

from collections import OrderedDict
from fractions import Fraction
from typing import Any

import av
from av.video.codeccontext import VideoCodecContext

from relay.errors import MediaError
from relay.media.access_unit import TIME_BASE, AccessUnit, DecodedFrame

_MAX_PENDING = 64
"""Units whose pictures have not come out yet: more than any codec reorders (H.264: 16)."""
MOST_PIXELS = 139_264 * 256
"""Of a picture: 8192x4352. No level of H.264 (table A-1) or H.265 (table A.8) up to 6.2 has more,
and 16384x16384 takes 400 MB a picture (measured)."""


class VideoDecoder:
    """Decodes one stream, whatever happens to it.

    Pictures come out in display order with the pts and arrival time of the access unit they were
    coded in. Until a keyframe, at the start and after `reset`, nothing is decoded. Damaged units
    are decoded and concealed (a short artefact beats a freeze), unless `drop_damaged`.

    Not thread-safe: one call at a time, from any thread. libav releases the GIL.

    Args:
        codec: FFmpeg's name, as in `ElementaryStream.codec`.
        drop_damaged: skip what was marked damaged, that is, freeze until the next keyframe.

    Raises:
        MediaError: there is no decoder of that name.
    """

    def __init__(self, codec: str = "h264", *, drop_damaged: bool = False) -> None:
        self.codec = codec
        self.errors = 0
        """Units the decoder could not make anything of."""
        self.skipped = 0
        """Units before the first keyframe, or dropped as damaged."""
        self.frames = 0
        self.problem: str | None = None
        """Why nothing comes out, in words, as far as that can be told."""
        self._drop_damaged = drop_damaged
        self._context: VideoCodecContext | None = _open(codec)
        self._started = False
        self._pending: OrderedDict[int, float] = OrderedDict()

    @property
    def sample_aspect_ratio(self) -> Fraction:
        """Width of a pixel by its height, of the pictures that came last; 1 if unknown."""
        ratio = self._context.sample_aspect_ratio if self._context is not None else None
        return Fraction(ratio.numerator, ratio.denominator) if ratio else Fraction(1)

    @property
    def reorder_frames(self) -> int:
        """How many pictures the stream's B-frames hold back, as far as decoded."""
        return int(self._context.has_b_frames) if self._context is not None else 0

    def decode(self, unit: AccessUnit) -> list[DecodedFrame]:
        """The pictures that `unit` completes: none, one, or after a reorder several.

        Raises:
            MediaError: the decoder is closed.
        """
        context = self._require_open()
        if not self._started:
            if not unit.keyframe:
                self.skipped += 1
                return []
            self._started = True
        if unit.damaged and self._drop_damaged:
            self.skipped += 1
            return []
        packet = padded_packet(unit.data)
        packet.pts, packet.dts, packet.time_base = unit.pts, unit.dts, TIME_BASE
        self._pending[unit.pts] = unit.arrived_at
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            self.errors += 1
            self._note_size(context)
            return []
        return self._finish(frames)

    def flush(self) -> list[DecodedFrame]:
        """The pictures still held back; after it, decoding starts again at a keyframe."""
        context = self._require_open()
        try:
            frames = context.decode(None)
        except av.FFmpegError:  # includes EOF, when it was flushed before
            frames = []
        finished = self._finish(frames)
        self.reset()
        return finished

    def reset(self) -> None:
        """Forget everything decoded so far; the next unit to be used is a keyframe."""
        self._require_open().flush_buffers()
        self._started = False
        self._pending.clear()

    def close(self) -> None:
        """Free the decoder. Idempotent."""
        self._context = None
        self._pending.clear()

    def _require_open(self) -> VideoCodecContext:
        if self._context is None:
            raise MediaError("the decoder is closed", code="decoder_closed")
        return self._context

    def _note_size(self, context: VideoCodecContext) -> None:
        """libav tells of a picture that is too large as of any other fault, by codec a different
        one, and keeps its size."""
        width, height = context.coded_width, context.coded_height
        if width * height > MOST_PIXELS:
            self.problem = f"pictures of {width}x{height} are larger than {MOST_PIXELS} pixels"

    def _finish(self, frames: list[av.VideoFrame]) -> list[DecodedFrame]:
        finished = []
        for frame in frames:
            if frame.pts is None:
                self.errors += 1
                continue
            arrived_at = self._pending.pop(frame.pts, 0.0)
            frame.time_base = TIME_BASE
            finished.append(DecodedFrame(frame, frame.pts, arrived_at))
        self.frames += len(finished)
        if finished:
            self.problem = None
        return finished


def padded_packet(data: bytes) -> av.Packet[Any]:
    """A packet to decode, with the zero bytes behind it that libavcodec reads over the end of
    (AV_INPUT_BUFFER_PADDING_SIZE).

    PyAV 18 makes ``av.Packet(data)`` a view of the bytes object, without them: decoders then
    read what happens to follow in memory (seen as pictures that differ from run to run).
    """
    packet: av.Packet[Any] = av.Packet(len(data))
    packet.update(data)
    return packet


def _open(codec: str) -> VideoCodecContext:
    try:
        context = av.CodecContext.create(codec, "r")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"no decoder for {codec!r} in this FFmpeg", code="no_decoder") from error
    if not isinstance(context, VideoCodecContext):
        raise MediaError(f"{codec!r} is not a video codec", code="no_decoder")
    context.thread_type = "SLICE"
    context.thread_count = 1
    context.options = {"max_pixels": str(MOST_PIXELS)}
    return context
