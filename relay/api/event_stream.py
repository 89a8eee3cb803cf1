"""Server-sent events (HTML, 9.2) as an answer, for readers who may go away or not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

T = TypeVar("T")

HEARTBEAT_S = 15.0
"""Proxies cut connections that are silent for a minute."""
WRITE_TIMEOUT_S = 10.0
"""Who takes nothing for so long is let go of."""


class ReaderGone(Exception):
    """The client has gone, or does not read."""

    def __init__(self, *, too_slow: bool) -> None:
        super().__init__()
        self.too_slow = too_slow


class EventStream:
    """One client's stream. Made by `open_stream`."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def send(
        self, data: str, *, event: str | None = None, event_id: str | None = None
    ) -> None:
        """Send one event.

        Args:
            data: one line.

        Raises:
            ReaderGone: it can't be sent.
        """
        head = f"id: {event_id}\n" * bool(event_id) + f"event: {event}\n" * bool(event)
        await self._write(f"{head}data: {data}\n\n")

    async def wait(self, get: Callable[[], Awaitable[T]]) -> T:
        """What `get` gives; the client is told now and then that there is nothing yet.

        Raises:
            ReaderGone: it can't be told.
        """
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    return await get()
            except TimeoutError:
                await self._write(": still here\n\n")

    async def _write(self, text: str) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self.response.write(text.encode())
        except TimeoutError:
            raise ReaderGone(too_slow=True) from None
        except ConnectionError:
            raise ReaderGone(too_slow=False) from None


async def open_stream(request: web.Request) -> EventStream:
    """Begin the answer."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            # nginx would collect the events.
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    return EventStream(response)
