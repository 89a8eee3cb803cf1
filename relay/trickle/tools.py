"""Two tools: publish a file or a pipe to a channel in real time, record or play a channel.

python -m relay.trickle publish film.ts http://127.0.0.1:3389/camera
ffmpeg -re -i film.mp4 -c copy -f mpegts - | python -m relay.trickle publish - URL
python -m relay.trickle record URL film.ts
python -m relay.trickle record URL - | ffplay -
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from relay.errors import RelayError
from relay.trickle.byte_streams import ByteSource, open_input, open_output
from relay.trickle.errors import SegmentLostError
from relay.trickle.http_client import ConnectionOptions
from relay.trickle.protocol import EndReason, JumpPolicy, StartPosition
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import PublisherOptions
from relay.trickle.segment_writer import SegmentWriter
from relay.trickle.subscribed_segment import SubscribedSegment
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from relay.trickle.ts_segmenter import TimedBytes, TsSegmenter

PROGRESS_INTERVAL_S = 0.5
_LINE_LIMIT_BYTES = 1 << 20
_END_TEXTS = {
    EndReason.CLOSED: "the channel was closed",
    EndReason.GONE: "the channel is gone",
    EndReason.NEVER_EXISTED: "there is no such channel",
    EndReason.STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What to publish, and how."""

    source: str
    """A path, or ``-`` for standard input."""
    url: str
    content_type: str = "video/MP2T"
    segment_s: float = 1.0
    loop: bool = False
    paced: bool = True
    """In real time by the stream's own timestamps; otherwise as fast as the server takes it."""
    lines: bool = False
    """Each line is a segment: JSON messages."""
    keep_channel: bool = False
    """Leave the channel open at the end."""
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """What to record, and where to."""

    url: str
    target: str
    """A path, ``-`` for standard output, or a directory with `split`."""
    start: StartPosition | int = StartPosition.CURRENT
    split: bool = False
    """A file for each segment."""
    duration_s: float | None = None
    wait_s: float = 0.0
    """How long a channel that does not exist yet is waited for."""
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


