"""Who may send prompts to which ComfyStream server: one session each, and not before it is safe.

ComfyStream has one pipeline a process: a second client with prompts replaces the workflow of the
first, and whichever of them ends stops the other (measured). Sessions without prompts disturb
nobody and need no lease.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import structlog

from relay.comfystream.quarantine import Phase, QuarantineRules, ServerRecord
from relay.comfystream.server_address import server_key
from relay.comfystream.server_probe import Probe, ServerAnswer, probe_server
from relay.errors import ProcessingError, RequestError
from relay.tasks import cancel_and_wait

log = structlog.get_logger(__name__)

CONFIRM_S = 0.3
CONFIRM_INTERVAL_S = 0.03
"""The server's list is empty 1 to 25 ms after a goodbye (measured)."""

Saved = dict[str, Any]
"""What the next process has to know, as plain JSON values, by server."""


async def _at_once() -> None:
    """What is saved has no way to go."""


class ServerLeases:
    """Every server that this process has given prompts to.

    Args:
        saved: what the process before wrote by `save`.
        save: called with all of it whenever it has changed.
        written: returns when what was saved so far is where the next process finds it.
    """

    def __init__(
        self,
        rules: QuarantineRules,
        http: aiohttp.ClientSession,
        *,
        saved: Saved | None = None,
        save: Callable[[Saved], None] = lambda _: None,
        written: Callable[[], Awaitable[None]] = _at_once,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules
        self.http = http
        self.clock = clock
        self._wall_clock = wall_clock
        self._save = save
        self.written = written
        self._holders: dict[str, str] = {}
        self._records: dict[str, ServerRecord] = {}
        self._partings: dict[str, asyncio.Task[None]] = {}
        self._restore(saved or {})

    def acquire(self, base_url: str, session_id: str) -> ServerLease:
        """Take the server for a session with prompts, until the lease is released.

        Raises:
            RequestError: 409 `comfystream_busy`: another session of this relay has it.
        """
        key = server_key(base_url)
        holder = self._holders.get(key)
        if holder is not None:
            raise RequestError(
                f"session {holder} already sends prompts to that ComfyStream server, which runs"
                " one session's at a time; stop it, or choose another comfystream_url",
                code="comfystream_busy",
                http_status=409,
            )
        self._holders[key] = session_id
        return ServerLease(self, key, base_url, self._records.setdefault(key, ServerRecord()))

    def holder(self, base_url: str) -> str | None:
        """The session that has the server, if one has."""
        return self._holders.get(server_key(base_url))

    def unsafe_for_s(self, base_url: str) -> float:
        """How long the server may be given no prompts after what is known of how it was left;
        0 where nothing is known against it."""
        record = self._records.get(server_key(base_url))
        return record.unsafe_for_s(self.clock(), self.rules) if record is not None else 0.0

    def note_gone(self, base_url: str) -> None:
        """The server's process was seen to be gone: nothing that is known of it holds any more."""
        record = self._records.get(server_key(base_url))
        if record is not None and record.phase is Phase.IDLE:
            record.forget()
            self.save()

    def release(self, key: str) -> None:
        """Called by the lease."""
        self._holders.pop(key, None)
        self.save()

    def parting(self, key: str) -> asyncio.Task[None] | None:
        """What still goes on at a server for a session that has ended."""
        return self._partings.get(key)

    def begin_parting(self, key: str, parting: Coroutine[Any, Any, None]) -> None:
        """Called by the lease."""
        task = asyncio.create_task(parting, name=f"parting-{key}")
        self._partings[key] = task
        task.add_done_callback(lambda _: self._partings.pop(key, None))

    async def aclose(self, *, timeout_s: float = 0.5) -> None:
        """Let partings come to their end, but not for long. Idempotent."""
        partings = set(self._partings.values())
        if partings:
            await asyncio.wait(partings, timeout=timeout_s)
            await cancel_and_wait(partings)

    def save(self) -> None:
        """Write down what the next process has to know."""
        now, wall_now = self.clock(), self._wall_clock()
        self._forget_old(now)
        saved: Saved = {}
        for key, record in self._records.items():
            entry: dict[str, Any] = {"phase": record.phase.value}
            if record.left_at is not None:
                entry["left_at"] = round(wall_now - (now - record.left_at), 3)
                entry["abandoned"] = record.abandoned
            if record.wedged_at is not None:
                entry["wedged_at"] = round(wall_now - (now - record.wedged_at), 3)
            if len(entry) > 1 or record.phase is not Phase.IDLE:
                saved[key] = entry
        self._save(saved)

    def _forget_old(self, now: float) -> None:
        longest_s = max(self.rules.quarantine_s, self.rules.wedged_retry_s)
        in_use = self._holders.keys() | self._partings.keys()
        for key in self._records.keys() - in_use:
            record = self._records[key]
            last_at = max(record.left_at or -math.inf, record.wedged_at or -math.inf)
            if last_at + longest_s < now:
                del self._records[key]

    def _restore(self, saved: Saved) -> None:
        now, wall_now = self.clock(), self._wall_clock()

        def moment(value: object) -> float | None:
            # A clock that was set back must not make the wait longer than it ever is.
            if not isinstance(value, int | float) or isinstance(value, bool):
                return None
            return now - max(0.0, wall_now - value)

        for key, entry in saved.items():
            if not isinstance(entry, dict):
                continue
            record = ServerRecord(
                left_at=moment(entry.get("left_at")),
                abandoned=entry.get("abandoned") is True,
                wedged_at=moment(entry.get("wedged_at")),
            )
            if entry.get("phase") in (Phase.OFFERED, Phase.ANSWERED):
                record.phase = Phase(entry["phase"])
                record.leave(now)  # when it was killed is not known: just now, at the worst
                log.warning("comfystream.left_uncleanly", server=key, phase=entry["phase"])
            self._records[key] = record


class ServerLease:
    """A session's right to send prompts to one server. Made by `ServerLeases.acquire`."""

    def __init__(self, leases: ServerLeases, key: str, base_url: str, record: ServerRecord) -> None:
        self.waiting: ProcessingError | None = None
        """What `wait_until_safe` waits for, while it does and it is worth telling."""
        self._leases = leases
        self._key = key
        self._base_url = base_url
        self._record = record
        self._released = False

    async def wait_until_safe(self, rather_not: Callable[[], bool] = lambda: False) -> None:
        """Return when an offer with prompts can't hang the server. A cancel leaves nothing behind
        but `waiting`: whoever gives up wants to say what was waited for.

        Args:
            rather_not: whether the caller, when there is something to wait for, would do without.

        Raises:
            ProcessingError: `comfystream_unreachable`; what there is to wait for.
        """
        try:
            await self._until_safe(rather_not)
        except ProcessingError:
            self.waiting = None
            raise
        self.waiting = None

    async def _until_safe(self, rather_not: Callable[[], bool]) -> None:
        leases, record = self._leases, self._record
        rules = leases.rules
        if (parting := leases.parting(self._key)) is not None:
            self._wait_for(_parting())
            await asyncio.wait([parting])
        while True:
            probe = await self._ask(rules.probe_timeout_s)
            if (error := probe.error()) is not None:
                raise error
            verdict = record.judge(probe.answer, leases.clock(), rules)
            if verdict.wait_s <= 0:
                return
            if verdict.reason is not None and rather_not():
                raise verdict.reason
            self._wait_for(verdict.reason)
            await asyncio.sleep(verdict.wait_s)

    async def confirm_left(self) -> None:
        """See at once, if it can be seen at once, that the goodbye got through; then the next
        session's wait is over sooner. Never raises, takes `CONFIRM_S` at the most."""
        if self._record.left_at is None or self._record.abandoned:
            return
        give_up_at = self._leases.clock() + CONFIRM_S
        while (remaining_s := give_up_at - self._leases.clock()) > 0:
            if (await self._ask(remaining_s)).answer is not ServerAnswer.IN_USE:
                return
            await asyncio.sleep(CONFIRM_INTERVAL_S)

    async def begin_offer(self) -> None:
        """An offer may leave when this returns: whatever becomes of this process, the next one
        knows of it. A cancel means that none leaves."""
        self._record.begin_offer()
        self._leases.save()
        try:
            await self._leases.written()
        except asyncio.CancelledError:
            self.refused()
            raise

    def answered(self) -> None:
        """It was answered."""
        self._record.answered()
        self._leases.save()

    def refused(self) -> None:
        """It was refused, or did not get there: nothing of us is on the server."""
        self._record.refused()
        self._leases.save()

    def unanswered(self) -> None:
        """Its time was over before an answer came."""
        self._record.unanswered(self._leases.clock())
        self._leases.save()

    def leave(self) -> None:
        """What we had on the server is closed, as far as we can close it. Idempotent."""
        if self._leases.parting(self._key) is None:
            self._leave()

    def part_later(
        self, connecting: asyncio.Future[None], close: Callable[[], Awaitable[None]]
    ) -> bool:
        """Leave in the middle of an offer: a server that is not told goodbye holds on to a client
        that never came for about a minute, so the connection is brought about and then closed,
        without the session.

        Args:
            connecting: ends with the connection, or an error, in limited time.
            close: says goodbye.

        Returns:
            Whether there is anything to wait for; if not, both are still the caller's.
        """
        if connecting.done() or self._record.phase is Phase.IDLE:
            return False
        self._leases.begin_parting(self._key, self._part(connecting, close))
        return True

    async def _part(
        self, connecting: asyncio.Future[None], close: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await connecting
        except ProcessingError as error:
            log.info("comfystream.parting_failed", code=error.code, error=error.message)
        finally:
            connecting.cancel()
            await close()
            self._leave()
        await self.confirm_left()

    def _leave(self) -> None:
        self._record.leave(self._leases.clock())
        self._leases.save()

    def release(self) -> None:
        """The session has ended. Idempotent."""
        if not self._released:
            self._released = True
            self.leave()
            self._leases.release(self._key)

    async def _ask(self, timeout_s: float) -> Probe:
        leases = self._leases
        probe = await probe_server(leases.http, self._base_url, timeout_s=timeout_s)
        self._record.note(probe.answer, leases.clock(), leases.rules)
        if probe.answer is ServerAnswer.GONE:
            leases.save()
        return probe

    def _wait_for(self, reason: ProcessingError | None) -> None:
        known = self.waiting.code if self.waiting else None
        self.waiting = reason
        if reason is not None and reason.code != known:
            log.warning("comfystream.waiting", code=reason.code, error=reason.message)


def _parting() -> ProcessingError:
    return ProcessingError(
        "ComfyStream still loads the workflow of a session that has ended; an offer now might hang"
        " it: waiting until that is over",
        code="comfystream_quarantined",
    )
