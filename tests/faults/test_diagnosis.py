"""The diagnosis of real sessions whose bottleneck is known, because the test made it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.segment_writer import SourceChunk
from demo.test_pattern import PatternOptions, generate
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.e2e.stack import INVERT, in_background, running_stack
from tests.faults.scene import QUICK, Scene, scene
from tests.peers.ports import free_port

pytestmark = pytest.mark.timeout(60)

UNKNOWN: list[dict[str, Any]] = [{**INVERT[0], "2": {**INVERT[0]["2"], "class_type": "NotThere"}}]


async def diagnosed(found: Scene, stage: str, words: str) -> dict[str, Any]:
    """The diagnosis, once it is of that stage and begins with those words."""
    status = await found.wait_status(
        lambda s: (
            s["diagnosis"]
            and s["diagnosis"]["stage"] == stage
            and s["diagnosis"]["problem"].startswith(words)
        )
    )
    diagnosis: dict[str, Any] = status["diagnosis"]
    return diagnosis


async def test_all_is_well() -> None:
    """No diagnosis; the overview that lists show says the same."""
    async with scene(watched=False, warm=False) as found:
        await found.wait_processing(lambda p: p["frames_processed"] > 60)
        await found.wait_status(lambda s: s["diagnosis"] is None and s["health"] == "ok")
        [session] = found.stack.sessions.list()
        overview = session.overview()
        assert overview["diagnosis"] == session.status()["diagnosis"]


@asynccontextmanager
async def slow_source(factor: float) -> AsyncIterator[Scene]:
    """A session on a source that comes at `factor` times real time."""
    options = PatternOptions(
        width=256, height=256, fps=Fraction(20), plain=True, audio=False, segment_s=0.5
    )

    def slowed() -> Iterator[SourceChunk]:
        for chunk in generate(options):
            yield replace(chunk, due_s=chunk.due_s / factor)

    async with running_stack(**QUICK) as stack:
        async with in_background(publish_live(stack.channel("camera"), slowed())):
            session = await stack.start("camera", width=256, height=256)
            yield Scene(stack, session, None, options)  # type: ignore[arg-type]
            await stack.call("DELETE", f"/session/{session}")


async def test_a_slow_input_is_blamed_and_not_the_workflow() -> None:
    """12 of 20 frames a second come, by their timestamps at 0.6 times real time."""
    async with slow_source(0.6) as found:
        diagnosis = await diagnosed(found, "input", "input slow: ")
        assert " of 20.0 fps" in diagnosis["problem"]


async def test_an_input_that_is_not_there() -> None:
    """While it is waited for, and when that is over."""
    async with running_stack(**QUICK, input_timeout_s=2.0) as stack:
        found = Scene(stack, await stack.start("nobody"), None, None)  # type: ignore[arg-type]
        diagnosis = await diagnosed(found, "input", "no input: ")
        assert diagnosis["problem"].endswith("does not exist yet")
        await found.wait_status(lambda s: s["status"] == "stopped")
        await diagnosed(found, "input", "no input: the channel never came")


async def test_a_workflow_that_is_slower_than_the_input() -> None:
    """150 ms a frame, and 20 frames a second: some 6.5 of 20."""
    async with scene("--process-ms", "150", watched=False, warm=False) as found:
        diagnosis = await diagnosed(found, "comfystream", "workflow slower than input: ")
        reached, wanted = diagnosis["problem"].split(": ")[1].removesuffix(" fps").split(" of ")
        # A busy machine makes both smaller.
        assert 0 < float(reached) < 0.9 * float(wanted)
        assert float(reached) < 10


async def test_a_node_that_the_server_does_not_have() -> None:
    """The pictures come back, and nothing was done to them."""
    async with scene(request={"prompts": UNKNOWN}, watched=False, warm=False) as found:
        await diagnosed(
            found, "comfystream", "server returns frames unprocessed: unknown node NotThere"
        )


async def test_a_server_that_is_not_there() -> None:
    """With what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    async with scene(request={"comfystream_url": url}, watched=False, warm=False) as found:
        diagnosis = await diagnosed(found, "comfystream", "not processed: can't reach ComfyStream")
        assert diagnosis["remedy"] == "Start ComfyStream, or correct comfystream_url."


async def test_an_output_channel_that_does_not_exist() -> None:
    """Its server makes none for us: the session fails, and says 404."""
    options = ServerOptions(autocreate=False)
    async with TrickleServer(host="127.0.0.1", port=0, options=options) as closed:
        request = {"output_stream_url": f"{closed.url}out"}
        async with scene(request=request, watched=False, warm=False) as found:
            await diagnosed(found, "output", "output refused: 404 channel does not exist")


async def test_an_output_that_can_not_be_reached() -> None:
    """As long as it is being tried."""
    request = {"output_stream_url": f"http://127.0.0.1:{free_port()}/out"}
    async with scene(request=request, watched=False, warm=False) as found:
        await diagnosed(found, "output", "no output: ")
