"""Codec calls on threads, and who waits for them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from relay.codec_executor import CodecExecutor


async def test_a_call_that_runs_is_waited_for_however_often_it_is_cancelled() -> None:
    """Whoever cancels may close the codec at once."""
    codecs = CodecExecutor(1)
    began, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        began.set()
        ended.append(may_end.wait(5))

    task = asyncio.create_task(codecs.run(work))
    await asyncio.to_thread(began.wait, 5)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    codecs.close()


async def test_a_call_that_waits_for_a_thread_is_taken_back() -> None:
    """It never runs."""
    codecs = CodecExecutor(1)
    may_end = threading.Event()
    ran: list[str] = []
    first = asyncio.create_task(codecs.run(may_end.wait, 5))
    second = asyncio.create_task(codecs.run(ran.append, "second"))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    may_end.set()
    await first
    codecs.close()
    assert ran == []
