"""The threads that codecs run on: few, owned, and never left holding a codec.

PyAV releases the GIL in decode and encode, so a call costs the event loop two thread hops
(about 0.1 ms) instead of its whole duration. A codec object belongs to one caller at a time;
`run` returns, or raises CancelledError, only when the thread is done with it, so whoever
cancels may close the codec at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class CodecExecutor:
    """A small thread pool for codec calls.

    Args:
        threads: how many calls may run at once; 0 takes one per core.
    """

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="codec")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="codec-beside")

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Run `call(*args)` on a codec thread and give back its result or raise its error."""
        return await self._run(self._pool, call, *args)

    async def run_beside(self, call: Callable[..., T], *args: object) -> T:
        """As `run`, for what may wait and must not keep the media waiting: one call at a time, on
        a thread beside the others, which is not there before it is needed."""
        return await self._run(self._beside, call, *args)

    def close(self) -> None:
        """End the threads. Every `run` has ended before."""
        self._beside.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[..., T], *args: object) -> T:
        future = asyncio.get_running_loop().run_in_executor(pool, call, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A running call can't be interrupted; a codec call ends within milliseconds.
            if not future.cancel():
                await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise
