"""One timer for many waits: what it ends, what it leaves alone, and how often it is set."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from relay.deadline import Deadline


class Clock:
    """The running loop's time, which a test sets forward, and the timers that were set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        self.timers = 0
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def counted(when: float, *rest: Any) -> asyncio.TimerHandle:
            self.timers += 1
            return call_at(when, *rest)

        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + self.ahead_s)
        monkeypatch.setattr(loop, "call_at", counted)

    async def forward(self, seconds: float) -> None:
        """Set it forward, and let everything happen that is due then."""
        self.ahead_s += seconds
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clock]:
    """Fails a test in which a timer's callback fails."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    yield Clock(monkeypatch)
    assert not failures


async def wait(deadline: Deadline, limit_s: float | None) -> None:
    """A wait that only the deadline, or a cancel, ends."""
    with deadline.within(limit_s):
        await asyncio.get_running_loop().create_future()


async def begun(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """It runs, and waits."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("limit_s", [0.0, -1.0, 0.0004, 0.0104, 0.02])
def test_a_wait_that_is_too_long_ends_and_not_before_its_time(
    new_loop: Callable[[], asyncio.AbstractEventLoop], limit_s: float
) -> None:
    """With the timers of both loops, twice with one deadline; uvloop's are as exact as 2 ms."""

    async def run() -> None:
        deadline = Deadline()
        for _ in range(2):
            began_at = time.monotonic()
            with pytest.raises(TimeoutError):
                await wait(deadline, limit_s)
            assert time.monotonic() - began_at >= limit_s - 0.002
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


async def test_what_need_not_wait_succeeds_however_late_it_is() -> None:
    """As under `asyncio.timeout(0)`: the limit is one for waiting."""
    with Deadline().within(-1.0):
        pass


async def test_waits_that_follow_one_another_share_a_timer(clock: Clock) -> None:
    """A thousand waits of which each ends in time, within the limit of the first."""
    deadline = Deadline()
    for _ in range(1000):
        with deadline.within(60.0):
            await asyncio.sleep(0)
    assert clock.timers == 1
    deadline.close()


async def test_a_later_wait_puts_the_timer_off(clock: Clock) -> None:
    """It fires when the first wait would have been too long, and lets the second one its time."""
    deadline = Deadline()
    with deadline.within(10.0):
        await clock.forward(6.0)
    waiting = await begun(wait(deadline, 10.0))
    await clock.forward(9.0)
    assert not waiting.done()
    assert clock.timers == 2
    await clock.forward(2.0)
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_shorter_wait_does_not_wait_for_the_timer_of_a_longer_one(clock: Clock) -> None:
    """The limits need not be the same."""
    deadline = Deadline()
    with deadline.within(60.0):
        await asyncio.sleep(0)
    waiting = await begun(wait(deadline, 1.0))
    await clock.forward(1.1)
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_timer_that_finds_nobody_waiting_rests(clock: Clock) -> None:
    """The next wait sets it again."""
    deadline = Deadline()
    with deadline.within(1.0):
        pass
    await clock.forward(2.0)
    assert clock.timers == 1
    waiting = await begun(wait(deadline, 1.0))
    await clock.forward(1.1)
    with pytest.raises(TimeoutError):
        await waiting


@pytest.mark.parametrize("limit_s", [None, math.inf])
async def test_without_a_limit_a_wait_goes_on(clock: Clock, limit_s: float | None) -> None:
    """Also past the timer that an earlier one left."""
    deadline = Deadline()
    with deadline.within(1.0):
        pass
    waiting = await begun(wait(deadline, limit_s))
    await clock.forward(1e6)
    assert not waiting.done()
    assert clock.timers == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancel_by_others_is_no_timeout(clock: Clock) -> None:
    """It goes through, and the deadline serves the next wait."""
    deadline = Deadline()
    waiting = await begun(wait(deadline, 1.0))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    waiting = await begun(wait(deadline, 1.0))
    await clock.forward(1.1)
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_cancel_in_the_moment_of_the_timeout_is_a_cancel(clock: Clock) -> None:
    """Whoever cancelled the task waits for its end."""
    deadline = Deadline()

    async def cancelled_when_due() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        with deadline.within(1.0):
            future = loop.create_future()
            future.add_done_callback(lambda _: task.cancel())
            await future

    waiting = await begun(cancelled_when_due())
    await clock.forward(1.1)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_error_in_the_moment_of_the_timeout_stays_that_error(clock: Clock) -> None:
    """And leaves no cancel behind."""
    deadline = Deadline()

    async def fails_when_due() -> None:
        with deadline.within(1.0):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise KeyError from None

    waiting = await begun(fails_when_due())
    await clock.forward(1.1)
    with pytest.raises(KeyError):
        await waiting
    assert not waiting.cancelling()


async def test_two_waits_at_a_time_are_refused() -> None:
    """The second would move the first one's limit."""
    deadline = Deadline()
    with deadline.within(None), pytest.raises(RuntimeError), deadline.within(None):
        pass


async def test_closed_it_leaves_no_timer() -> None:
    """A timer holds on to the deadline until it fires."""
    loop = asyncio.get_running_loop()
    deadline = Deadline()
    with deadline.within(1000.0):
        pass
    timer = deadline._timer
    assert timer is not None
    deadline.close()
    deadline.close()
    assert timer.cancelled()
    assert timer.when() > loop.time()