class Progress:
    """One line on the terminal, rewritten; nothing at all where there is no terminal.

    Args:
        describe: the line as it should be now.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._enabled = sys.stderr.isatty()

    async def run(self) -> None:
        """Show it until cancelled."""
        while self._enabled:
            sys.stderr.write(f"\r{self._describe()}\x1b[K")
            sys.stderr.flush()
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    def finish(self, last_words: str) -> None:
        """The final state, on a line that stays."""
        start = "\r\x1b[K" if self._enabled else ""
        sys.stderr.write(f"{start}{self._describe()}  {last_words}\n")
        sys.stderr.flush()


@contextlib.asynccontextmanager
async def showing(progress: Progress) -> AsyncIterator[None]:
    """Show the progress meanwhile."""
    task = asyncio.create_task(progress.run(), name="progress")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


class Pace:
    """Turns times of a stream into times of day: late parts go at once, the next are on time."""

    def __init__(self) -> None:
        self._origin_s: float | None = None

    async def wait_until(self, due_s: float) -> None:
        now = time.monotonic()
        if self._origin_s is None:
            self._origin_s = now - due_s
        await asyncio.sleep(max(0.0, self._origin_s + due_s - now))


async def publish(request: PublishRequest) -> str:
    """Publish to the end of the input; returns how it ended, for people.

    Raises:
        RelayError: the input can't be read, the channel can't be published to.
    """
    begun_at = time.monotonic()
    publisher = TricklePublisher(
        request.url,
        content_type=request.content_type,
        options=PublisherOptions(connection=request.connection),
    )

    def describe() -> str:
        stats = publisher.stats
        return _progress_line(
            begun_at,
            stats.segments_begun,
            stats.bytes_written,
            {"lost": stats.segments_lost, "retries": stats.retries, "stalls": stats.stalls},
        )

    progress = Progress(describe)
    async with open_input(request.source) as source:
        await publisher.start()
        try:
            async with showing(progress):
                if request.lines:
                    await _publish_lines(publisher, source)
                else:
                    await _publish_stream(publisher, source, request)
        finally:
            await publisher.aclose(delete=not request.keep_channel)
    last_words = "end of input"
    progress.finish(last_words)
    return last_words


async def _publish_stream(
    publisher: TricklePublisher, source: ByteSource, request: PublishRequest
) -> None:
    segmenter = TsSegmenter(request.segment_s)
    pace = Pace()
    segment: SegmentWriter | None = None
    while True:
        data = await source.read()
        if not data:
            if not (request.loop and source.seekable and segmenter.segments):
                break
            source.rewind()
            segmenter.rewind()
            continue
        for part in segmenter.feed(data):
            if request.paced:
                await pace.wait_until(part.due_s)
            segment = await _send(publisher, segment, part)
    if not segmenter.segments:
        raise RelayError(
            "no MPEG-TS with a keyframe in the input: convert it first, as in "
            "'ffmpeg -i film.mp4 -c copy -f mpegts film.ts'",
            code="not_mpegts",
        )


async def _send(
    publisher: TricklePublisher, segment: SegmentWriter | None, part: TimedBytes
) -> SegmentWriter | None:
    """Write one part; after a loss, nothing until the next segment begins."""
    try:
        if part.begins_segment:
            segment = await publisher.next_segment()
        if segment is not None:
            await segment.write(part.data)
    except SegmentLostError:
        return None
    return segment


async def _publish_lines(publisher: TricklePublisher, source: ByteSource) -> None:
    rest = b""
    while data := await source.read():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LINE_LIMIT_BYTES:
            raise RelayError("a line has more than 1 MiB: is this text?", code="not_lines")
        for line in lines:
            await _publish_line(publisher, line)
    await _publish_line(publisher, rest)


async def _publish_line(publisher: TricklePublisher, line: bytes) -> None:
    if line.strip():
        async with await publisher.next_segment() as segment:
            await segment.write(line)


async def record(request: RecordRequest) -> str:
    """Record until the channel ends or the time is up; returns how it ended, for people.

    Raises:
        RelayError: the output can't be written, the channel can't be subscribed to.
    """
    begun_at = time.monotonic()
    subscriber = TrickleSubscriber(
        request.url,
        start=request.start,
        options=SubscriberOptions(
            jump=JumpPolicy.OLDEST,
            wait_for_channel_s=request.wait_s,
            connection=request.connection,
        ),
    )

    def describe() -> str:
        stats = subscriber.stats
        return _progress_line(
            begun_at,
            stats.segments,
            stats.bytes,
            {
                "behind": stats.segments_behind,
                "skipped": stats.skipped_segments,
                "cut": stats.truncated_segments,
                "retries": stats.retries,
            },
        )

    progress = Progress(describe)
    last_words = ""
    async with showing(progress), subscriber:
        try:
            async with asyncio.timeout(request.duration_s):
                if request.split:
                    await _record_files(subscriber, Path(request.target))
                else:
                    await _record_stream(subscriber, request.target)
        except TimeoutError:
            last_words = f"{request.duration_s:g} s are over"
        except BrokenPipeError:
            last_words = "the player was closed"
    if not last_words:
        assert subscriber.end_reason is not None
        last_words = _END_TEXTS.get(subscriber.end_reason, subscriber.end_reason.value)
        if subscriber.end_reason is EndReason.NEVER_EXISTED:
            raise RelayError(
                f"{subscriber.channel.redacted}: {last_words}; --wait waits for one",
                code="channel_not_found",
            )
    progress.finish(last_words)
    return last_words


async def _record_stream(subscriber: TrickleSubscriber, target: str) -> None:
    async with open_output(target) as sink:
        async for segment in subscriber:
            async for chunk in segment:
                await sink.write(chunk)


async def _record_files(subscriber: TrickleSubscriber, directory: Path) -> None:
    _make_directory(directory)
    async for segment in subscriber:
        async with open_output(str(directory / f"{segment.seq:08d}{_suffix(segment)}")) as sink:
            async for chunk in segment:
                await sink.write(chunk)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RelayError(f"can't make {directory}: {error.strerror}", code="no_file") from error


def _suffix(segment: SubscribedSegment) -> str:
    content_type = segment.content_type.partition(";")[0].lower()
    return {
        "video/mp2t": ".ts",
        "audio/mp2t": ".ts",
        "application/json": ".json",
        "application/jsonl": ".jsonl",
    }.get(content_type, ".bin")


def _progress_line(begun_at: float, segments: int, size: int, counts: dict[str, int]) -> str:
    elapsed_s = max(time.monotonic() - begun_at, 1e-6)
    rate = f"{size * 8 / elapsed_s / 1e6:.2f} Mbit/s"
    faults = "".join(f"  {name} {count}" for name, count in counts.items() if count)
    return f"{elapsed_s:7.1f} s  {segments} segments  {size / 1e6:.1f} MB  {rate}{faults}"
