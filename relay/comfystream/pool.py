"""Which ComfyStream server a session gets that names none.

Every server of the operator's pool is asked now and then, and once more before it is given to a
session: what answers, is free and has not failed just now is taken, the one that rested longest
first. One session with prompts a server, as everywhere (`relay.comfystream.leases`); sessions
without prompts share.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from relay.comfystream.leases import ServerLeases
from relay.comfystream.server_address import server_key
from relay.comfystream.server_probe import Probe, ServerAnswer, probe_server
from relay.comfystream.warm_up import WARM_UP
from relay.errors import BusyError, ProcessingError
from relay.redaction import mask_credentials
from relay.tasks import cancel_and_wait

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S = 10.0
COOLDOWN_FIRST_S = 5.0
COOLDOWN_LONGEST_S = 60.0
"""After a failure a server is not given to anybody: 5 s, then twice as long each time."""
RETRY_AFTER_LONGEST_S = 60
RETRY_AFTER_BUSY_S = 5
"""Told to whoever finds every server taken: when one of them is free is not known."""


@dataclass(slots=True)
class PooledServer:
    """What is known of one server. Times are monotonic seconds."""

    url: str
    answer: ServerAnswer | None = None
    """To the last question; None before the first."""
    problem: ProcessingError | None = None
    """Why it can't be used, while that lasts."""
    failures: int = 0
    """In a row."""
    cool_until: float = -math.inf
    given_at: float = -math.inf
    sessions: set[str] = field(default_factory=set)
    """Those that it was given to, with prompts and without."""

    @property
    def key(self) -> str:
        return server_key(self.url)


