"""Pictures to trickle segments: encoder and muxer in one object, separable where it matters."""

from __future__ import annotations

from relay.errors import MediaError
from relay.media.access_unit import AccessUnit, DecodedFrame, ElementaryStream
from relay.media.encoder import H264_STREAM, VideoEncoder
from relay.media.encoder_open import SOFTWARE
from relay.media.muxer import CLOCK_LEAD_S
from relay.media.segment_muxer import SegmentChunk, SegmentMuxer

__all__ = ["SegmentChunk", "TrickleSegmentEncoder"]


class TrickleSegmentEncoder:
    """Makes the segments of a trickle video channel, byte by byte.

    ::

        encoder = TrickleSegmentEncoder(512, 512)
        for chunk in encoder.encode(frame):
            if chunk.starts_segment:
                ...  # close the segment, open the next
            await segment.write(chunk.data)

    A segment begins with PAT, PMT and an IDR picture. A picture of another size gets an encoder of
    its size, and a new segment. To keep x264 off an event loop, call `encode_picture` in a thread
    and `mux` on the loop; `encode` is both. One call at a time, except that `add_audio` and `mux`
    may run while `encode_picture` does.

    Args:
        width, height: of the pictures to come first.
        segment_seconds: nominal length, by the pictures' own time.
        audio: the audio stream to announce from the start, if there will be one.
        video: whether to announce video from the start; without, pictures may still come later.
        clock_lead_s: see `SegmentMuxer`.
        fps_hint, bit_rate, keyframe_seconds, preset, codec: see `VideoEncoder`.
    """

    def __init__(
        self,
        width: int = 512,
        height: int = 512,
        segment_seconds: float = 1.0,
        *,
        audio: ElementaryStream | None = None,
        video: bool = True,
        clock_lead_s: float = CLOCK_LEAD_S,
        fps_hint: float = 30.0,
        bit_rate: int | None = None,
        keyframe_seconds: float = 10.0,
        preset: str = "superfast",
        codec: str = SOFTWARE,
    ) -> None:
        self._fps_hint = fps_hint
        self._bit_rate = bit_rate
        self._keyframe_seconds = keyframe_seconds
        self._preset = preset
        self._codec = codec
        self._muxer = SegmentMuxer(
            H264_STREAM if video else None, audio, segment_seconds, clock_lead_s=clock_lead_s
        )
        self._encoder: VideoEncoder | None = self._open(width, height) if video else None
        self._finished = False
        self._cut = False
        self._passing_on = False

    @property
    def codec(self) -> str | None:
        """Which encoder runs, by FFmpeg's name; None while none does."""
        return self._encoder.codec if self._encoder is not None else None

    @property
    def segments(self) -> int:
        """How many were begun."""
        return self._muxer.segments

    def encode(self, frame: DecodedFrame) -> list[SegmentChunk]:
        """Encode and mux one picture.

        Raises:
            MediaError: as `encode_picture`.
        """
        return [chunk for unit in self.encode_picture(frame) for chunk in self.mux(unit)]

    def encode_picture(self, frame: DecodedFrame) -> list[AccessUnit]:
        """Encode one picture: the part for a thread.

        Args:
            frame: yuv420p of any even size; its pts is kept exactly, in any order.

        Returns:
            Its access unit, to be given to `mux` before the next picture is encoded.

        Raises:
            MediaError: x264 failed or does not take this size, or `finish` was called.
        """
        if self._finished:
            raise MediaError("the segment encoder is finished", code="encoder_closed")
        size = frame.frame.width, frame.frame.height
        own_begins, self._passing_on = self._passing_on, False
        self._cut = self._cut or own_begins
        if self._encoder is None:
            self._encoder = self._open(*size)
        elif size != (self._encoder.width, self._encoder.height):
            encoder = self._open(*size)
            self._encoder.close()
            self._encoder = encoder
            self._cut = True
        force_keyframe = own_begins or self._muxer.needs_keyframe(frame.pts)
        units = self._encoder.encode(frame.frame, frame.pts, force_keyframe)
        for unit in units:
            unit.arrived_at = frame.arrived_at
        return units

    def pass_on(self, *, cut: bool = False) -> None:
        """The picture that is given to `mux` next was encoded elsewhere, with SPS and PPS in front
        of every IDR picture; the first one, and one with `cut`, is an IDR picture and begins a
        segment. The encoder is freed until a picture comes that is to be encoded here, which begins
        another. Not while `encode_picture` runs."""
        self._cut = self._cut or cut or not self._passing_on
        self._passing_on = True
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    @property
    def in_segment(self) -> bool:
        """Whether a picture may follow that is no keyframe."""
        return self._muxer.video_in_segment

    def needs_keyframe(self, time: int) -> bool:
        """Whether a segment should begin with the picture at `time` (90 kHz ticks)."""
        return self._muxer.needs_keyframe(time)

    def mux(self, unit: AccessUnit) -> list[SegmentChunk]:
        """Mux what `encode_picture` returned: the part for the event loop."""
        cut, self._cut = self._cut, False
        return self._muxer.add(unit, cut=cut)

    def add_audio(self, unit: AccessUnit) -> list[SegmentChunk]:
        """Mux an audio unit here and now, untouched; give it in time with the pictures."""
        return self._muxer.add(unit)

    def end_segment(self) -> None:
        """Nothing comes for a while: the segment is over as it is, and what comes next begins
        another, a picture as an IDR. Not while `encode_picture` runs."""
        self._muxer.end_segment()

    def finish(self) -> list[SegmentChunk]:
        """Free the encoder. Nothing is ever held back, so nothing comes out. Idempotent."""
        self._finished = True
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        return []

    def _open(self, width: int, height: int) -> VideoEncoder:
        return VideoEncoder(
            width,
            height,
            fps_hint=self._fps_hint,
            bit_rate=self._bit_rate,
            keyframe_seconds=self._keyframe_seconds,
            delimiters=True,
            preset=self._preset,
            codec=self._codec,
        )
