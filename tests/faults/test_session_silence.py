"""An input that says nothing: its channel decides how long that may last, and the output outlives
it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from relay.trickle.publisher import TricklePublisher
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscriber_options import SubscriberOptions
from tests.e2e.stack import Viewer, in_background, running_stack
from tests.faults.scene import NOTICE_S, QUICK, Scene, for_a_while
from tests.faults.test_session_trickle import SOURCE, Source
from tests.peers.trickle_process import trickle_process

pytestmark = pytest.mark.timeout(60)

SWEEP_S = 1.5


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes half a second."""
    monkeypatch.setattr("relay.pipeline.egress.SILENCE_S", 0.3)
    monkeypatch.setattr("relay.pipeline.pipeline.KEEPALIVE_S", 0.5)


@asynccontextmanager
async def played(
    input_options: ServerOptions, output_options: ServerOptions, **settings: object
) -> AsyncIterator[tuple[Scene, Source]]:
    """A session between two trickle servers, whose input the test plays."""
    async with AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        stack = await enter(running_stack(**{**QUICK, **settings}))
        source = await enter(TrickleServer(host="127.0.0.1", port=0, options=input_options))
        output = await enter(TrickleServer(host="127.0.0.1", port=0, options=output_options))
        session = await stack.start(
            "camera",
            input_stream_url=f"{source.url}camera",
            output_stream_url=f"{output.url}out",
            width=256,
            height=256,
        )
        publisher = await enter(TricklePublisher(f"{source.url}camera"))
        viewer = Viewer()
        await enter(in_background(viewer.watch(f"{output.url}out")))
        yield Scene(stack, session, viewer, SOURCE), Source(publisher)
        await stack.call("DELETE", f"/session/{session}")


async def test_an_output_outlives_an_input_that_says_nothing_for_long() -> None:
    """Several times as long as the output's server keeps channels without new segments: the
    session stays, nobody is blamed, the segment under way is handed over whole, and the picture
    goes on where the input does, in a segment that begins with a keyframe."""
    async with played(ServerOptions(), ServerOptions(idle_timeout_s=SWEEP_S)) as (found, source):
        await source.play(SOURCE, 1.2)
        last = source.last_number
        await found.viewer.wait_for(lambda v: v.frames[-1].number == last)
        await for_a_while(3 * SWEEP_S)
        status = await found.status()
        assert (status["status"], status["health"]) == ("active", "degraded_input")
        assert (status["processing"]["error"], status["processing"]["reconnects"]) == (None, 0)
        assert not found.viewer.ended
        before = len(found.viewer.segments)
        await source.play(SOURCE, 1.2)
        await found.viewer.wait_for(lambda v: (v.frames[-1].number or 0) >= last + 5)
        await found.viewer.wait_for(lambda v: len(v.segments) > before)
        await found.assert_time_rises()
        after = [frame.number for frame in found.viewer.frames if (frame.number or 0) > last]
        assert (after[0] or 0) <= last + 3, "the first pictures after the silence are missing"


async def test_an_input_whose_server_gives_it_up_has_ended() -> None:
    """A channel that is swept is closed, as by its publisher: the reason is the input's, though
    the output had nothing to say for as long."""
    sweeping = ServerOptions(idle_timeout_s=SWEEP_S)
    async with played(sweeping, sweeping) as (found, source):
        await source.play(SOURCE, 1.2)
        status = await found.wait_status(lambda s: s["ended_at"])
        assert (status["status"], status["end_reason"]) == ("stopped", "input_ended")
        assert status["error"] is None
        await found.viewer.wait_for(lambda v: v.ended)
        assert found.viewer.frames[-1].number == source.last_number


async def test_an_input_whose_server_freezes_for_good_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes connections and answers none (SIGSTOP): after RELAY_INPUT_TIMEOUT_S the session
    fails with that reason, and the output is closed."""
    limit_s = 2.0
    quick = partial(SubscriberOptions, body_stall_s=1.0, header_timeout_s=0.5)
    monkeypatch.setattr("relay.pipeline.pipeline.SubscriberOptions", quick)
    async with AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        stack = await enter(running_stack(**{**QUICK, "input_timeout_s": limit_s}))
        url, pid = await enter(trickle_process())
        output = stack.channel("out")
        session = await stack.start(
            "camera",
            input_stream_url=f"{url}/camera",
            output_stream_url=output,
            width=256,
            height=256,
        )
        publisher = TricklePublisher(f"{url}/camera")
        await publisher.start()
        exit_stack.push_async_callback(publisher.aclose, delete=False)
        viewer = Viewer()
        await enter(in_background(viewer.watch(output)))
        source = Source(publisher)
        while len(viewer.frames) <= 10:
            await source.play(SOURCE, 1.2)
        os.kill(pid, signal.SIGSTOP)
        frozen_at = time.monotonic()
        closing = asyncio.create_task(publisher.aclose(delete=False))
        status = await stack.wait_for_status(session, lambda s: s["ended_at"])
        assert limit_s <= time.monotonic() - frozen_at < limit_s + 3 * NOTICE_S
        assert (status["status"], status["end_reason"]) == ("failed", "input_timeout")
        assert status["error_code"] == "channel_unavailable"
        await viewer.wait_for(lambda v: v.ended)
        os.kill(pid, signal.SIGCONT)
        await closing
