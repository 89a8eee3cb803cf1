"""Changes of a session: merged, in order, and each caller told the truth."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.changes.session_change import ChangeQueue, ChangeResult, RequestedChange, SessionChange
from relay.errors import RequestError
from relay.session_config import SessionConfig

CONFIG = SessionConfig("http://h/in", "http://h/out", "http://h")
FAILED = RequestError("no", code="update_failed")


async def test_the_last_of_each_field_wins() -> None:
    """A caller is superseded when nothing of his is left, and applied with what is."""
    queue = ChangeQueue()
    both = queue.submit(SessionChange(width=320, height=240))
    prompts = queue.submit(SessionChange(prompts=[{"1": {}}]))
    width = queue.submit(SessionChange(width=640))
    later = queue.submit(SessionChange(prompts=[]))
    assert prompts.result() is ChangeResult.SUPERSEDED
    batch = queue.take()
    assert batch is not None
    assert batch.change == SessionChange(prompts=[], width=640, height=240)
    assert queue.take() is None
    assert not both.done()
    batch.applied()
    assert [f.result() for f in (both, width, later)] == [ChangeResult.APPLIED] * 3
    assert (queue.counts.applied, queue.counts.superseded) == (3, 1)


async def test_what_could_not_be_tried_waits_behind_nothing() -> None:
    """Put back, it is merged with what came meanwhile, which wins."""
    queue = ChangeQueue()
    first = queue.submit(SessionChange(width=320, paused=True))
    second = queue.submit(SessionChange(height=240))
    batch = queue.take()
    assert batch is not None
    newer = queue.submit(SessionChange(width=640, height=480))
    batch.put_back()
    assert second.result() is ChangeResult.SUPERSEDED
    again = queue.take()
    assert again is not None
    assert again.change == SessionChange(width=640, height=480, paused=True)
    again.failed(FAILED)
    for future in (first, newer):
        with pytest.raises(RequestError):
            future.result()
    assert queue.last_error is FAILED


async def test_the_end_is_told_to_all() -> None:
    """To those who wait, to those who come, and to those who are put back."""
    queue = ChangeQueue()
    under_way = queue.submit(SessionChange(width=64))
    batch = queue.take()
    waiting = queue.submit(SessionChange(height=64))
    queue.close(FAILED)
    assert batch is not None
    batch.put_back()
    for future in (under_way, waiting, queue.submit(SessionChange(paused=True))):
        assert future.exception() is FAILED
    assert queue.counts.failed == 3


async def test_a_caller_who_does_not_wait_is_told_held() -> None:
    """And one who goes away leaves the change asked for."""
    queue = ChangeQueue()
    requested = RequestedChange(queue.submit(SessionChange(width=64)))
    assert await requested.wait(0.0) is ChangeResult.HELD
    waiter = asyncio.create_task(requested.wait(10.0))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    batch = queue.take()
    assert batch is not None
    batch.applied()
    assert await requested.wait(0.0) is ChangeResult.APPLIED


async def test_submitting_wakes_whoever_applies() -> None:
    """Also when it was submitted before he waits; not twice."""
    queue = ChangeQueue()
    queue.submit(SessionChange(width=64))
    await asyncio.wait_for(queue.wait(), 1.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.wait(), 0.01)


changes = st.builds(
    SessionChange,
    prompts=st.none() | st.sampled_from([[], [{"1": {}}], [{"2": {}}]]),
    width=st.none() | st.sampled_from([64, 128]),
    height=st.none() | st.sampled_from([64, 128]),
    paused=st.none() | st.booleans(),
)


@settings(deadline=None)
@given(st.lists(changes, max_size=30), st.sets(st.integers(0, 30)))
async def test_merged_changes_end_where_single_ones_would(
    wanted: list[SessionChange], taken_after: set[int]
) -> None:
    """Whenever batches are taken, the configuration is the same in the end, nobody is left
    without an answer, and never more than one change a field waits."""
    queue, config, expected = ChangeQueue(), CONFIG, CONFIG
    futures = []
    for index, change in enumerate(wanted):
        expected = change.applied_to(expected)
        futures.append(queue.submit(change))
        assert len([f for f in futures if not f.done()]) <= 4 + sum(not c.names for c in wanted)
        if index in taken_after and (batch := queue.take()):
            config = batch.change.applied_to(config)
            batch.applied()
    if batch := queue.take():
        config = batch.change.applied_to(config)
        batch.applied()
    assert config == expected
    assert all(future.done() for future in futures)


def test_params_of_an_orchestrator_are_added_up() -> None:
    """The newest value of each, beside those of before."""
    first, second = SessionChange(params={"a": 1, "b": 1}), SessionChange(params={"b": 2})
    assert first.then(second).applied_to(CONFIG).params == {"a": 1, "b": 2}
