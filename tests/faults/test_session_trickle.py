"""Trickle goes wrong at either end of a session: channels that come late, pause, begin anew, hold
rubbish, change, vanish, refuse or take nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest

from demo.segment_writer import SourceChunk
from demo.test_pattern import PatternOptions, generate
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import PublisherOptions
from relay.trickle.segment_writer import SegmentWriter
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.e2e.stack import Stack, Viewer, in_background, running_stack
from tests.faults.scene import NOTICE_S, QUICK, Scene, for_a_while, scene
from tests.peers.cutting_proxy import CuttingProxy
from tests.peers.ports import free_port

pytestmark = pytest.mark.timeout(60)

SOURCE = PatternOptions(width=256, height=256, fps=Fraction(20), plain=True, audio=False)


@dataclass
class Source:
    """A publisher that a test plays pieces of a stream through, in real time."""

    publisher: TricklePublisher
    last_number: int = -1

    async def play(self, options: PatternOptions, seconds: float) -> None:
        """A piece from the next number on, its time joined to what was before."""
        first = self.last_number + 1
        frames = round(seconds * options.fps)
        piece = replace(
            options,
            frames=frames,
            first_number=first,
            start_pts=options.start_pts + round(first * 90_000 / options.fps),
        )
        await play(self.publisher, generate(piece))
        self.last_number += frames

    async def send(self, data: bytes) -> None:
        """One segment of anything."""
        segment = await self.publisher.next_segment()
        await segment.write(data)
        await segment.finish()


async def play(publisher: TricklePublisher, chunks: Iterator[SourceChunk]) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    segment: SegmentWriter | None = None
    number = -1
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        await asyncio.sleep(begun + chunk.due_s - loop.time())
        if chunk.segment != number:
            if segment is not None:
                await segment.finish()
            segment, number = await publisher.next_segment(), chunk.segment
        assert segment is not None
        await segment.write(chunk.data)
    if segment is not None:
        await segment.finish()


@asynccontextmanager
async def played(**settings: object) -> AsyncIterator[tuple[Scene, Source]]:
    """A session whose input the test plays; nothing is played yet."""
    async with AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        stack = await enter(running_stack(**{**QUICK, **settings}))
        session = await stack.start("camera", width=256, height=256)
        publisher = await enter(TricklePublisher(stack.channel("camera")))
        viewer = Viewer()
        await enter(in_background(viewer.watch(stack.channel("camera-processed"))))
        yield Scene(stack, session, viewer, SOURCE), Source(publisher)
        await stack.call("DELETE", f"/session/{session}")


async def test_an_input_that_comes_late_is_waited_for() -> None:
    """The session stands before its channel does."""
    async with running_stack(**QUICK) as stack:
        session = await stack.start("camera", width=256, height=256)
        await stack.wait_for_status(session, lambda s: s["status"] == "active")
        await for_a_while(0.5)
        async with TricklePublisher(stack.channel("camera")) as publisher:
            async with in_background(Source(publisher).play(SOURCE, 20)):
                await stack.wait_for_status(
                    session, lambda s: s["processing"]["frames_processed"] > 5
                )


async def test_an_input_that_pauses_is_told_and_taken_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """degraded_input, still active, the server kept and not blamed; then all is well again."""
    monkeypatch.setattr("relay.session_health.LATE_S", 1.0)
    async with played(media_timeout_s=8.0) as (found, source):
        await source.play(SOURCE, 2)
        await found.wait_status(lambda s: s["health"] == "degraded_input")
        await for_a_while(2.0)
        status = await found.status()
        assert (status["status"], status["processing"]["error"]) == ("active", None)
        async with in_background(source.play(SOURCE, 20)):
            await found.wait_processed(20)
            status = await found.status()
        assert status["processing"]["reconnects"] == 0
        await found.assert_time_rises()


async def test_an_input_that_ends_ends_the_session() -> None:
    """What is under way is still published; the reason is the input's."""
    async with played() as (found, source):
        await source.play(SOURCE, 1.5)
        await source.publisher.aclose()
        closed_at = time.monotonic()
        status = await found.wait_status(lambda s: s["status"] == "stopped")
        assert time.monotonic() - closed_at < NOTICE_S
        assert (status["end_reason"], status["error"]) == ("input_ended", None)
        await found.viewer.wait_for(lambda v: v.ended)
        assert found.viewer.frames[-1].number == source.last_number


