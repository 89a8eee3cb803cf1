"""The last stage: output segments into the output channel, as their bytes are made.

An output segment is streamed into its open POST while the egress still fills it: each chunk by the
egress's own call, as long as the socket takes it at once; what it does not waits in a bounded
queue. When the channel takes bytes too slowly, whole segments wait in the `output_segments` queue;
when that is full the oldest makes way, counted: never part of one without a trace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from relay.media.access_unit import MediaKind
from relay.media.segment_encoder import SegmentChunk
from relay.observe.tally import Tally
from relay.pipeline.stream_tee import StreamTee
from relay.queues import MediaQueue, OverflowPolicy, QueueClosed
from relay.stats import DelayMeter, MinuteMeter, RateMeter
from relay.tasks import cancel_and_wait
from relay.trickle.errors import SegmentLostError
from relay.trickle.publisher import TricklePublisher
from relay.trickle.segment_writer import SegmentWriter

log = structlog.get_logger(__name__)

CHUNKS_PER_SEGMENT = 4096
"""Bounds what one segment may hold in memory: 10 s of 60 fps video with audio is 1200 chunks."""


class OutputSegment:
    """One segment on its way out: filled by the egress, streamed by `Publish`."""

    def __init__(self) -> None:
        self.chunks: MediaQueue[SegmentChunk] = MediaQueue(
            "output_chunks", CHUNKS_PER_SEGMENT, OverflowPolicy.DROP_OLDEST
        )
        self.lost = False
        """Whether what was not published of it can't be any more."""
        self.take_now: Callable[[SegmentChunk], bool] | None = None
        """Publishes a chunk at once; says whether it did. Set while nothing is under way before."""

    def append(self, chunk: SegmentChunk) -> None:
        """Add what comes next; to a lost one, nothing."""
        if self.lost:
            return
        if self.take_now is None or self.chunks or not self.take_now(chunk):
            self.chunks.put_nowait(chunk)

    def lose(self) -> None:
        """Its POST broke, and can't be sent again."""
        self.lost = True
        self.chunks.close()
        self.chunks.clear("segment_lost")

    def finish(self) -> None:
        """No chunk will follow."""
        self.chunks.close()


class Publish:
    """Streams output segments to the publisher, in order.

    Args:
        segments: OutputSegment; the head is taken as soon as the one before it has ended.
        tee: gets what is published as well.
    """

    def __init__(
        self,
        publisher: TricklePublisher,
        segments: MediaQueue[OutputSegment],
        *,
        tee: StreamTee | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.frames = RateMeter()
        self.minute = MinuteMeter()
        self.sound = RateMeter()
        """Audio units written."""
        self.delay = DelayMeter()
        """From a frame's last byte in to its last byte out, per published frame."""
        self.segments_published = 0
        self.segments_lost = 0
        self.segment_lost_at: float | None = None
        self.bytes_published = 0
        self.last_seq: int | None = None
        self.keep_channel = False
        """Leave the channel open at the end: another process goes on with it."""
        self._tee = tee
        self._publisher = publisher
        self._segments = segments
        self._clock = clock

    async def run(self) -> None:
        """Publish until the segment queue has ended, then close the channel.

        Raises:
            TrickleError: the output channel is gone, or refuses us.
        """
        try:
            if await self._start():
                while True:
                    await self._publish(await self._segments.get())
        except QueueClosed:
            pass
        finally:
            await self._publisher.aclose(delete=not self.keep_channel)

    async def _start(self) -> bool:
        """Open the channel, as long as there is something to publish; says whether it is open."""
        opening = asyncio.ensure_future(self._publisher.start())
        over = asyncio.ensure_future(self._segments.wait_closed())
        try:
            await asyncio.wait({opening, over}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                opening.result()
                return True
            self._segments.clear("output_unreachable")
            return False
        finally:
            await cancel_and_wait([opening, over])

    async def _publish(self, segment: OutputSegment) -> None:
        try:
            writer = await self._publisher.next_segment()
            await self._stream(segment, writer)
            self.last_seq = writer.seq
            self.segments_published += 1
        except SegmentLostError as error:
            # Part of it is out and can't be sent again; the next segment begins with an IDR.
            self.segments_lost += 1
            self.segment_lost_at = self._clock()
            segment.lose()
            log.warning("publish.segment_lost", error=error.message, code=error.code)

    async def _stream(self, segment: OutputSegment, writer: SegmentWriter) -> None:
        publish_now = partial(self._publish_now, writer)
        try:
            while True:
                segment.take_now = publish_now
                chunk = await segment.chunks.get()
                segment.take_now = None
                await writer.write(chunk.data)
                self._note(chunk)
        except QueueClosed:
            await writer.finish()

    def _publish_now(self, writer: SegmentWriter, chunk: SegmentChunk) -> bool:
        if not writer.write_nowait(chunk.data):
            return False
        self._note(chunk)
        return True

    def _note(self, chunk: SegmentChunk) -> None:
        self.bytes_published += len(chunk.data)
        if self._tee is not None:
            self._tee.write(chunk.data, starts_segment=chunk.starts_segment)
        if chunk.kind is MediaKind.AUDIO:
            self.sound.tick()
        elif chunk.kind is MediaKind.VIDEO:
            self.frames.tick()
            self.minute.tick()
            if chunk.arrived_at:  # a repeated picture may stand for no input frame
                self.delay.add(self._clock() - chunk.arrived_at)

    def tally(self, tally: Tally) -> None:
        """Add what was counted and measured."""
        channel = self._publisher.stats
        tally.count("segments_total", "out", "published", by=self.segments_published)
        tally.count("segments_total", "out", "lost", by=self.segments_lost)
        tally.count("segment_bytes_total", "out", by=self.bytes_published)
        tally.count("frames_total", "published", "video", by=self.frames.total)
        tally.count("frames_total", "published", "audio", by=self.sound.total)
        tally.measured("end_to_end_latency_seconds", histogram=self.delay.histogram)
        for reason, times in (
            ("retry", channel.retries),
            ("stall", channel.stalls),
            ("conflict", channel.conflicts),
        ):
            tally.count("trickle_retries_total", "out", reason, by=times)

    @property
    def problem(self) -> str | None:
        """What keeps the channel from being written; None while nothing does."""
        return self._publisher.problem

    def status(self) -> dict[str, Any]:
        """The output's part of the session status."""
        return {
            "fps": round(self.frames.rate, 1),
            "frames": self.frames.total,
            "segments": self.segments_published,
            "segments_lost": self.segments_lost,
            "bytes": self.bytes_published,
            "last_seq": self.last_seq,
        }
