"""Server, publishers and subscribers under random cuts, restarts and deletes.

Every 16 bytes that are published say which publisher wrote them, in which of its segments, and
where in it. So whatever a subscriber receives shows by itself whether a byte came twice, out of
order, or from another segment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.trickle.errors import TrickleError
from relay.trickle.protocol import EndReason, JumpPolicy, StartPosition
from relay.trickle.publisher import TricklePublisher
from relay.trickle.segment_writer import SegmentWriter
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscribed_segment import SubscribedSegment
from relay.trickle.subscriber import TrickleSubscriber
from tests.peers.cutting_proxy import CuttingProxy
from tests.peers.quick import PUBLISHER, SUBSCRIBER
from tests.peers.raw_client import ask

RECORD = 16
HANG_S = 15.0
SERVER = ServerOptions(window_segments=4, resume_grace_s=0.05, tombstone_s=0.1)


def records(generation: int, message: int, first: int, count: int) -> bytes:
    return b"".join(b"%04d%06d%06d" % (generation, message, first + i) for i in range(count))


class Viewer:
    """A subscriber, and the proof that what it received is in order."""

    def __init__(self, url: str, start: StartPosition | int, jump: JumpPolicy) -> None:
        self.last = (-1, -1)
        self.segments = 0
        self.source = TrickleSubscriber(url, start=start, options=replace(SUBSCRIBER, jump=jump))
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            async for segment in self.source:
                await self._check(segment)
        except TrickleError:
            assert self.source.end_reason in (EndReason.UNREACHABLE, EndReason.REFUSED)

    async def _check(self, segment: SubscribedSegment) -> None:
        body = b""
        async for chunk in segment:
            body += chunk
        self.segments += 1
        if not body:
            return
        generation, message = int(body[:4]), int(body[4:10])
        expected = records(generation, message, 0, len(body) // RECORD + 1)[: len(body)]
        assert body == expected, f"segment {segment.seq} holds what was not written so"
        assert (generation, message) > self.last, f"segment {segment.seq} came again"
        self.last = (generation, message)


class Source:
    """A publisher with a connection of its own that can be cut."""

    def __init__(self, generation: int, proxy: CuttingProxy) -> None:
        self.generation = generation
        self.message = -1
        self.index = 0
        self.proxy = proxy
        self.publisher = TricklePublisher(
            proxy.url + "camera", options=replace(PUBLISHER, write_stall_s=2.0, close_timeout_s=1.0)
        )
        self.segment: SegmentWriter | None = None

    async def begin(self) -> None:
        self.segment = None
        self.message += 1
        self.index = 0
        try:
            self.segment = await self.publisher.next_segment()
        except TrickleError:
            return

    async def write(self, count: int) -> None:
        if self.segment is None or self.segment.finished:
            return
        data = records(self.generation, self.message, self.index, count)
        self.index += count
        try:
            await self.segment.write(data)
        except TrickleError:
            self.segment = None


class TrickleMachine(RuleBasedStateMachine):
    """One channel; publishers follow one another, viewers come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.generation = 0
        self.source: Source | None = None
        self.forgotten: list[Source] = []
        self.viewers: list[Viewer] = []
        self.delivered = 0

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(HANG_S):
                await coroutine
                for viewer in tuple(self.viewers):
                    if viewer.task.done():
                        await self._dismiss(viewer)

        self.runner.run(bounded())

    async def _dismiss(self, viewer: Viewer) -> None:
        """Its channel has ended, or it leaves: what it saw must have been right."""
        self.viewers.remove(viewer)
        await viewer.source.aclose()
        await viewer.task
        self.delivered += viewer.segments

    async def _live(self) -> Source:
        """The publisher, a new one if there is none or its channel has ended."""
        if self.source is not None and self.source.publisher.end_reason is not None:
            await self._dispose(self.source)
            self.source = None
        while self.source is None:
            self.generation += 1
            proxy = await CuttingProxy(self.server.port).__aenter__()
            source = Source(self.generation, proxy)
            try:
                await source.publisher.start()
            except TrickleError:
                await proxy.__aexit__(None, None, None)
                continue
            self.source = source
            await source.begin()
        if not self.viewers:
            self._add_viewer(StartPosition.CURRENT, JumpPolicy.LATEST)
        return self.source

    async def _dispose(self, source: Source, *, delete: bool = True) -> None:
        await source.publisher.aclose(delete=delete)
        await source.proxy.__aexit__(None, None, None)

    def _add_viewer(self, start: StartPosition | int, jump: JumpPolicy) -> None:
        self.viewers.append(Viewer(self.proxy.url + "camera", start, jump))

    @initialize()
    def serve(self) -> None:
        async def start() -> None:
            self.server = TrickleServer(options=SERVER)
            await self.server.start()
            self.proxy = await CuttingProxy(self.server.port).__aenter__()
            await self._live()

        self.run(start())

    # -- the stream goes on ----------------------------------------------------------------

    @rule(counts=st.lists(st.integers(0, 60), min_size=1, max_size=8), pause_ms=st.integers(0, 20))
    def segments_go_by(self, counts: list[int], pause_ms: int) -> None:
        async def go_by() -> None:
            for count in counts:
                source = await self._live()
                await source.begin()
                await source.write(count)
                await asyncio.sleep(pause_ms / 1000)

        self.run(go_by())

    @rule(counts=st.lists(st.integers(1, 2000), min_size=1, max_size=5))
    def a_segment_grows(self, counts: list[int]) -> None:
        async def grow() -> None:
            source = await self._live()
            for count in counts:
                await source.write(count)
                await asyncio.sleep(0.001)

        self.run(grow())

    # -- connections break -----------------------------------------------------------------

    @rule(every=st.integers(1, 2), before=st.integers(1, 40), after=st.integers(0, 40))
    def viewers_are_cut_in_mid_segment(self, every: int, before: int, after: int) -> None:
        async def cut() -> None:
            source = await self._live()
            await source.write(before)
            await asyncio.sleep(0.02)
            self.proxy.cut(every=every)
            await source.write(after)
            await asyncio.sleep(0.02)

        self.run(cut())

    @rule(every=st.integers(1, 3), count=st.integers(1, 100))
    def the_publisher_is_cut(self, every: int, count: int) -> None:
        async def cut() -> None:
            source = await self._live()
            await source.write(count)
            source.proxy.cut(every=every)
            await asyncio.sleep(0.01)
            await source.write(count)

        self.run(cut())

    @rule(count=st.integers(1, 40), takes_over=st.booleans())
    def a_forgotten_publisher_writes(self, count: int, takes_over: bool) -> None:
        """It holds its segment, and its preconnect, while another one takes over. Its segment
        was ended by the reset: what it writes later may appear nowhere."""

        async def write() -> None:
            source = await self._live()
            await source.write(count)
            if takes_over:
                await asyncio.sleep(0.02)
                self.forgotten.append(source)
                self.source = None
                await (await self._live()).write(count)
            if self.forgotten:
                await self.forgotten[-1].write(count)

        self.run(write())

    # -- somebody comes or goes ------------------------------------------------------------

    @rule(
        start=st.sampled_from([StartPosition.CURRENT, StartPosition.NEXT, 0]),
        jump=st.sampled_from(JumpPolicy),
    )
    @precondition(lambda self: len(self.viewers) < 5)
    def a_viewer_comes(self, start: StartPosition | int, jump: JumpPolicy) -> None:
        async def come() -> None:
            self._add_viewer(start, jump)
            await asyncio.sleep(0.005)

        self.run(come())

    @rule()
    @precondition(lambda self: len(self.viewers) > 1)
    def a_viewer_leaves(self) -> None:
        self.run(self._dismiss(self.viewers[0]))

    @rule(count=st.integers(0, 50), how=st.sampled_from(["dies", "leaves", "deleted", "restart"]))
    def something_ends(self, count: int, how: str) -> None:
        async def end() -> None:
            source = await self._live()
            await source.write(count)
            match how:
                case "dies":
                    source.proxy.refusing = True
                    source.proxy.cut()
                    await self._dispose(source, delete=False)
                    self.source = None
                case "leaves":
                    await self._dispose(source)
                    self.source = None
                case "deleted":
                    await ask(self.server.url, "DELETE", "/camera")
                case "restart":
                    port = self.server.port
                    await self.server.aclose()
                    self.server = TrickleServer(port=port, options=SERVER)
                    await self.server.start()

        self.run(end())

    def teardown(self) -> None:
        try:
            if hasattr(self, "server"):
                self.run(self._end())
        finally:
            self.runner.close()

    async def _end(self) -> None:
        for source in [*self.forgotten, self.source]:
            if source is not None:
                await self._dispose(source)
        self.server.delete_channel("camera")
        for viewer in tuple(self.viewers):
            # The channel has ended: nobody may go on waiting.
            await viewer.task
            await self._dismiss(viewer)
        await self.proxy.__aexit__(None, None, None)
        assert self.server.stats.readers == 0
        await self.server.aclose()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {[str(task.get_coro()) for task in left]}"
        target(float(self.delivered), label="segments delivered")


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        TrickleMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(120)
def test_nobody_receives_a_byte_twice_or_out_of_order_and_nobody_hangs() -> None:
    """A short run of the machine; the soak below is the long one."""
    run_machine(examples=12, steps=25)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif("SOAK" not in os.environ, reason="takes long; set SOAK=1 to run it")
def test_the_same_for_long() -> None:
    """Many more examples and longer stories."""
    run_machine(examples=400, steps=60)
