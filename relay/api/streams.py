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
    aliases: frozenset[str]
    digest: str
    config: SessionConfig
    session: SessionView

    @property
    def request_id(self) -> str:
        return self.names.request_id

    @property
    def state(self) -> str:
        """The session's status."""
        return str(self.session.summary()["status"])

    @property
    def running(self) -> bool:
        return self.state not in ENDED


class Streams:
    """The streams of an application; those whose session is forgotten are forgotten too."""

    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions
        self._streams: dict[str, Stream] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, request_id: str) -> asyncio.Lock:
        """Held by whoever starts or replaces that stream."""
        lock = self._locks.get(request_id)
        if lock is None:
            lock = self._locks[request_id] = asyncio.Lock()
        return lock

    def add(self, stream: Stream) -> None:
        """In place of one of the same name that has ended."""
        self._streams[stream.request_id] = stream

    def find(self, name: str) -> Stream | None:
        """By any of its names, or its session's id; one that runs before one that has ended."""
        self._forget()
        found = [
            stream
            for stream in self._streams.values()
            if name in stream.aliases or name == stream.session.session_id
        ]
        return min(found, key=lambda stream: not stream.running, default=None)

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

    def running(self) -> list[Stream]:
        """Oldest first."""
        self._forget()
        return [stream for stream in self._streams.values() if stream.running]

    def _forget(self) -> None:
        for request_id, stream in list(self._streams.items()):
            try:
                self._sessions.get(stream.session.session_id)
            except RequestError:
                if not stream.running:
                    del self._streams[request_id]


STREAMS = web.AppKey("streams", Streams)
