"""The second half of the path by itself: processed units in, output segments out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from demo import barcode
from relay.codec_executor import CodecExecutor
from relay.media.access_unit import AccessUnit, DecodedFrame, MediaKind, RepeatPicture
from relay.media.encoder import VideoEncoder
from relay.media.segment_encoder import SegmentChunk, TrickleSegmentEncoder
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.pipeline.egress import Egress
from relay.pipeline.publish import OutputSegment
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue

SIZE = 128
STEP = 3000


def picture(number: int) -> DecodedFrame:
    return DecodedFrame(barcode.draw(number, SIZE, SIZE), 90_000 + number * STEP, 5.0)


async def output_of(*units: ProcessedUnit) -> tuple[list[SegmentChunk], Egress]:
    """The chunks that these units become."""
    processed: MediaQueue[ProcessedUnit] = MediaQueue("processed_frames", 100)
    segments: MediaQueue[OutputSegment] = MediaQueue("output_segments", 50)
    codecs = CodecExecutor(1)
    egress = Egress(
        processed,
        segments,
        codecs,
        lambda _video, _audio: TrickleSegmentEncoder(SIZE, SIZE),
        lambda: True,
        lambda: None,
    )
    for unit in units:
        processed.put_nowait(unit)
    processed.close()
    try:
        await egress.run()
    finally:
        egress.close()
        codecs.close()
    chunks = []
    while len(segments):
        segment = segments.get_nowait()
        while len(segment.chunks):
            chunks.append(segment.chunks.get_nowait())
    return chunks, egress


def shown(chunks: list[SegmentChunk]) -> list[tuple[int, int | None]]:
    """The pts of each picture and the number drawn in it."""
    decoder = TrickleStreamDecoder(None, None)
    items = [item for chunk in chunks for item in decoder.feed(chunk.data)]
    items += [*decoder.end_segment(), *decoder.flush()]
    decoder.close()
    return [(item.pts, _number(item)) for item in items if isinstance(item, DecodedFrame)]


def _number(frame: DecodedFrame) -> int | None:
    reading = barcode.read(frame.frame)
    return reading.number if reading else None


async def test_a_repeat_is_the_last_picture_under_its_own_time() -> None:
    """Decoded or encoded, what came last is shown again at exactly the pts of the repeat."""
    encoder = VideoEncoder(SIZE, SIZE)
    second = picture(2)
    (unit,) = encoder.encode(second.frame, second.pts, force_keyframe=True)
    encoder.close()
    assert isinstance(unit, AccessUnit)
    chunks, egress = await output_of(
        picture(0),
        RepeatPicture(90_000 + STEP),
        unit,
        RepeatPicture(90_000 + 3 * STEP + 1, arrived_at=7.0),
        RepeatPicture(90_000 + 4 * STEP),
    )
    assert shown(chunks) == [
        (90_000, 0),
        (90_000 + STEP, 0),
        (90_000 + 2 * STEP, 2),
        (90_000 + 3 * STEP + 1, 2),
        (90_000 + 4 * STEP, 2),
    ]
    assert egress.status()["frames_repeated"] == 3
    times = [chunk.arrived_at for chunk in chunks if chunk.kind is MediaKind.VIDEO]
    assert (times[1], times[3]) == (0.0, 7.0), "it has the delay of the frame it stands for"


async def test_a_repeat_needs_a_picture_and_a_later_time() -> None:
    """Before the first picture it is nothing; at a time that is past, it is out of order."""
    chunks, egress = await output_of(
        RepeatPicture(95_000), picture(0), RepeatPicture(90_000), RepeatPicture(89_000)
    )
    assert shown(chunks) == [(90_000, 0)]
    assert (egress.repeated, egress.out_of_order) == (0, 2)


async def test_a_late_picture_is_no_new_time_line() -> None:
    """Time that steps back far is the source's own only on a frame that came in later."""
    chunks, egress = await output_of(
        DecodedFrame(picture(0).frame, 900_000, 10.0),
        DecodedFrame(picture(1).frame, 600_000, 9.0),
        DecodedFrame(picture(2).frame, 90_000, 11.0),
    )
    assert shown(chunks) == [(900_000, 0), (90_000, 2)]
    assert egress.out_of_order == 1


@dataclass
class Running:
    """An egress at work."""

    processed: MediaQueue[ProcessedUnit]
    segments: MediaQueue[OutputSegment]
    task: asyncio.Task[None]


@asynccontextmanager
async def running_egress(
    request_keyframe: Callable[[], None] = lambda: None,
) -> AsyncIterator[Running]:
    """One that is through with everything within 10 s."""
    processed: MediaQueue[ProcessedUnit] = MediaQueue("processed_frames", 100)
    segments: MediaQueue[OutputSegment] = MediaQueue("output_segments", 50)
    codecs = CodecExecutor(1)
    egress = Egress(
        processed,
        segments,
        codecs,
        lambda _video, _audio: TrickleSegmentEncoder(SIZE, SIZE),
        lambda: True,
        lambda: None,
        request_keyframe=request_keyframe,
    )
    task = asyncio.create_task(egress.run())
    try:
        async with asyncio.timeout(10):
            yield Running(processed, segments, task)
            processed.close()
            await task
    finally:
        egress.close()
        codecs.close()


async def test_a_segment_ends_where_nothing_comes_and_the_next_begins_with_a_keyframe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a silence the open segment is finished, and a picture that would have belonged to it
    begins another, with tables and an IDR of its own."""
    monkeypatch.setattr("relay.pipeline.egress.SILENCE_S", 0.05)
    async with running_egress() as egress:
        egress.processed.put_nowait(picture(0))
        egress.processed.put_nowait(picture(1))
        first = await egress.segments.get()
        await first.chunks.wait_closed()
        egress.processed.put_nowait(picture(2))
        egress.processed.put_nowait(picture(3))
        second = await egress.segments.get()
        await second.chunks.wait_closed()
    assert len(first.chunks) == len(second.chunks) == 2
    alone = [second.chunks.get_nowait() for _ in range(2)]
    assert [chunk.starts_segment for chunk in alone] == [True, False]
    assert [number for _, number in shown(alone)] == [2, 3]


async def test_a_segment_that_is_lost_ends_nothing_but_itself() -> None:
    """Its POST broke in the middle: the next picture begins another one, with an IDR."""
    async with running_egress() as egress:
        egress.processed.put_nowait(picture(0))
        lost = await egress.segments.get()
        await lost.chunks.get()
        lost.lose()
        egress.processed.put_nowait(picture(1))
        egress.processed.put_nowait(picture(2))
        second = await egress.segments.get()
        chunks = [await second.chunks.get() for _ in range(2)]
        assert not egress.task.done()
    assert len(lost.chunks) == 0
    assert [number for _, number in shown(chunks)] == [1, 2]


async def test_a_picture_that_is_missing_is_made_up_for() -> None:
    """One of those that later ones refer to was dropped on the way: a keyframe is asked for, once
    however many follow; and none where all is there."""
    asked: list[int] = []
    encoder = VideoEncoder(SIZE, SIZE)
    units = []
    for number in range(8):
        (unit,) = encoder.encode(picture(number).frame, picture(number).pts)
        unit.number = 70 + number
        units.append(unit)
    encoder.close()
    async with running_egress(lambda: asked.append(1)) as egress:
        for unit in units[:3]:
            egress.processed.put_nowait(unit)
        segment = await egress.segments.get()
        for _ in range(3):
            await segment.chunks.get()
        assert asked == []
        for unit in units[4:]:
            egress.processed.put_nowait(unit)
    assert asked == [1]
