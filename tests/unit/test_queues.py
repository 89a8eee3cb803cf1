"""Bounded queues: capacity, policy, close, counted drops, waiting readers and writers."""

from __future__ import annotations

import asyncio

import pytest

from relay.queues import MediaQueue, OverflowPolicy, QueueClosed


async def test_items_leave_in_order() -> None:
    """First in, first out."""
    queue: MediaQueue[int] = MediaQueue("frames", 3)
    for item in range(3):
        assert queue.put_nowait(item)
    assert [await queue.get() for _ in range(3)] == [0, 1, 2]


async def test_a_full_live_queue_drops_its_oldest_and_counts_it() -> None:
    """The newest wins, and what made room is counted."""
    queue: MediaQueue[int] = MediaQueue("frames", 2)
    assert [queue.put_nowait(item) for item in range(4)] == [True, True, False, False]
    assert [await queue.get(), await queue.get()] == [2, 3]
    assert queue.dropped == {"overflow": 2}


async def test_a_full_waiting_queue_holds_its_producer() -> None:
    """Back-pressure: put returns once there is room, and nothing is lost."""
    queue: MediaQueue[int] = MediaQueue("bytes", 1, OverflowPolicy.WAIT)
    queue.put_nowait(0)
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait(1)
    putting = asyncio.create_task(queue.put(1))
    await asyncio.sleep(0)
    assert not putting.done()
    assert await queue.get() == 0
    await putting
    assert await queue.get() == 1
    assert not queue.dropped


async def test_close_lets_readers_finish_and_wakes_those_who_wait() -> None:
    """What is queued is still delivered; then, and to waiting readers at once, QueueClosed."""
    queue: MediaQueue[int] = MediaQueue("frames", 2)
    queue.put_nowait(1)
    queue.close()
    queue.close()
    assert await queue.get() == 1
    with pytest.raises(QueueClosed):
        await queue.get()
    with pytest.raises(QueueClosed):
        queue.get_nowait()
    with pytest.raises(QueueClosed):
        queue.put_nowait(2)

    empty: MediaQueue[int] = MediaQueue("frames", 2)
    reading = asyncio.create_task(empty.get())
    await asyncio.sleep(0)
    empty.close()
    with pytest.raises(QueueClosed):
        await reading


async def test_a_cancelled_reader_passes_its_wake_up_on() -> None:
    """An item put just before the first reader is cancelled reaches the second."""
    queue: MediaQueue[int] = MediaQueue("frames", 2)
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(7)
    first.cancel()
    assert await second == 7
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_skip_to_newest_and_clear_count_by_reason() -> None:
    """What is thrown away on purpose is counted under the reason given."""
    queue: MediaQueue[int] = MediaQueue("frames", 10)
    for item in range(5):
        queue.put_nowait(item)
    assert queue.skip_to_newest("late") == 4
    assert queue.peek() == 4
    assert queue.skip_to_newest("late") == 0
    assert queue.clear("stopped") == 1
    assert queue.dropped == {"late": 4, "stopped": 1}


async def test_skip_to_the_last_that_is_wanted() -> None:
    """What lies before it is counted; without one all stay."""
    queue: MediaQueue[int] = MediaQueue("frames", 6, OverflowPolicy.WAIT)
    for item in (1, 2, 30, 4, 50, 6):
        queue.put_nowait(item)
    assert queue.skip_to_last(lambda item: item > 99, "late") == 0
    assert len(queue) == 6
    putting = asyncio.create_task(queue.put(7))
    await asyncio.sleep(0)
    assert queue.skip_to_last(lambda item: item > 9, "late") == 2
    assert queue.dropped == {"late": 4}
    await putting
    assert [queue.get_nowait() for _ in range(3)] == [50, 6, 7]


def test_a_queue_needs_room() -> None:
    """A capacity below one is a mistake said at once."""
    with pytest.raises(ValueError, match="at least 1"):
        MediaQueue("frames", 0)


async def test_waits_that_are_given_up_leave_nothing_behind() -> None:
    """A reader with a time limit gives up once a second, for hours."""
    queue: MediaQueue[int] = MediaQueue("frames", 1, OverflowPolicy.WAIT)
    for _ in range(3):
        reading = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    queue.put_nowait(0)
    writing = asyncio.create_task(queue.put(1))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not queue._getters
    assert not queue._putters
