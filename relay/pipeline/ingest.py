"""The first half of the path: trickle in, demux, decode, into the queue of decoded frames.

Bytes are demuxed on the event loop as they arrive; a picture is decoded on a codec thread when
its last byte is here (`decoding`), or goes on as it is where it can be sent so (`copied_input`).
Nothing waits for a segment to end. What becomes of the sound is `sound`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from relay.codec_executor import CodecExecutor
from relay.media.access_unit import AccessUnit, CodedFrame, MediaKind, SourceFrame
from relay.media.frame_limit import FrameLimit
from relay.media.live_edge import LiveEdge
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.observe.tally import Tally
from relay.pipeline.copied_input import CopiedInput
from relay.pipeline.decoding import CodedPicture, Decoding
from relay.pipeline.late_decoder import LateDecoder
from relay.pipeline.previews import OnPicture
from relay.pipeline.source_pace import SourcePace
from relay.queues import MediaQueue, OverflowPolicy, QueueClosed
from relay.stats import RateMeter
from relay.tasks import run_beside
from relay.trickle.subscriber import TrickleSubscriber

log = structlog.get_logger(__name__)

# Python 3.11 finds a member of an enum by a call each time.
_AUDIO, _VIDEO = MediaKind.AUDIO, MediaKind.VIDEO

LONGEST_DECODING_S = 30.0
"""A call on a codec thread is waited for so long: nobody may free what it works with."""


class Ingest:
    """Stages 1 to 3.

    Args:
        coded: where pictures wait to be decoded.
        frames: where they wait for the processor. Its policy says whether each has to get there.
        limit: pictures beyond it are decoded and left out.
        on_audio: called on the event loop with each audio access unit.
        on_video_time: called with the decoding time of each video access unit, 90 kHz ticks.
        copied: which pictures stay undecoded.
        on_picture: called on the event loop with each picture, decoded or not.
    """

    def __init__(
        self,
        subscriber: TrickleSubscriber,
        decoder: TrickleStreamDecoder,
        codecs: CodecExecutor,
        coded: MediaQueue[CodedPicture],
        frames: MediaQueue[SourceFrame],
        limit: FrameLimit,
        on_audio: Callable[[AccessUnit], None],
        on_video_time: Callable[[int], None],
        copied: CopiedInput,
        *,
        on_picture: OnPicture = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decoded = RateMeter()
        self.sounded = RateMeter()
        """Audio access units."""
        self.pace = SourcePace(clock)
        self._subscriber = subscriber
        self._decoder = decoder
        complete = frames.policy is OverflowPolicy.WAIT
        self._decoding = Decoding(
            LateDecoder(decoder, codecs), coded, self._queue, complete=complete, clock=clock
        )
        self._coded = coded
        self._copied = copied
        self._frames = frames
        self._limit = limit
        self._on_audio = on_audio
        self._on_video_time = on_video_time
        self._on_picture = on_picture
        self._clock = clock
        self._edge = None if complete else LiveEdge()
        """None where every frame goes through, old ones too."""

    @property
    def problem(self) -> str | None:
        """Why what comes can't be decoded, in words, as far as that can be told."""
        return self._decoder.problem

    async def run(self) -> None:
        """Read the input channel to its end, then close the frame queue, whatever happened.

        Raises:
            TrickleError: the channel can't be read.
        """
        try:
            await run_beside(self._decoding.run(), self._read(), end_timeout_s=LONGEST_DECODING_S)
            for frame in self._edge.flush() if self._edge is not None else ():
                self._put(frame)
        except QueueClosed:
            pass  # stopped while frames waited
        finally:
            self._coded.close()
            self._frames.close()

    def resize(self, width: int, height: int) -> None:
        """Bring pictures to another size from now on."""
        self._decoder.resize(width, height)
        self._copied.resize(width, height)
        self._decoding.copy_none()

    def close(self) -> None:
        """Free the decoder, once `run` has ended."""
        self._decoder.close()

    async def _read(self) -> None:
        try:
            async with self._subscriber:
                async for segment in self._subscriber:
                    while data := await segment.read_chunk():
                        await self._take(self._decoder.demux(data, self._clock()))
                    await self._take(self._decoder.segment_boundary(self._clock()))
        finally:
            self._coded.close()

    async def _take(self, units: list[AccessUnit]) -> None:
        for unit in units:
            kind = unit.stream.kind
            if kind is _AUDIO:
                self.sounded.tick()
                self._on_audio(unit)
            elif kind is _VIDEO:
                self._on_video_time(unit.dts)
                await self._decoding.take(unit, copied=self._copied.takes(unit))

    async def _queue(self, frames: Sequence[SourceFrame]) -> None:
        for frame in frames:
            self.decoded.tick()
            self.pace.note(frame.pts)
            self._on_picture(frame.picture if isinstance(frame, CodedFrame) else frame)
            if self._edge is None:
                if self._admits(frame):
                    await self._frames.put(frame)
            elif self._edge.reached:
                self._put(frame)
            else:
                for admitted in self._edge.admit(frame):
                    self._put(admitted)

    def _put(self, frame: SourceFrame) -> None:
        """Where newer frames take the place of old ones."""
        if self._admits(frame):
            self._frames.put_nowait(frame)

    def _admits(self, frame: SourceFrame) -> bool:
        """Whether it goes on; counted if it does not."""
        if not self._limit.admits(frame.pts):
            self._frames.dropped["frame_limit"] += 1
            return False
        if not isinstance(frame, CodedFrame) and self._limit.skips():
            # Without one of them the coded ones would all have to be decoded and encoded.
            self._frames.dropped["shed"] += 1
            return False
        return not self._frames.closed

    def tally(self, tally: Tally) -> None:
        """Add what was counted and measured."""
        channel = self._subscriber.stats
        read = channel.segments - channel.empty_segments - channel.truncated_segments
        tally.count("segments_total", "in", "read", by=read)
        tally.count("segments_total", "in", "empty", by=channel.empty_segments)
        tally.count("segments_total", "in", "truncated", by=channel.truncated_segments)
        tally.count("segments_total", "in", "skipped", by=channel.skipped_segments)
        tally.count("segment_bytes_total", "in", by=channel.bytes)
        tally.count("trickle_retries_total", "in", "retry", by=channel.retries)
        tally.count("trickle_retries_total", "in", "stall", by=channel.stalls)
        tally.count("trickle_retries_total", "in", "resume", by=channel.resumes)
        tally.at_worst("segments_behind", at=channel.segments_behind)
        tally.count("frames_total", "decoded", "video", by=self.decoded.total)
        tally.count("frames_copied_total", "ingest", by=self._copied.switch.copied)
        tally.stands("sessions_copying", "ingest", at=int(self._copied.switch.copies))
        tally.count("frames_total", "decoded", "audio", by=self.sounded.total)
        tally.measured("stage_duration_seconds", "decode", histogram=self._decoding.took)

    def status(self) -> dict[str, Any]:
        """The input's part of the session status."""
        channel = self._subscriber.stats
        return {
            "fps": round(self.decoded.rate, 1),
            "frames": self.decoded.total,
            "audio_units": self.sounded.total,
            "segments_behind": channel.segments_behind,
            "segments_skipped": channel.skipped_segments,
            "jumps": channel.jumps,
        }
