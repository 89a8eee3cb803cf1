"""The last stage: what goes out in the egress's own call, what waits, and in which order."""

from __future__ import annotations

import asyncio

from relay.media.access_unit import MediaKind
from relay.media.segment_muxer import SegmentChunk
from relay.pipeline.publish import OutputSegment, Publish
from relay.pipeline.stream_tee import StreamTee
from relay.queues import MediaQueue
from relay.trickle.errors import SegmentLostError
from relay.trickle.publisher_options import PublisherStats
from tests.peers.waiting import until


class Channel:
    """Stands in for the publisher and its writers: takes bytes at once unless told otherwise."""

    problem = None
    stats = PublisherStats()

    def __init__(self) -> None:
        self.segments: list[list[bytes]] = []
        self.finished = 0
        self.seq = -1
        self.full = False
        """Nothing is taken at once; `write` waits for `drained`."""
        self.drained = asyncio.Event()
        self.broken = False
        self.waited = 0
        """Writes that may have waited."""

    async def start(self) -> None:
        pass

    async def next_segment(self) -> Channel:
        self.seq += 1
        self.segments.append([])
        return self

    def write_nowait(self, data: bytes) -> bool:
        if self.full or self.broken:
            return False
        self.segments[-1].append(data)
        return True

    async def write(self, data: bytes) -> None:
        self.waited += 1
        if self.broken:
            raise SegmentLostError("cut")
        if self.full:
            await self.drained.wait()
        self.segments[-1].append(data)

    async def finish(self) -> None:
        self.finished += 1

    async def aclose(self, *, delete: bool) -> None:
        pass


class Stage:
    """The stage at work, with a segment under way."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.segments: MediaQueue[OutputSegment] = MediaQueue("output_segments", 4)
        self.publish = Publish(self.channel, self.segments, tee=StreamTee())  # type: ignore[arg-type]
        self.segment = OutputSegment()
        self.task = asyncio.ensure_future(self.publish.run())

    async def begin(self) -> Stage:
        """The first segment is under way, and nothing waits."""
        self.segments.put_nowait(self.segment)
        await until(lambda: self.segment.take_now is not None)
        return self

    async def end(self) -> None:
        self.segments.close()
        await self.task


def chunk(number: int, kind: MediaKind = MediaKind.VIDEO) -> SegmentChunk:
    return SegmentChunk(b"%d" % number, False, number, 1.0, kind)


async def test_what_the_channel_takes_is_published_in_the_call() -> None:
    """No other task has to run; it is counted, measured and shown as before."""
    stage = await Stage().begin()
    viewer = stage.publish._tee.listen()  # type: ignore[union-attr]
    stage.segment.append(SegmentChunk(b"a", True, 0, 1.0, MediaKind.VIDEO))
    stage.segment.append(chunk(1, MediaKind.AUDIO))
    assert stage.channel.segments == [[b"a", b"1"]]
    assert (stage.publish.frames.total, stage.publish.sound.total) == (1, 1)
    assert stage.publish.bytes_published == 2
    assert sum(stage.publish.delay.histogram.counts) == 1
    assert await viewer.read() == b"a1"
    stage.segment.finish()
    await stage.end()
    assert (stage.channel.waited, stage.channel.finished) == (0, 1)
    assert (stage.publish.segments_published, stage.publish.last_seq) == (1, 0)


async def test_what_waits_goes_first() -> None:
    """A chunk that the channel could take has to stay behind those it did not."""
    stage = await Stage().begin()
    stage.channel.full = True
    for number in range(3):
        stage.segment.append(chunk(number))
    await until(lambda: stage.channel.waited)
    stage.channel.full = False
    stage.segment.append(chunk(3))
    assert stage.channel.segments == [[]]
    assert stage.publish.frames.total == 0
    stage.channel.drained.set()
    await until(lambda: stage.segment.take_now is not None)
    stage.segment.append(chunk(4))
    assert stage.channel.segments == [[b"0", b"1", b"2", b"3", b"4"]]
    assert stage.publish.frames.total == 5
    stage.segment.finish()
    await stage.end()


async def test_what_was_refused_is_not_overtaken() -> None:
    """By what comes in the same turn of the event loop, when the channel takes bytes again."""
    stage = await Stage().begin()
    stage.channel.full = True
    stage.segment.append(chunk(0))
    stage.channel.full = False
    stage.segment.append(chunk(1))
    stage.segment.finish()
    await stage.end()
    assert stage.channel.segments == [[b"0", b"1"]]


async def test_segments_that_are_made_at_once_come_in_order() -> None:
    """All of the second waits until the first has ended."""
    stage = await Stage().begin()
    stage.channel.full = True
    second = OutputSegment()
    stage.segment.append(chunk(0))
    stage.segment.finish()
    stage.segments.put_nowait(second)
    second.append(chunk(1))
    second.finish()
    stage.channel.full = False
    await stage.end()
    assert stage.channel.segments == [[b"0"], [b"1"]]
    assert stage.publish.segments_published == 2


async def test_a_segment_that_broke_takes_nothing() -> None:
    """Not at once either; the next one goes on."""
    stage = await Stage().begin()
    stage.channel.broken = True
    stage.segment.append(chunk(0))
    await until(lambda: stage.segment.lost)
    stage.channel.broken = False
    stage.segment.append(chunk(1))
    second = OutputSegment()
    stage.segments.put_nowait(second)
    second.append(chunk(2))
    second.finish()
    await stage.end()
    assert stage.channel.segments == [[], [b"2"]]
    assert (stage.publish.segments_lost, stage.publish.segments_published) == (1, 1)
