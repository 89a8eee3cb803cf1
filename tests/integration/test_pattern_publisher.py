"""The pattern on a real channel: published live, read by the probe, run as a program."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from demo.live_publisher import publish_live
from demo.output_probe import OutputProbe
from demo.segment_writer import SourceChunk
from demo.test_pattern import PatternOptions, generate
from relay.trickle.publisher import TricklePublisher
from relay.trickle.server import TrickleServer

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = PatternOptions(width=128, height=96, fps=Fraction(30), frames=60)


async def test_probe_sees_every_published_frame() -> None:
    """What goes on a channel comes off it: every frame once, in order, its number verified."""
    async with TrickleServer() as server:
        url = server.url + "live"
        probe = OutputProbe(url, url)
        # The same channel on both sides: the probe has to find it flawless.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(probe.run())
            report = await tasks.create_task(publish_live(url, generate(OPTIONS)))
        summary = probe.tally.summary()
        assert (report.frames, report.segments) == (60, 2)
        assert summary.clean
        assert (summary.delivered, summary.verified, summary.inverted) == (60, 60, 0)
        assert probe.audio.summary().clean
        assert probe.audio.summary().delivered > 90
        assert probe.output.damaged == 0


async def test_frames_leave_when_they_are_due() -> None:
    """Ten frames at 30 fps take at least the nine intervals between them."""
    loop = asyncio.get_running_loop()
    options = PatternOptions(width=128, height=96, frames=10, audio=False)
    async with TrickleServer() as server:
        began = loop.time()
        report = await publish_live(server.url + "live", generate(options))
        assert loop.time() - began >= 9 / 30
    assert report.frames == 10


async def test_a_source_that_fails_ends_the_publication() -> None:
    """An error in the generator reaches the caller, and the channel is closed behind it."""

    def broken() -> Iterator[SourceChunk]:
        yield from generate(PatternOptions(width=128, height=96, frames=2))
        raise OSError("the camera is gone")

    async with TrickleServer() as server:
        with pytest.raises(OSError, match="camera"):
            await publish_live(server.url + "live", broken(), paced=False)
        assert server.stats.channels == 0


@pytest.mark.parametrize("ending", ["by itself", "by a signal"])
async def test_pattern_runs_as_a_program(ending: str) -> None:
    """It says when it publishes and how it ended, in JSON, with exit code 0."""
    async with TrickleServer() as server:
        seconds = "0.5" if ending == "by itself" else "3600"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo.test_pattern", server.url + "live"),
            *("--size", "128x96", "--seconds", seconds),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            started = json.loads(await process.stdout.readline())
            if ending == "by a signal":
                process.send_signal(signal.SIGTERM)
            ended = json.loads(await process.stdout.readline())
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert started == {"event": "publishing", "url": server.url + "live"}
    if ending == "by itself":
        assert (ended["event"], ended["frames"]) == ("finished", 15)
    else:
        assert ended == {"event": "stopped"}


async def test_a_channel_that_refuses_is_one_line() -> None:
    """No server: exit code 1 and a line that says so, not a traceback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo.test_pattern", "not a url", "--seconds", "1"),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith("not a url: ")
    assert errors.count(b"\n") == 1


async def test_watch_copies_a_channel_to_a_player() -> None:
    """`python -m demo.watch` passes bytes on as they come, and ends with the channel."""
    data = b"".join(chunk.data for chunk in generate(OPTIONS))
    async with TrickleServer() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo.watch", server.url + "live"),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with TricklePublisher(server.url + "live") as publisher:
                segment = await publisher.next_segment()
                await segment.write(data[:1316])
                # The segment is still open: what has been written has to be here already.
                assert await process.stdout.readexactly(1316) == data[:1316]
                await segment.write(data[1316:])
                await segment.close()
                assert await process.stdout.readexactly(len(data) - 1316) == data[1316:]
            assert await process.stdout.read() == b""
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
