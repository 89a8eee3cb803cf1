"""Changes of a session that runs: what was asked for, in what order, and what became of it.

Everybody who changes a session, over HTTP or over its control channel, does so through its one
`ChangeQueue`. Changes that come faster than they can be applied are merged, field by field the
last one wins, so the queue never grows and the newest wish is applied next; and each caller learns
what became of his own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from relay.errors import RelayError
from relay.session_config import Coding, SessionConfig


@dataclass(frozen=True, slots=True)
class SessionChange:
    """What is to be different; None leaves it as it is. Validated by whoever made it."""

    prompts: list[dict[str, Any]] | None = None
    """API-format workflows; empty passes frames through."""
    width: int | None = None
    height: int | None = None
    paused: bool | None = None
    max_fps: float | None = None
    ingest: Coding | None = None
    egress: Coding | None = None
    params: dict[str, Any] | None = None
    """In the words of the orchestrator that asked; added to those of before."""

    @property
    def names(self) -> frozenset[str]:
        """The fields it changes."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def then(self, later: SessionChange) -> SessionChange:
        """Both, one after the other."""
        params = {**(self.params or {}), **(later.params or {})} or None
        changed = {name: getattr(later, name) for name in later.names}
        return replace(self, **(changed | {"params": params}))

    def applied_to(self, config: SessionConfig) -> SessionConfig:
        """What the session is asked for afterwards."""
        changed = {name: getattr(self, name) for name in self.names}
        if self.params:
            changed["params"] = {**config.params, **self.params}
        return replace(config, **changed)


class ChangeResult(StrEnum):
    """What became of a change that did not fail."""

    APPLIED = "applied"
    """In force: ComfyStream confirmed it."""
    SUPERSEDED = "superseded"
    """Later changes replaced all of it before its turn came."""
    HELD = "held"
    """Not yet in force: it will be as soon as ComfyStream can be asked."""


@dataclass(frozen=True, slots=True)
class RequestedChange:
    """A change that was asked for."""

    result: asyncio.Future[ChangeResult]
    """`APPLIED` or `SUPERSEDED`, or the RelayError that it failed with."""
    warnings: tuple[str, ...] = ()
    """What was understood differently than it may have been meant."""

    async def wait(self, timeout_s: float) -> ChangeResult:
        """What became of it; `HELD` if that is not known so soon. A cancel leaves it asked for.

        Raises:
            RelayError: it failed; what was in force before still is.
        """
        done, _ = await asyncio.wait([self.result], timeout=timeout_s)
        return self.result.result() if done else ChangeResult.HELD


@dataclass(slots=True)
class _Entry:
    change: SessionChange
    left: frozenset[str]
    """Its fields that no later change has replaced."""
    result: asyncio.Future[ChangeResult]


@dataclass(slots=True)
class ChangeBatch:
    """Changes that are applied together. Made by `ChangeQueue.take`; ended by the first call."""

    change: SessionChange
    _queue: ChangeQueue
    _entries: list[_Entry]
    _ended: bool = False

    def applied(self) -> None:
        """All of it is in force."""
        self._ended = True
        for entry in self._entries:
            self._queue.finish(entry, ChangeResult.APPLIED)

    def failed(self, error: RelayError) -> None:
        """None of it is in force, and it won't be tried again."""
        self._ended = True
        self._queue.last_error = error
        for entry in self._entries:
            self._queue.finish(entry, error)

    def put_back(self) -> None:
        """It could not be tried: it waits again, and later changes win over it. Nothing happens
        when its end was told already."""
        if self._ended:
            return
        self._ended = True
        self._queue.put_back(self._entries)


@dataclass(slots=True)
class ChangeCounts:
    """Since the session began, each request counted once."""

    applied: int = 0
    superseded: int = 0
    failed: int = 0


@dataclass(slots=True)
class ChangeQueue:
    """The changes that wait to be applied: at most one for each field."""

    counts: ChangeCounts = field(default_factory=ChangeCounts)
    last_error: RelayError | None = None
    """Why the last change that failed did."""
    _waiting: list[_Entry] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: RelayError | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, change: SessionChange) -> asyncio.Future[ChangeResult]:
        """Ask for a change.

        Returns:
            What becomes of it: `APPLIED`, `SUPERSEDED`, or the RelayError that it failed with.
        """
        result: asyncio.Future[ChangeResult] = asyncio.get_running_loop().create_future()
        # Whoever asked may have gone away: an error nobody fetches is not worth a warning.
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        entry = _Entry(change, change.names, result)
        if self._closed is not None:
            self.finish(entry, self._closed)
            return result
        self._waiting = [*self._superseded_by(entry.left), entry]
        self._changed.set()
        return result

    async def wait(self) -> None:
        """Return when something was submitted since the last call. A cancel loses nothing."""
        await self._changed.wait()
        self._changed.clear()

    def take(self) -> ChangeBatch | None:
        """Everything that waits, merged; None if nothing does."""
        if not self._waiting:
            return None
        entries, self._waiting = self._waiting, []
        change = SessionChange()
        for entry in entries:
            change = change.then(entry.change)
        return ChangeBatch(change, self, entries)

    def put_back(self, entries: list[_Entry]) -> None:
        """Called by a batch."""
        later, self._waiting = self._waiting, entries
        for entry in later:
            self._waiting = [*self._superseded_by(entry.left), entry]
        if self._closed is not None:
            self.close(self._closed)

    def close(self, error: RelayError) -> None:
        """Take no more; what waits fails with `error`. Idempotent."""
        self._closed = error
        entries, self._waiting = self._waiting, []
        for entry in entries:
            self.finish(entry, error)

    def finish(self, entry: _Entry, result: ChangeResult | RelayError) -> None:
        """Tell whoever asked; called by a batch."""
        if isinstance(result, RelayError):
            self.counts.failed += 1
        elif result is ChangeResult.APPLIED:
            self.counts.applied += 1
        else:
            self.counts.superseded += 1
        if entry.result.done():
            return
        if isinstance(result, RelayError):
            entry.result.set_exception(result)
        else:
            entry.result.set_result(result)

    def status(self) -> dict[str, Any]:
        """The `changes` object of the session status."""
        return {
            "applied": self.counts.applied,
            "superseded": self.counts.superseded,
            "failed": self.counts.failed,
            "waiting": len(self._waiting),
            "last_error": self.last_error.message if self.last_error else None,
        }

    def _superseded_by(self, names: frozenset[str]) -> list[_Entry]:
        """What is left waiting when these fields are replaced."""
        still = []
        for entry in self._waiting:
            entry.left -= names
            if entry.left:
                still.append(entry)
            else:
                self.finish(entry, ChangeResult.SUPERSEDED)
        return still
