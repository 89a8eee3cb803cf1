"""Waiting for what has no event of its own, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], deadline_s: float = 10.0) -> None:
    """Let the event loop run until `condition()` is true.

    Raises:
        TimeoutError: it was not within `deadline_s`.
    """
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