class ServerPool:
    """The servers of one relay.

    Args:
        urls: one or more, each server once.
        http: for the questions; not closed here.
    """

    def __init__(
        self,
        urls: Sequence[str],
        leases: ServerLeases,
        http: aiohttp.ClientSession,
        *,
        probe_timeout_s: float = 2.0,
        check_interval_s: float = CHECK_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        unique: dict[str, str] = {}
        for url in urls:
            unique.setdefault(server_key(url), url)
        self.servers = [PooledServer(url) for url in unique.values()]
        self._leases = leases
        self._http = http
        self._probe_timeout_s = probe_timeout_s
        self._check_interval_s = check_interval_s
        self._clock = clock
        self._choosing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the servers are asked."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to ask the servers how they are."""
        self._task = asyncio.create_task(self._watch(), name="comfystream-pool")

    async def aclose(self) -> None:
        """Stop asking. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    @property
    def reachable(self) -> int:
        """Servers that answered when they were asked last."""
        return sum(1 for server in self.servers if server.answer in _THERE)

    def why_none_free(self) -> BusyError | None:
        """What `choose` would raise for a session with prompts, by the last answers; None if one
        is free."""
        reasons: dict[str, str] = {}
        for server in self.servers:
            reason = self._why_not(server, prompts=True)
            if reason is None:
                return None
            reasons[server.url] = reason
        return self._nobody_free(reasons)

    def any_free(self, *, prompts: bool, without: Collection[str] = ()) -> bool:
        """Whether `choose` would find one, by the last answers."""
        left = _keys(without)
        return any(
            self._why_not(server, prompts) is None
            for server in self.servers
            if server.key not in left
        )

    async def choose(self, *, prompts: bool, without: Collection[str] = ()) -> PooledServer:
        """A server for a session. With prompts it is the caller's until the event loop runs
        others: take its lease at once.

        Args:
            without: addresses of servers that will not do.

        Raises:
            BusyError: 503 `no_server_free`, with the reason of each server in `servers` and
                when to ask again.
        """
        async with self._choosing:
            left = _keys(without)
            reasons = {
                s.url: "was of no use to this session" for s in self.servers if s.key in left
            }
            for server in await self._ask_candidates(prompts, reasons):
                # Looked at again: others may have taken it while the next ones were asked.
                reason = self._why_not(server, prompts)
                if reason is None:
                    server.given_at = self._clock()
                    return server
                reasons[server.url] = reason
            raise self._nobody_free(reasons)

    async def _ask_candidates(self, prompts: bool, reasons: dict[str, str]) -> list[PooledServer]:
        """Those worth asking, best first, asked up to the first that is free: the rest is not
        waited for."""
        candidates = self._candidates(prompts, reasons)
        questions = [asyncio.ensure_future(self._ask(server)) for server in candidates]
        try:
            for server, question in zip(candidates, questions, strict=True):
                await question
                if self._why_not(server, prompts) is None:
                    break
        finally:
            await cancel_and_wait(questions)
        return candidates

    def given(self, url: str, session_id: str) -> None:
        """A session uses a server, one of the pool or not, and no other any more."""
        self.returned(session_id)
        if (server := self._find(url)) is not None:
            server.sessions.add(session_id)

    def returned(self, session_id: str) -> None:
        """It uses none any more."""
        for server in self.servers:
            server.sessions.discard(session_id)

    def failed(self, url: str, error: ProcessingError) -> None:
        """A session could not use a server: nobody else gets it for a while, if it is its fault."""
        if error.code in _FAULTS and (server := self._find(url)) is not None:
            self._cool(server, error)

    def status(self) -> list[dict[str, Any]]:
        """An entry for each server, in the operator's order."""
        return [
            {
                "url": mask_credentials(server.url),
                "state": self._state(server),
                "sessions": sorted(server.sessions),
                "error": server.problem.message if server.problem else None,
                "error_code": server.problem.code if server.problem else None,
            }
            for server in self.servers
        ]

    def _state(self, server: PooledServer) -> str:
        if (holder := self._leases.holder(server.url)) is not None:
            return "warming_up" if holder == WARM_UP else "in_use"
        if server.cool_until > self._clock():
            return "cooling_down"
        if server.answer is None:
            return "unknown"
        if server.answer not in _THERE:
            return "unreachable"
        return "free" if self._why_not(server, prompts=True) is None else "busy"

    def _candidates(self, prompts: bool, reasons: dict[str, str]) -> list[PooledServer]:
        """Those worth asking, best first."""
        found = []
        for server in self.servers:
            if server.url in reasons:
                continue
            reason = self._why_not(server, prompts, asked=False)
            if reason is None:
                found.append(server)
            else:
                reasons[server.url] = reason
        return sorted(found, key=lambda s: (s.failures, len(s.sessions), s.given_at))

    def _why_not(self, server: PooledServer, prompts: bool, *, asked: bool = True) -> str | None:
        """Why a server can't be given away now, in words; None if it can.

        Args:
            asked: whether `server.answer` is of now.
        """
        now = self._clock()
        holder = self._leases.holder(server.url)
        if holder == WARM_UP:
            return "warms up"
        if server.cool_until > now:
            why = server.problem.message if server.problem else "it failed"
            return f"cools down for {server.cool_until - now:.0f} s: {why}"
        if asked and server.answer not in _THERE:
            return server.problem.message if server.problem else "does not answer"
        if not prompts:
            return None
        if holder is not None:
            return f"is used by session {holder}"
        if asked and server.answer is ServerAnswer.IN_USE:
            return "is used by somebody else"
        if (wait_s := self._leases.unsafe_for_s(server.url)) > 0:
            return f"may hang if it is given prompts in the next {wait_s:.0f} s"
        return None

    async def _ask(self, server: PooledServer) -> None:
        probe = await probe_server(self._http, server.url, timeout_s=self._probe_timeout_s)
        self._note(server, probe)

    def _note(self, server: PooledServer, probe: Probe) -> None:
        before, server.answer = server.answer, probe.answer
        if probe.answer is ServerAnswer.GONE:
            self._leases.note_gone(server.url)
        error = probe.error()
        if error is not None:
            if before is not probe.answer:
                log.warning("comfystream.pool_server_lost", server=server.key, error=error.message)
            self._cool(server, error)
        elif server.problem is not None and server.cool_until <= self._clock():
            log.info("comfystream.pool_server_back", server=server.key)
            server.problem, server.failures = None, 0

    def _cool(self, server: PooledServer, error: ProcessingError) -> None:
        now = self._clock()
        server.problem = error
        if server.cool_until > now:
            return
        server.failures += 1
        cooldown_s = COOLDOWN_FIRST_S * 2 ** (server.failures - 1)
        server.cool_until = now + min(COOLDOWN_LONGEST_S, cooldown_s)

    def _nobody_free(self, reasons: dict[str, str]) -> BusyError:
        now = self._clock()
        waits = [
            max(server.cool_until - now, self._leases.unsafe_for_s(server.url))
            for server in self.servers
        ]
        known = [wait_s for wait_s in waits if wait_s > 0]
        retry_s = math.ceil(min(known)) if len(known) == len(waits) else RETRY_AFTER_BUSY_S
        shown = [
            {"url": mask_credentials(server.url), "problem": reasons[server.url]}
            for server in self.servers
        ]
        return BusyError(
            "no ComfyStream server is free: "
            + "; ".join(f"{entry['url']} {entry['problem']}" for entry in shown),
            code="no_server_free",
            retry_after_s=min(retry_s, RETRY_AFTER_LONGEST_S),
            servers=shown,
        )

    def _find(self, url: str) -> PooledServer | None:
        key = server_key(url)
        return next((server for server in self.servers if server.key == key), None)

    async def _watch(self) -> None:
        while True:
            now = self._clock()
            due = [server for server in self.servers if server.cool_until <= now]
            await asyncio.gather(*(self._ask(server) for server in due))
            await asyncio.sleep(self._check_interval_s)


def _keys(urls: Collection[str]) -> frozenset[str]:
    return frozenset(map(server_key, urls))


_FAULTS = frozenset(
    {
        *("comfystream_unreachable", "comfystream_timeout", "comfystream_wedged"),
        *("comfystream_bad_answer", "media_timeout"),
    }
)
"""Of the server; others are the workflow's, or the network's."""
_THERE = frozenset({ServerAnswer.FREE, ServerAnswer.IN_USE, ServerAnswer.UNTOLD})
