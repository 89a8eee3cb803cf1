"""Ending tasks without losing our own cancellation or their errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]], *, timeout_s: float = 2.0) -> None:
    """Cancel `tasks` and wait until they have ended, at most `timeout_s`.

    Their results and errors are consumed: whoever cares looked before. If the caller is
    cancelled meanwhile, the tasks stay cancelled and CancelledError goes on.
    """
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        done, _ = await asyncio.wait(pending, timeout=timeout_s)
        for task in done:
            if not task.cancelled():
                task.exception()
