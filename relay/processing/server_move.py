"""When a session leaves its ComfyStream server for another one of the operator's pool.

A server that is gone, hangs, or has to be waited for is left at once if another one is free: that
takes a second, where a restart takes ten and a quarantine forty. One that fails otherwise gets a
second try, because it has the workflow loaded. What was refused by one server is tried on each of
the others once. Offers that are not answered are not: such a workflow may hang every server it is
given to.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import structlog

from relay.errors import BusyError, ProcessingError
from relay.processing.live_changes import LiveChanges

log = structlog.get_logger(__name__)

AT_ONCE = frozenset(
    {
        *("comfystream_unreachable", "comfystream_wedged", "comfystream_quarantined"),
        *("comfystream_busy", "comfystream_refused", "comfystream_bad_answer"),
        "comfystream_timeout",
    }
)
AFTER_ANOTHER_TRY = frozenset({"media_timeout", "media_undecodable", "webrtc_failed"})
TRIES = 2
MOST_UNANSWERED = 2
"""Servers that may fail to answer one session's offers."""


class OtherServers(Protocol):
    """The pool, as far as one session may choose from it."""

    def any_free(self, *, prompts: bool, without: Collection[str]) -> bool:
        """Whether there is one beside those of `without`, by what is known now."""

    async def choose(self, *, prompts: bool, without: Collection[str]) -> str:
        """The address of one, the caller's until the event loop runs others.

        Raises:
            BusyError: none is free, with the reason of each.
        """


class ServerMove:
    """Of one session.

    Args:
        servers: those to choose from; None where the session has the one that it asked for.
    """

    def __init__(self, servers: OtherServers | None, changes: LiveChanges) -> None:
        self.moves = 0
        self._servers = servers
        self._changes = changes
        self._refused_by: set[str] = set()
        self._unanswered = 0
        self._in_vain = 0

    def would_help(self) -> bool:
        """Whether there is another server to go to, for one who would have to wait at this one."""
        return self._servers is not None and self._servers.any_free(
            prompts=self._changes.wants_lease, without=self._without()
        )

    async def choose(self, error: ProcessingError, *, answered: bool) -> str:
        """The server to go to after this failure; it is the caller's until the event loop runs
        others.

        Args:
            answered: whether processed pictures came back since the last failure.

        Raises:
            ProcessingError: `error`, with what stands against a move.
        """
        if answered:
            self._refused_by.clear()
            self._unanswered = self._in_vain = 0
        self._in_vain += 1
        if self._servers is None or not self._is_due(error):
            raise error
        try:
            url = await self._servers.choose(
                prompts=self._changes.wants_lease, without=self._without()
            )
        except BusyError as busy:
            raise ProcessingError(f"{error.message}; {busy.message}", code=error.code) from None
        self.moves += 1
        self._in_vain = 0
        old = self._changes.config.comfystream_url
        log.warning("comfystream.moved", old=old, new=url, code=error.code)
        return url

    def _is_due(self, error: ProcessingError) -> bool:
        if error.code == "comfystream_refused":
            self._refused_by.add(self._changes.config.comfystream_url)
        if error.code == "comfystream_timeout":
            self._unanswered += 1
            return self._unanswered < MOST_UNANSWERED
        if error.code in AT_ONCE:
            return True
        return error.code in AFTER_ANOTHER_TRY and self._in_vain >= TRIES

    def _without(self) -> set[str]:
        return self._refused_by | {self._changes.config.comfystream_url}
