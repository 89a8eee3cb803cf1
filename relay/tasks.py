"""Running tasks side by side, and ending them without losing our own cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]], *, timeout_s: float = 2.0) -> None:
    """Cancel `tasks` and wait until they have ended, at most `timeout_s`.

    Their results and errors are consumed: whoever cares looked before. If the caller is
    cancelled meanwhile, the tasks stay cancelled and CancelledError goes on.
    """
    every = list(tasks)
    pending = [task for task in every if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=timeout_s)
    for task in every:
        if task.done() and not task.cancelled():
            task.exception()


async def run_beside(
    main: Coroutine[Any, Any, T],
    *others: Coroutine[Any, Any, object],
    end_timeout_s: float = 2.0,
) -> T:
    """Run `main` with `others` beside it.

    Returns what `main` returns, once the others have been cancelled and have ended. An other
    that returns by itself ends alone. The first error of any of them is raised as it is, after
    all the rest have ended; a cancel of the caller ends them all.

    Args:
        end_timeout_s: how long those that are cancelled are waited for.
    """
    main_task = asyncio.ensure_future(main)
    running: set[asyncio.Task[Any]] = {main_task, *(asyncio.ensure_future(c) for c in others)}
    every = list(running)
    try:
        while not main_task.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not main_task:
                    task.result()
        return main_task.result()
    finally:
        await cancel_and_wait(every, timeout_s=end_timeout_s)


async def to_its_end(coroutine: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """Await `coroutine`; a cancel of the caller lets it come to its end first, for `timeout_s` at
    the most. For what would leave something behind if it were cut off."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=timeout_s)
        await cancel_and_wait([task])
        if task.done() and not task.cancelled():
            task.exception()  # fetched, so that nobody is warned of it
        raise
