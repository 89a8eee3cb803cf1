"""The second half of the path: processed units in, encode, mux, into output segments.

A processed picture is decoded (if the server sent it encoded) and encoded again in one call on a
codec thread, under the source's pts; muxing is cheap and stays on the event loop. Audio comes
past the server and joins here, in time with the video it belongs to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from relay.codec_executor import CodecExecutor
from relay.media.access_unit import (
    CLOCK_RATE,
    AccessUnit,
    DecodedFrame,
    ElementaryStream,
    MediaKind,
)
from relay.media.decoder import VideoDecoder
from relay.media.interleaver import AudioInterleaver
from relay.media.segment_encoder import SegmentChunk, TrickleSegmentEncoder
from relay.processor import ProcessedUnit
from relay.publish import OutputSegment
from relay.queues import MediaQueue, QueueClosed
from relay.stats import RateMeter

NEW_TIME_LINE = CLOCK_RATE
"""A step back further than a second is the source's (it restarted); a smaller one is a frame
under a wrong name, and would be out of order on the output."""


class Egress:
    """From processed units to output segments.

    Args:
        make_encoder: makes the segment encoder when the first picture is here, given the audio
            stream that the segments have to announce.
        audio_stream: tells the input's audio stream, None while there is none.
    """

    def __init__(
        self,
        processed: MediaQueue[ProcessedUnit],
        segments: MediaQueue[OutputSegment],
        codecs: CodecExecutor,
        make_encoder: Callable[[ElementaryStream | None], TrickleSegmentEncoder],
        audio_stream: Callable[[], ElementaryStream | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.encoded = RateMeter()
        self.out_of_order = 0
        """Processed pictures older than one that is out already; dropped."""
        self._processed = processed
        self._segments = segments
        self._codecs = codecs
        self._make_encoder = make_encoder
        self._audio_stream = audio_stream
        self._clock = clock
        self._interleaver = AudioInterleaver()
        self._decoder: VideoDecoder | None = None
        self._encoder: TrickleSegmentEncoder | None = None
        self._segment: OutputSegment | None = None
        self._video_begun = False
        self._last_pts: int | None = None
        self._audio_timer: asyncio.TimerHandle | None = None

    def add_audio(self, unit: AccessUnit) -> None:
        """Take an audio unit from the input, untouched. On the event loop."""
        self._write(self._interleaver.audio(unit, self._clock()))
        self._arm_audio_timer()

    async def run(self) -> None:
        """Work until `processed` has ended, then end the segment and its queue.

        Raises:
            MediaError: the encoder can't go on.
        """
        try:
            while True:
                processed = await self._processed.get()
                if not self._in_order(processed):
                    continue
                for unit in await self._codecs.run(self._transcode, processed):
                    self.encoded.tick()
                    self._write(self._interleaver.video(unit))
        except QueueClosed:
            self._write(self._interleaver.flush())
        finally:
            if self._audio_timer is not None:
                self._audio_timer.cancel()
            if self._segment is not None:
                self._segment.finish()
            self._segments.close()

    def close(self) -> None:
        """Free the codecs, once `run` has ended."""
        if self._encoder is not None:
            self._encoder.finish()
        if self._decoder is not None:
            self._decoder.close()

    def _in_order(self, unit: ProcessedUnit) -> bool:
        """Whether the unit's time is past the last one's, or on another time line altogether."""
        last, self._last_pts = self._last_pts, unit.pts
        if last is not None and last - NEW_TIME_LINE < unit.pts <= last:
            self.out_of_order += 1
            self._last_pts = last
            return False
        return True

    def _transcode(self, unit: ProcessedUnit) -> list[AccessUnit]:
        """One processed unit to output access units; runs on a codec thread."""
        frames = [unit] if isinstance(unit, DecodedFrame) else self._decode(unit)
        units = []
        for frame in frames:
            if self._encoder is None:
                self._encoder = self._make_encoder(self._audio_stream())
            units += self._encoder.encode_picture(frame)
        return units

    def _decode(self, unit: AccessUnit) -> list[DecodedFrame]:
        if self._decoder is None:
            self._decoder = VideoDecoder(unit.stream.codec)
        return self._decoder.decode(unit)

    def _write(self, units: list[AccessUnit]) -> None:
        if self._encoder is None or self._segments.closed:
            return
        for unit in units:
            if unit.stream.kind is MediaKind.VIDEO:
                self._video_begun = True
                chunks = self._encoder.mux(unit)
            elif not self._video_begun:
                continue  # the output begins with a picture
            else:
                chunks = self._encoder.add_audio(unit)
            for chunk in chunks:
                self._append(chunk)

    def _append(self, chunk: SegmentChunk) -> None:
        if chunk.starts_segment or self._segment is None:
            if self._segment is not None:
                self._segment.finish()
            self._segment = OutputSegment()
            self._segments.put_nowait(self._segment)
        self._segment.append(chunk)

    def _arm_audio_timer(self) -> None:
        deadline = self._interleaver.deadline
        if deadline is not None and self._audio_timer is None:
            loop = asyncio.get_running_loop()
            self._audio_timer = loop.call_later(
                max(0.0, deadline - self._clock()), self._release_late_audio
            )

    def _release_late_audio(self) -> None:
        self._audio_timer = None
        self._write(self._interleaver.expire(self._clock()))
        self._arm_audio_timer()

    def status(self) -> dict[str, Any]:
        """The encoder's part of the session status."""
        return {
            "fps_encoded": round(self.encoded.rate, 1),
            "frames_out_of_order": self.out_of_order,
            "audio_waiting": len(self._interleaver),
            "audio_released_late": self._interleaver.released_late,
        }