async def test_rubbish_between_segments_is_passed_over() -> None:
    """Bytes that are no MPEG-TS, packets that are no video, an empty segment: the next goes on."""
    async with played() as (found, source):
        await source.play(SOURCE, 1)
        for rubbish in (b"\x00" * 5000, b"\x47" * 1880, bytes(range(256)) * 40, b""):
            await source.send(rubbish)
        await source.play(SOURCE, 1.5)
        last = source.last_number
        await found.viewer.wait_for(
            lambda v: bool(v.frames) and (v.frames[-1].number or 0) >= last - 3
        )
        assert (await found.status())["status"] == "active"
        await found.assert_unharmed()


async def test_an_input_that_changes_its_size_and_profile_goes_on() -> None:
    """From one segment to the next; the output keeps the session's size."""
    async with played() as (found, source):
        await source.play(SOURCE, 1)
        other = replace(SOURCE, width=320, height=240, profile="main", preset="veryfast")
        await source.play(other, 1.5)
        last = source.last_number
        await found.viewer.wait_for(
            lambda v: bool(v.frames) and (v.frames[-1].number or 0) >= last - 3
        )
        assert {(f.width, f.height) for f in found.viewer.frames} == {(256, 256)}
        await found.assert_unharmed()
        assert (await found.status())["processing"]["reconnects"] == 0


async def test_an_input_whose_time_jumps_goes_on() -> None:
    """An hour ahead and back: what comes is shown with the time it has."""
    async with played() as (found, source):
        await source.play(SOURCE, 1)
        await source.play(replace(SOURCE, start_pts=SOURCE.start_pts + 3600 * 90_000), 1)
        await source.play(SOURCE, 1.5)
        last = source.last_number
        await found.viewer.wait_for(
            lambda v: bool(v.frames) and (v.frames[-1].number or 0) >= last - 3
        )
        times = [frame.pts for frame in found.viewer.frames]
        jumps = [b - a for a, b in pairwise(times) if abs(b - a) > 90_000]
        assert len(jumps) == 2
        assert jumps[0] > 0 > jumps[1]


async def start_with_output(stack: Stack, output: str) -> str:
    return await stack.start("camera", width=256, height=256, output_stream_url=output)


