"""Sends a source's chunks when they are due, as trickle segments.

Encoding happens on a thread of its own, one chunk ahead of the clock, so a chunk's bytes leave
at its time and the event loop never waits for a codec.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random

from demo.segment_writer import SourceChunk
from relay.config.settings import LogLevel
from relay.errors import RelayError
from relay.observe.log import configure_logging
from relay.trickle.errors import SegmentLostError, StalledError
from relay.trickle.publisher import TricklePublisher
from relay.trickle.segment_writer import SegmentWriter


@dataclass(slots=True)
class PublishReport:
    """What was sent."""

    frames: int = 0
    segments: int = 0
    sent_bytes: int = 0
    latest_s: float = 0.0
    """The furthest that a chunk left behind its time."""


async def publish_live(
    url: str,
    chunks: Iterator[SourceChunk],
    *,
    paced: bool = True,
    on_started: Callable[[], object] | None = None,
) -> PublishReport:
    """Publish `chunks` on the channel at `url` to their end, then close the channel.

    A segment that breaks is given up and the next one begun, as a live encoder would.

    Args:
        chunks: called for on a thread; may block to encode.
        paced: False sends as fast as the server takes it.
        on_started: called when the channel stands and the first bytes are about to leave.

    Raises:
        TrickleError: the channel can't be written any more.
        Exception: whatever `chunks` raises.
    """
    loop = asyncio.get_running_loop()
    report = PublishReport()
    with ThreadPoolExecutor(1, thread_name_prefix="source") as encoder:
        upcoming = loop.run_in_executor(encoder, next, chunks, None)
        try:
            async with TricklePublisher(url) as publisher:
                if on_started is not None:
                    on_started()
                segments = _Segments(publisher)
                start = None
                while (chunk := await upcoming) is not None:
                    upcoming = loop.run_in_executor(encoder, next, chunks, None)
                    start = start or loop.time()
                    if paced:
                        late_s = loop.time() - start - chunk.due_s
                        report.latest_s = max(report.latest_s, late_s)
                        await asyncio.sleep(-late_s)
                    await segments.send(chunk)
                    report.frames += chunk.frame is not None
                    report.sent_bytes += len(chunk.data)
                    report.segments = segments.begun
        finally:
            await asyncio.wait({upcoming})
            if not upcoming.cancelled():
                upcoming.exception()  # raised above, or of no interest any more
            if isinstance(chunks, Generator):
                # In the thread that ran it: that frees the encoders.
                await loop.run_in_executor(encoder, chunks.close)
    return report


class _Segments:
    """Puts chunks into the segments that they name."""

    def __init__(self, publisher: TricklePublisher) -> None:
        self.begun = 0
        self._publisher = publisher
        self._number = -1
        self._writer: SegmentWriter | None = None

    async def send(self, chunk: SourceChunk) -> None:
        try:
            if chunk.segment != self._number:
                self._number = chunk.segment
                if self._writer is not None:
                    await self._writer.finish()
                    self._writer = None
                self._writer = await self._publisher.next_segment()
                self.begun += 1
            if self._writer is not None:
                await self._writer.write(chunk.data)
        except (SegmentLostError, StalledError):
            self._writer = None


def add_publisher_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every source's command line has."""
    parser.add_argument(
        "--unpaced", action="store_true", help="as fast as it goes, instead of in real time"
    )
    parser.add_argument(
        "--jitter-ms",
        type=float,
        default=0.0,
        help="send each chunk late by up to so much, at random, as a network would",
    )


def jittered(
    chunks: Iterator[SourceChunk], jitter_s: float, seed: int = 1
) -> Iterator[SourceChunk]:
    """The same chunks, each due up to `jitter_s` later; their order stays, so a late one makes
    those behind it late."""
    random = Random(seed)  # the same jitter in every run
    for chunk in chunks:
        yield replace(chunk, due_s=chunk.due_s + random.uniform(0, jitter_s))


def publish_from_command_line(arguments: argparse.Namespace, chunks: Iterator[SourceChunk]) -> None:
    """Publish until the end, SIGINT or SIGTERM; exits with 1 and one line on a failure.

    Prints one JSON object a line: ``publishing`` at the start, ``finished`` at the end.
    """
    configure_logging(LogLevel.WARNING)
    if arguments.jitter_ms:
        chunks = jittered(chunks, arguments.jitter_ms / 1000)
    try:
        asyncio.run(_publish(arguments.url, chunks, paced=not arguments.unpaced))
    except RelayError as error:
        sys.exit(f"{arguments.url}: {error}")


async def _publish(url: str, chunks: Iterator[SourceChunk], *, paced: bool) -> None:
    started = {"event": "publishing", "url": url}
    publishing = asyncio.ensure_future(
        publish_live(url, chunks, paced=paced, on_started=lambda: _say(started))
    )
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, publishing.cancel)
    try:
        report = await publishing
    except asyncio.CancelledError:
        _say({"event": "stopped"})
    else:
        _say(
            {
                "event": "finished",
                "frames": report.frames,
                "segments": report.segments,
                "bytes": report.sent_bytes,
                "latest_s": round(report.latest_s, 4),
            }
        )


def _say(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)
