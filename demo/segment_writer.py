"""Encoded packets into independent MPEG-TS segments, by libavformat, not by the relay's muxer.

The relay is judged by what this writes, so it must not share code with it. Each segment is made
by a muxer of its own, as trickle clients in the field do it: SDT, PAT and PMT first, continuity
counters from zero, PES of unknown length for video, timestamps going on.

libavformat's interleaver holds a video packet until it has seen later audio. Here audio goes in
ahead of the video it belongs to, so a video packet's last byte leaves in its own call and each
chunk of bytes ends exactly where a frame does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.container import OutputContainer

CLOCK_RATE = 90_000

_MUXER_OPTIONS = {
    "mpegts_copyts": "1",
    "avoid_negative_ts": "disabled",
    # One audio frame a PES; libavformat would otherwise collect up to 2930 bytes of them.
    "pes_payload_size": "0",
    # A stream that has gone silent must not hold the other back.
    "max_interleave_delta": "1",
}


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """A video frame on a source channel."""

    number: int
    pts: int
    """90 kHz, unwrapped: on the wire it is taken modulo 2^33."""
    keyframe: bool


@dataclass(frozen=True, slots=True)
class SourceChunk:
    """Bytes of a live stream, in order.

    With a frame, the last byte of `data` is the last byte of that frame's PES packet. Without
    one, it is the end of a segment (audio that was ahead).
    """

    data: bytes
    segment: int
    """Counts from 0; the first chunk with a new number begins a segment."""
    due_s: float
    """When to send it, in seconds after the first chunk."""
    frame: SourceFrame | None = None


class SegmentWriter:
    """Cuts a stream of encoded packets into segments that begin with a keyframe.

    Args:
        video: a stream whose parameters the segments' video gets (of an input, or of an output
            whose encoder is open).
        audio: the same for the sound; None for none.
        segment_s: a segment ends before the first keyframe at or after this much video.
        pes_length: announce the length of video PES packets; libavformat's default is not to.
    """

    def __init__(
        self,
        video: av.VideoStream,
        audio: av.AudioStream | None = None,
        *,
        segment_s: float = 1.0,
        pes_length: bool = False,
    ) -> None:
        self._video_template = video
        self._audio_template = audio
        # A keyframe half a frame early by rounding still counts as on time.
        self._segment_ticks = round(segment_s * CLOCK_RATE) - CLOCK_RATE // 100
        self._options = {
            **_MUXER_OPTIONS,
            "omit_video_pes_length": "0" if pes_length else "1",
        }
        self._segment = -1
        self._segment_start = 0
        self._first_dts: int | None = None
        self._due_s = 0.0
        self._audio: deque[av.Packet] = deque()
        self._audio_dts_written = 0
        self._sink = bytearray()
        self._container: OutputContainer | None = None
        self._video_stream: av.VideoStream
        self._audio_stream: av.AudioStream | None

    def wants_audio(self, dts: int) -> bool:
        """Whether more audio should be given before the video packet of `dts` is written."""
        return self._audio_template is not None and (not self._audio or self._audio[-1].dts <= dts)

    def add_audio(self, packet: av.Packet) -> None:
        """Take an audio packet, pts and dts in 90 kHz ticks; it goes out with later video."""
        self._audio.append(packet)

    def write_video(self, packet: av.Packet, number: int) -> Iterator[SourceChunk]:
        """Write a video packet, pts and dts in 90 kHz ticks, with the audio due before it.

        Yields:
            the end of the last segment, if this packet begins a new one, then the packet's own
            chunk.
        """
        frame = SourceFrame(number, packet.pts, packet.is_keyframe)
        dts = packet.dts
        if self._first_dts is None:
            self._first_dts = dts
        due_s = self._due_s = (dts - self._first_dts) / CLOCK_RATE
        if self._container is None or (
            frame.keyframe and dts - self._segment_start >= self._segment_ticks
        ):
            yield from self._end_segment(due_s)
            self._begin_segment(dts)
        while self._audio and self._audio_dts_written <= dts:
            self._mux_audio()
        packet.stream = self._video_stream
        self._container.mux_one(packet)
        yield SourceChunk(self._take(), self._segment, due_s, frame)

    def close(self) -> Iterator[SourceChunk]:
        """End the last segment, with the audio that is left."""
        while self._container is not None and self._audio:
            self._mux_audio()
        yield from self._end_segment(self._due_s)

    def _begin_segment(self, dts: int) -> None:
        self._segment += 1
        self._segment_start = dts
        self._container = av.open(_Sink(self._sink), "w", format="mpegts", options=self._options)
        self._video_stream = self._container.add_stream_from_template(self._video_template)
        self._audio_stream = None
        if self._audio_template is not None:
            self._audio_stream = self._container.add_stream_from_template(self._audio_template)
        # Nothing is in this muxer yet, whatever the last one was ahead by.
        self._audio_dts_written = -(1 << 62)

    def _end_segment(self, due_s: float) -> Iterator[SourceChunk]:
        if self._container is None:
            return
        self._container.close()
        self._container = None
        if tail := self._take():
            yield SourceChunk(tail, self._segment, due_s)

    def _mux_audio(self) -> None:
        packet = self._audio.popleft()
        packet.stream = self._audio_stream
        self._audio_dts_written = packet.dts
        self._container.mux_one(packet)

    def _take(self) -> bytes:
        data = bytes(self._sink)
        self._sink.clear()
        return data


class _Sink:
    """What libavformat writes to: a file that can't seek."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)
