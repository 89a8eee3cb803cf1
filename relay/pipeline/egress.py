"""The second half of the path: processed units in, encode, mux, into output segments.

A processed picture is decoded (if the server sent it encoded) and encoded again in one call on a
codec thread, under the source's pts; muxing is cheap and stays on the event loop. Or, where that
was asked for and can be done, the server's picture is muxed as it is (`copied_output`), and not
decoded unless somebody wants to see it. Sound joins here, in time with the video it belongs to
(`output_audio`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from relay.codec_executor import CodecExecutor
from relay.copy_switch import CopySwitch, Obstacle
from relay.deadline import Deadline
from relay.errors import MediaError
from relay.media import h264
from relay.media.access_unit import (
    CLOCK_RATE,
    AccessUnit,
    CodedFrame,
    DecodedFrame,
    ElementaryStream,
    MediaKind,
    RepeatPicture,
)
from relay.media.decode_backlog import DecodeBacklog
from relay.media.decoder import VideoDecoder
from relay.media.h264_stream import ParameterSets
from relay.media.picture import copy_of
from relay.media.segment_encoder import SegmentChunk, TrickleSegmentEncoder
from relay.observe.tally import Tally
from relay.pipeline.copied_output import CopiedOutput
from relay.pipeline.output_rate import OutputRate
from relay.pipeline.previews import OnPicture
from relay.pipeline.publish import OutputSegment
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue, QueueClosed
from relay.session_config import Coding
from relay.sound.output_audio import OutputAudio
from relay.stats import Histogram, RateMeter

NEW_TIME_LINE = CLOCK_RATE
"""A step back further than a second is the source's (it restarted); a smaller one is a frame
under a wrong name, and would be out of order on the output."""

SILENCE_S = 10.0
"""A segment that nothing was added to for so long ends there. Its viewers have all of it, and an
open one would be the reason why a server sweeps a channel that is not dead: the reference counts
first bytes of segments only."""

UNDECODABLE_IN_A_ROW = 3
"""One picture that can't be decoded is concealed by the next ones; after so many these refer to
what was never there, and nothing is shown before the next keyframe."""

_Decodable = AccessUnit | DecodedFrame | RepeatPicture


class Egress:
    """From processed units to output segments.

    Args:
        make_encoder: makes the segment encoder when the output begins, given whether to announce
            video and the audio stream to announce.
        video_listed: tells whether the input has video now.
        audio_stream: tells the output's audio stream, None while there is none.
        copying: whether what comes encoded goes out as it came.
        request_keyframe: asks for the next processed unit to be a keyframe.
        on_decoded: told of each processed unit that came encoded whether it gave a picture.
        on_picture: told on the event loop of the picture that goes out, or of one that went out
            without being decoded.
    """

    def __init__(
        self,
        processed: MediaQueue[ProcessedUnit] | OutputRate,
        segments: MediaQueue[OutputSegment],
        codecs: CodecExecutor,
        make_encoder: Callable[[bool, ElementaryStream | None], TrickleSegmentEncoder],
        video_listed: Callable[[], bool],
        audio_stream: Callable[[], ElementaryStream | None],
        *,
        copying: CopySwitch | None = None,
        request_keyframe: Callable[[], None] = lambda: None,
        on_decoded: Callable[[bool], None] = lambda _: None,
        on_picture: OnPicture = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.encoded = RateMeter()
        self.encoding = Histogram()
        self.out_of_order = 0
        """Processed pictures older than one that is out already; dropped."""
        self.repeated = 0
        """Pictures that were the one before again."""
        self.copying = copying or CopySwitch(Coding.TRANSCODE)
        self._copied = CopiedOutput(
            self.copying,
            lambda: self._encoder is not None and self._encoder.in_segment,
            self._needs_keyframe,
            request_keyframe,
            prevented=Obstacle.OUTPUT_FPS if isinstance(processed, OutputRate) else None,
            clock=clock,
        )
        self._undecoded = DecodeBacklog()
        self._parameter_sets = ParameterSets()
        self._copied_sps = b""
        self._silence = Deadline()
        self._codec = asyncio.Lock()
        """Held while decoder and encoder work."""
        self._processed = processed
        self._segments = segments
        self._codecs = codecs
        self._make_encoder = make_encoder
        self._video_listed = video_listed
        self._audio_stream = audio_stream
        self.audio = OutputAudio(
            self._write, self._begin_without_picture, video_listed, clock=clock
        )
        """Where sound joins the pictures."""
        self._on_decoded = on_decoded
        self._on_picture = on_picture
        self._undecodable = 0
        self._decodable = True
        self._decoder: VideoDecoder | None = None
        self._encoder: TrickleSegmentEncoder | None = None
        self._shown: DecodedFrame | None = None
        self._segment: OutputSegment | None = None
        self._last_pts: int | None = None
        self._last_arrived_at = 0.0
        self._clock = clock
        self._written_at = 0.0

    async def run(self) -> None:
        """Work until `processed` has ended, then end the segment and its queue.

        Raises:
            MediaError: the encoder can't go on.
        """
        try:
            while (processed := await self._next_unit()) is not None:
                if self._segment is not None and self._segment.lost:
                    self._end_segment()
                await self._take(processed)
            await self.audio.wait_end()
            self.audio.flush()
        finally:
            self._silence.close()
            self.audio.close()
            if self._segment is not None:
                self._segment.finish()
            self._segments.close()

    def close(self) -> None:
        """Free the codecs, once `run` has ended."""
        if self._encoder is not None:
            self._encoder.finish()
        self._undecoded = DecodeBacklog()
        if self._decoder is not None:
            self._decoder.close()

    async def _take(self, processed: ProcessedUnit) -> None:
        shown = self._in_order(processed)
        if isinstance(processed, AccessUnit):
            if self._stays_encoded(processed, shown):
                await self._pass_on(processed, shown)
                return
        elif not shown:
            return
        else:
            self._copied.interrupt()
        if isinstance(processed, CodedFrame):
            stand_in = await _decoded(processed)
            if stand_in is None:
                return
            processed = stand_in
        await self._encode(processed, shown)

    async def _encode(self, processed: _Decodable, shown: bool) -> None:
        began_at = time.monotonic()
        async with self._codec:
            missed = self._undecoded.take()
            units = await self._codecs.run(self._transcode, processed, shown, missed)
        self.encoding.add(time.monotonic() - began_at)
        if isinstance(processed, AccessUnit):
            self._on_decoded(self._decodable)
        if units and self._shown is not None:
            self._on_picture(self._shown)
        for unit in units:
            self._mux(unit)

    def _stays_encoded(self, unit: AccessUnit, shown: bool) -> bool:
        if self.copying.wanted and unit.keyframe and not self._parameter_sets.complete(unit):
            unit.keyframe = False
        takes = self._copied.takes(unit, shown=shown)
        # While nothing can be decoded nothing is shown, and only decoding tells the end of it.
        return takes and (shown or self._decodable)

    async def _pass_on(self, unit: AccessUnit, shown: bool) -> None:
        """Let a unit go out as it is, or, if it is not to be shown, not at all."""
        unit.hidden = not shown
        if not shown or not unit.keyframe:
            self._undecoded.pass_by(unit)
        elif not await self._can_be_decoded(unit):
            self._copied.undecodable()
            return
        if not shown:
            return
        if self._encoder is None:
            async with self._codec:
                self._encoder = await self._codecs.run(
                    self._make_encoder, True, self._audio_stream()
                )
        new_parameters = unit.keyframe and self._parameter_sets.sps != self._copied_sps
        self._copied_sps = self._parameter_sets.sps
        self._encoder.pass_on(cut=new_parameters)
        unit.data = h264.without_delimiter(unit.data)  # the muxer begins each unit with one
        self._mux(unit)
        self._on_picture(self._newest_picture)

    async def _can_be_decoded(self, keyframe: AccessUnit) -> bool:
        """Whether it gives a picture: nobody else would notice that a server sends rubbish. Costs
        one picture a segment."""
        self._undecoded.clear()
        async with self._codec:
            await self._codecs.run(self._catch_up, [keyframe])
        self._on_decoded(self._decodable)
        return self._decodable

    def _mux(self, unit: AccessUnit) -> None:
        self.encoded.tick()
        self.audio.video(unit)
        self._copied.look_ahead(unit.pts)

    async def _newest_picture(self) -> DecodedFrame | None:
        """The picture that went out last, decoded now, on the thread beside the others; None if it
        can't be."""
        async with self._codec:
            missed = self._undecoded.take()
            try:
                await self._codecs.run_beside(self._catch_up, missed)
            except MediaError:
                return None  # the output has ended
        return self._shown

    def _needs_keyframe(self, pts: int) -> bool:
        return self._encoder is None or self._encoder.needs_keyframe(pts)

    async def _next_unit(self) -> ProcessedUnit | None:
        """None once there will be no more."""
        while True:
            try:
                with self._silence.within(SILENCE_S):
                    return await self._processed.get()
            except QueueClosed:
                return None
            except TimeoutError:
                if self._segment is not None and self._clock() - self._written_at >= SILENCE_S:
                    self._end_segment()

    def _end_segment(self) -> None:
        assert self._segment is not None
        assert self._encoder is not None
        self._segment.finish()
        self._segment = None
        self._encoder.end_segment()

    def _in_order(self, unit: ProcessedUnit) -> bool:
        """Whether the unit is to be shown: its time is past the last one's, or on another time line
        altogether."""
        if isinstance(unit, AccessUnit) and unit.hidden:
            return False
        if isinstance(unit, RepeatPicture) and self._shown is None and not len(self._undecoded):
            return False
        last = self._last_pts
        if last is not None and unit.pts <= last:
            # What came in before the last one shown is late, however far back it lies.
            late = 0 < unit.arrived_at < self._last_arrived_at
            if late or last - NEW_TIME_LINE < unit.pts:
                self.out_of_order += 1
                return False
        self._last_pts, self._last_arrived_at = unit.pts, unit.arrived_at
        return True

    def _transcode(
        self, unit: _Decodable, shown: bool, missed: list[AccessUnit]
    ) -> list[AccessUnit]:
        """One processed unit to output access units; runs on a codec thread.

        Args:
            shown: False decodes only: later pictures refer to this one.
            missed: what has to be decoded before.
        """
        self._catch_up(missed)
        frames = self._pictures(unit)
        units: list[AccessUnit] = []
        if not shown:
            return units
        for frame in frames:
            if self._encoder is None:
                self._encoder = self._make_encoder(True, self._audio_stream())
            units += self._encoder.encode_picture(frame)
            self._shown = frame
        return units

    def _pictures(self, unit: _Decodable) -> list[DecodedFrame]:
        match unit:
            case AccessUnit():
                return self._decode(unit)
            case RepeatPicture(pts, arrived_at):
                if self._shown is None:
                    return []
                self.repeated += 1
                return [DecodedFrame(self._shown.frame, pts, arrived_at)]
            case _:
                return [unit]

    def _catch_up(self, missed: list[AccessUnit]) -> None:
        """Decode what was passed by; runs on a codec thread."""
        if self._undecoded.lost:
            self._undecoded.lost = False
            if self._decoder is not None:
                self._decoder.reset()
        for unit in missed:
            frames = self._decode(unit)
            if frames and not unit.hidden:
                self._shown = frames[-1]

    def _decode(self, unit: AccessUnit) -> list[DecodedFrame]:
        if self._decoder is None:
            self._decoder = VideoDecoder(unit.stream.codec)
        # What came whole and still decodes to a corrupt picture is no picture but chance: of slices
        # of random bytes 4 in 100 do (measured). After a loss a short artefact beats a freeze.
        frames = [
            decoded
            for decoded in self._decoder.decode(unit)
            if unit.damaged or not decoded.frame.is_corrupt
        ]
        self._decodable = bool(frames)
        self._undecodable = 0 if frames else self._undecodable + 1
        if self._undecodable == UNDECODABLE_IN_A_ROW:
            self._decoder.reset()
        return frames

    def _begin_without_picture(self) -> bool:
        # A locked codec may be making the encoder at this moment.
        if self._encoder is None and not self._codec.locked():
            self._encoder = self._make_encoder(self._video_listed(), self._audio_stream())
        return self._encoder is not None

    def _write(self, units: list[AccessUnit]) -> None:
        if self._encoder is None or self._segments.closed:
            return
        for unit in units:
            is_video = unit.stream.kind is MediaKind.VIDEO
            for chunk in self._encoder.mux(unit) if is_video else self._encoder.add_audio(unit):
                self._append(chunk)

    def _append(self, chunk: SegmentChunk) -> None:
        if chunk.starts_segment or self._segment is None:
            if self._segment is not None:
                self._segment.finish()
            self._segment = OutputSegment()
            self._segments.put_nowait(self._segment)
        self._segment.append(chunk)
        self._written_at = self._clock()

    def tally(self, tally: Tally) -> None:
        """Add what was counted and measured."""
        tally.count("frames_total", "encoded", "video", by=self.encoded.total)
        tally.count("frames_copied_total", "egress", by=self.copying.copied)
        tally.stands("sessions_copying", "egress", at=int(self.copying.copies))
        tally.measured("stage_duration_seconds", "encode", histogram=self.encoding)

    def status(self) -> dict[str, Any]:
        """The encoder's part of the session status."""
        return {
            "fps_encoded": round(self.encoded.rate, 1),
            "encoder": self._encoder.codec if self._encoder is not None else None,
            "frames_out_of_order": self.out_of_order,
            "frames_repeated": self.repeated,
        } | self.audio.status()


async def _decoded(stand_in: CodedFrame) -> DecodedFrame | None:
    """A picture of its own, as others encode the same one at the same time."""
    picture = await stand_in.picture()
    if picture is None:
        return None
    return DecodedFrame(copy_of(picture.frame), stand_in.pts, stand_in.arrived_at)
