"""Looks at every session once a second: what has happened to it, and how it stands for whoever
listens. One look serves all listeners; without any, no status is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog

from relay.log_limit import LimitedLog
from relay.observe.event_hub import EventHub
from relay.tasks import cancel_and_wait

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0
SHORTEST_INTERVAL_S = 0.2
"""However many listeners come: each is not to wait a second for the first status."""


class Watched(Protocol):
    """A session that can be looked at."""

    @property
    def session_id(self) -> str: ...

    def look(self) -> None:
        """Publish what has happened since the last look."""

    def status(self) -> dict[str, Any]: ...

    def overview(self) -> dict[str, Any]: ...


class Watcher:
    """Owns the task that looks.

    Args:
        sessions: those that run.
        relay_status: the relay's own part of the status.
    """

    def __init__(
        self,
        hub: EventHub,
        sessions: Callable[[], Sequence[Watched]],
        relay_status: Callable[[], dict[str, Any]],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._relay_status = relay_status
        self._interval_s = interval_s
        self._log = LimitedLog(log)
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it looks."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name="watcher")

    async def aclose(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])

    async def _run(self) -> None:
        while True:
            self._hub.joined.clear()
            await self._look_at_all()
            shortest_s = min(SHORTEST_INTERVAL_S, self._interval_s)
            await asyncio.sleep(shortest_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s - shortest_s):
                    await self._hub.joined.wait()

    async def _look_at_all(self) -> None:
        overviews = []
        wanted = self._hub.wants_status(None)
        for session in self._sessions():
            try:
                session.look()
                if self._hub.wants_status(session.session_id):
                    self._hub.tell_status(session.session_id, {"session": session.status()})
                if wanted:
                    overviews.append(session.overview())
            except Exception as error:  # what looks must not fall with what it looks at
                self._log.warning(
                    "observe.look_failed", session_id=session.session_id, error=repr(error)
                )
            # Many sessions are not looked at in one go: frames come in between.
            await asyncio.sleep(0)
        if wanted:
            self._hub.tell_status(None, {"relay": self._relay_status(), "sessions": overviews})
