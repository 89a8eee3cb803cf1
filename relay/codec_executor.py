"""The threads that codecs run on: few, owned, and never left holding a codec.

PyAV releases the GIL in decode and encode, so a call costs the event loop two thread hops
(about 0.1 ms) instead of its whole duration. A codec object belongs to one caller at a time;
`run` returns, or raises CancelledError, only when the thread is done with it, so whoever
cancels may close the codec at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from relay.cores import usable_cores
from relay.stats import Histogram

T = TypeVar("T")

LOAD_OVER_S = 2.0
"""What `load` looks back on, at least."""


class CodecExecutor:
    """A small thread pool for codec calls.

    Args:
        threads: how many calls may run at once; 0 takes one per core that may be used.
    """

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or max(1, round(usable_cores()))
        self.waiting = Histogram()
        """Of calls, for a thread."""
        self.beside_rests = False
        """Whether nothing should be run beside the media now: there is too much to do."""
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="codec")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="codec-beside")
        self._busy_s = 0.0
        self._busy_lock = threading.Lock()
        self._calls = 0
        self._load = 0.0
        self._load_from = (time.monotonic(), 0.0)

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Run `call(*args)` on a codec thread and give back its result or raise its error."""
        self._calls += 1
        try:
            return await self._run(self._pool, self._timed, time.perf_counter(), call, *args)
        finally:
            self._calls -= 1

    async def run_beside(self, call: Callable[..., T], *args: object) -> T:
        """As `run`, for what may wait and must not keep the media waiting: one call at a time, on
        a thread beside the others, which is not there before it is needed."""
        return await self._run(self._beside, call, *args)

    @property
    def busy_s(self) -> float:
        """Seconds that the threads have worked, all together."""
        return self._busy_s

    @property
    def calls(self) -> int:
        """How many run or wait now."""
        return self._calls

    @property
    def waits(self) -> tuple[int, float]:
        """How many calls have got a thread, and the seconds that they waited for it, together."""
        with self._busy_lock:
            return sum(self.waiting.counts), self.waiting.sum_s

    @property
    def load(self) -> float:
        """Share of their time in which the threads worked lately, 0.0 to 1.0."""
        now, (since, busy_s) = time.monotonic(), self._load_from
        if now - since >= LOAD_OVER_S:
            self._load = min(1.0, (self._busy_s - busy_s) / ((now - since) * self.threads))
            self._load_from = (now, self._busy_s)
        return self._load

    def close(self) -> None:
        """End the threads. Every `run` has ended before."""
        self._beside.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _timed(self, asked_at: float, call: Callable[..., T], *args: object) -> T:
        began_at = time.perf_counter()
        with self._busy_lock:
            self.waiting.add(began_at - asked_at)
        try:
            return call(*args)
        finally:
            with self._busy_lock:
                self._busy_s += time.perf_counter() - began_at

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[..., T], *args: object) -> T:
        # asyncio.wrap_future and shield would take twice as long, and a turn of the loop more.
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        job = pool.submit(_work, loop, result, call, args)
        try:
            return await result
        except asyncio.CancelledError:
            # A running call can't be interrupted; a codec call ends within milliseconds.
            if not job.cancel():
                await _ended(asyncio.wrap_future(job))
            raise


def _work(
    loop: asyncio.AbstractEventLoop,
    result: asyncio.Future[T],
    call: Callable[..., T],
    args: tuple[object, ...],
) -> None:
    """Run the call here, and give the loop what comes of it."""
    try:
        value = call(*args)
    except BaseException as error:  # whatever it is, it belongs to the caller
        loop.call_soon_threadsafe(_settle, result, None, error)
    else:
        loop.call_soon_threadsafe(_settle, result, value, None)


def _settle(result: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if result.cancelled():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)


async def _ended(future: asyncio.Future[Any]) -> None:
    """Return when it is done, also if that is asked for to end."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()
