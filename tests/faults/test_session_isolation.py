"""One session that fails, at whatever stage, is its own affair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import structlog

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.session.session import Session
from tests.e2e.stack import Viewer, in_background, running_stack
from tests.faults.scene import QUICK

pytestmark = pytest.mark.timeout(60)

SOURCE = PatternOptions(width=256, height=256, fps=Fraction(20), plain=True, audio=False)


class Surprise(Exception):
    """What nobody expects."""


def fail(*_: Any, **__: Any) -> Any:
    raise Surprise("as the test wants")


def break_decoder(session: Session) -> None:
    session._pipeline._ingest._decoder.decode = fail  # type: ignore[method-assign]


def break_demuxer(session: Session) -> None:
    session._pipeline._ingest._decoder.demux = fail  # type: ignore[method-assign]


def break_uplink(session: Session) -> None:
    client = session._processor.link.client
    assert client is not None
    assert client._peer is not None
    asyncio.ensure_future(client._peer.close())  # noqa: RUF006 - ends with the loop's next turns
    session._processor._new_client = fail  # type: ignore[method-assign]


def break_encoder(session: Session) -> None:
    session._pipeline._egress._transcode = fail  # type: ignore[method-assign]


def break_publisher(session: Session) -> None:
    session._pipeline._publish._note = fail  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "break_it", [break_demuxer, break_decoder, break_uplink, break_encoder, break_publisher]
)
async def test_a_session_that_fails_is_the_only_one(break_it: Callable[[Session], None]) -> None:
    """It ends as internal_error with its traceback in the log; the other goes on undisturbed, and
    the server and the output channel can be used again."""
    with structlog.testing.capture_logs() as logs:
        async with running_stack(**{**QUICK, "media_timeout_s": 8.0}) as stack:
            viewer = Viewer()
            async with in_background(
                publish_live(stack.channel("one"), generate(SOURCE)),
                publish_live(stack.channel("two"), generate(SOURCE)),
            ):
                size = {"width": 256, "height": 256}
                bad = await stack.start("one", **size)
                good = await stack.start("two", prompts=[], **size)
                async with in_background(viewer.watch(stack.channel("two-processed"))):
                    await viewer.wait_for(lambda v: len(v.frames) > 5)
                    await stack.wait_for_status(
                        bad, lambda s: s["processing"]["frames_processed"] > 5
                    )
                    break_it(stack.sessions.get(bad))
                    status = await stack.wait_for_status(bad, lambda s: s["ended_at"])
                    assert (status["status"], status["end_reason"], status["error_code"]) == (
                        "failed",
                        "internal_error",
                        "internal_error",
                    )
                    seen = len(viewer.frames)
                    await viewer.wait_for(lambda v: len(v.frames) > seen + 20)
                    again = await stack.start("one", **size)
                    await stack.wait_for_status(
                        again, lambda s: s["processing"]["frames_processed"] > 5
                    )
                    status = await stack.status(good)
                    assert (status["status"], status["processing"]["reconnects"]) == ("active", 0)
    pts = [frame.pts for frame in viewer.frames]
    assert all(0 < b - a < 90_000 for a, b in pairwise(pts)), "the other one was disturbed"
    assert [entry["event"] for entry in logs].count("session.internal_error") == 1
