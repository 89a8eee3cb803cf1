"""Which session is which stream: orchestrators know streams by names of their own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from weakref import WeakValueDictionary

from aiohttp import web

from relay.api.keys import SessionService, SessionView
from relay.errors import RequestError
from relay.session_config import SessionConfig, StreamNames

ENDED = frozenset({"stopped", "failed"})
"""States of a session that has ended."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A session that an orchestrator started."""

    names: StreamNames
    session: SessionView

    @property
    def request_id(self) -> str:
        return self.names.request_id

    @property
    def config(self) -> SessionConfig:
        return self.session.config

    @property
    def state(self) -> str:
        """The session's status."""
        return str(self.session.summary()["status"])

    @property
    def running(self) -> bool:
        return self.state not in ENDED


class Streams:
    """The streams among the sessions; nothing is kept here but who is being started."""

    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, request_id: str) -> asyncio.Lock:
        """Held by whoever starts or replaces that stream."""
        lock = self._locks.get(request_id)
        if lock is None:
            lock = self._locks[request_id] = asyncio.Lock()
        return lock

    def running(self) -> list[Stream]:
        """Oldest first."""
        return self._listed(ended=False)

    def find(self, name: str) -> Stream | None:
        """By any of its names, or its session's id: one that runs, or else the one that ended
        last."""
        for ended in (False, True):
            for stream in reversed(self._listed(ended=ended)):
                if name in stream.names.all or name == stream.session.session_id:
                    return stream
        return None

    def get(self, name: str) -> Stream:
        """As `find`.

        Raises:
            RequestError: 404 `stream_not_found`.
        """
        stream = self.find(name)
        if stream is None:
            raise RequestError(
                f"no stream {name[:100]}: it never started here, or ended a while ago; GET"
                " /streams lists those that run",
                code="stream_not_found",
                http_status=404,
            )
        return stream

    def _listed(self, *, ended: bool) -> list[Stream]:
        return [
            Stream(session.config.names, session)
            for session in self._sessions.list(ended=ended)
            if session.config.names is not None
        ]


STREAMS = web.AppKey("streams", Streams)