async def test_an_input_server_that_restarts_begins_at_zero_and_is_followed() -> None:
    """The same address, segment 0 again: the session and its output go on."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/camera"
    async with running_stack(**QUICK) as stack:
        output = stack.channel("out")
        viewer = Viewer()
        async with TrickleServer(host="127.0.0.1", port=port) as server:
            session = await stack.start(
                "camera", input_stream_url=url, output_stream_url=output, width=256, height=256
            )
            async with in_background(viewer.watch(output)):
                publisher = TricklePublisher(url)
                await publisher.start()
                source = Source(publisher)
                await source.play(SOURCE, 2)
                await viewer.wait_for(lambda v: len(v.frames) > 10)
                await server_dies(server)
                await publisher.aclose()
                before = len(viewer.frames)
                async with TrickleServer(host="127.0.0.1", port=port):
                    async with TricklePublisher(url) as again:
                        source.publisher = again
                        async with in_background(source.play(SOURCE, 4)):
                            await viewer.wait_for(lambda v: len(v.frames) > before + 10)
                        assert (await stack.status(session))["status"] == "active"
                        await stack.call("DELETE", f"/session/{session}")
        times = [frame.pts for frame in viewer.frames]
        assert times == sorted(set(times))


async def server_dies(server: TrickleServer) -> None:
    """End without closing its channels: as a crash would, not as a shutdown."""
    runner = server._runner
    assert runner is not None
    for site in list(runner.sites):
        await site.stop()
    assert runner.server is not None
    for connection in list(runner.server.connections):
        if connection.transport is not None:
            connection.transport.abort()


async def test_an_output_that_refuses_ends_the_session_with_that_reason() -> None:
    """Credentials that are wrong: failed, output_gone, channel_refused."""
    options = ServerOptions(token="secret")
    async with TrickleServer(host="127.0.0.1", port=0, options=options) as closed:
        async with scene(
            request={"output_stream_url": f"{closed.url}out"}, warm=False, watched=False
        ) as found:
            began = time.monotonic()
            status = await found.wait_status(lambda s: s["status"] == "failed")
            assert (status["end_reason"], status["error_code"]) == (
                "output_gone",
                "channel_refused",
            )
            assert time.monotonic() - began < NOTICE_S


async def test_an_output_channel_that_somebody_deletes_ends_the_session() -> None:
    """It is gone, and its viewers with it."""
    async with scene() as found:
        deleted_at = time.monotonic()
        assert found.stack.trickle.delete_channel("camera-processed")
        status = await found.wait_status(lambda s: s["status"] in ("failed", "stopped"))
        assert time.monotonic() - deleted_at < NOTICE_S
        assert status["end_reason"] == "output_gone"


async def test_an_output_that_can_not_be_reached_for_too_long_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the publisher's budget: failed, output_gone; until then the input is not held up."""
    monkeypatch.setattr(
        "relay.pipeline.pipeline.PublisherOptions", partial(PublisherOptions, retry_budget_s=1.0)
    )
    nowhere = f"http://127.0.0.1:{free_port()}/out"
    async with scene(request={"output_stream_url": nowhere}, warm=False, watched=False) as found:
        began = time.monotonic()
        status = await found.wait_status(lambda s: s["status"] == "failed")
        assert (status["end_reason"], status["error_code"]) == (
            "output_gone",
            "channel_unavailable",
        )
        assert time.monotonic() - began < 1.0 + NOTICE_S


async def test_an_output_that_breaks_and_comes_back_is_taken_up_again() -> None:
    """Every connection cut, and new ones refused for a second: the picture goes on after it."""
    async with TrickleServer(host="127.0.0.1", port=0) as outside:
        port = int(outside.url.rstrip("/").rpartition(":")[2])
        async with CuttingProxy(port) as proxy:
            output = f"{proxy.url}out"
            async with scene(
                request={"output_stream_url": output}, warm=False, watched=False
            ) as found:
                viewer = found.viewer
                async with in_background(viewer.watch(f"{outside.url}out")):
                    await found.wait_processed()
                    # In mid-segment: one that broke before its first byte would lose nothing.
                    count = len(viewer.frames)
                    await viewer.wait_for(lambda v: len(v.frames) > count + 5)
                    cut_at = time.monotonic()
                    proxy.refusing = True
                    proxy.cut()
                    await for_a_while(1.0)
                    proxy.refusing = False
                    await found.wait_processed(20)
                    status = await found.status()
                    assert status["status"] == "active"
                    assert 1 <= status["output"]["segments_lost"] <= 4
                    await found.assert_unharmed(cut_at)
                    await found.stack.call("DELETE", f"/session/{found.session_id}")


async def test_an_output_that_takes_no_bytes_holds_nothing_else_up() -> None:
    """The publisher stalls: what waits is bounded, the oldest goes, the input is read on."""
    stalled = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stalled.wait()
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    output = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/out"
    try:
        async with scene(
            request={"output_stream_url": output, "segment_seconds": 0.2},
            warm=False,
            watched=False,
            output_segments_capacity=3,
        ) as found:
            status = await found.wait_status(
                lambda s: s["frames_dropped"].get("output_segments", {}).get("overflow", 0) > 2
            )
            assert status["queue_sizes"]["output_segments"] <= 3
            assert status["processing"]["error"] is None
            await found.wait_status(lambda s: s["fps_in"] > 10)
            began = time.monotonic()
            await found.stack.call("DELETE", f"/session/{found.session_id}")
            assert time.monotonic() - began < 8.0
    finally:
        stalled.set()
        server.close()
        await server.wait_closed()
