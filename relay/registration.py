"""Tells a Livepeer orchestrator that this relay serves a capability, and that it no longer does.

    POST {orchestrator}/capability/register     Authorization: <secret>, a JSON object
    POST {orchestrator}/capability/unregister   Authorization: <secret>, the bare name

An orchestrator keeps no heartbeat and forgets its workers when it restarts or when a worker answers
401, so registering is repeated as long as the relay takes streams. What goes wrong with it is
retried and told, and is never the relay's end.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
import structlog

from relay.backoff import backoff_delays
from relay.config.settings import Settings, servers
from relay.http_body import read_body
from relay.tasks import cancel_and_wait
from relay.tls import tls_trust

log = structlog.get_logger(__name__)

REPEAT_S = 60.0
RETRY_FIRST_S = 1.0
RETRY_LONGEST_S = 30.0
READY_INTERVAL_S = 1.0
"""How often readiness is looked at: a pool's servers come and go unannounced."""
REQUEST_TIMEOUT_S = 5.0
UNREGISTER_TIMEOUT_S = 1.0
_WRONG_SECRET = "invalid authorization"
"""How the orchestrator's 400 for a wrong secret begins; its others are about the body."""


class Outcome(StrEnum):
    """What became of one request."""

    DONE = "done"
    WRONG_SECRET = "wrong_secret"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Capability:
    """What is registered, and where."""

    orchestrator_url: str
    secret: str
    name: str
    description: str
    url: str
    capacity: int
    price_per_unit: int
    price_scaling: int
    currency: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Capability | None:
        """What the operator wants registered; None if nothing."""
        if settings.orch_url is None:
            return None
        assert settings.orch_secret is not None
        assert settings.capability_url is not None
        return cls(
            settings.orch_url,
            settings.orch_secret.get_secret_value(),
            settings.capability_name,
            settings.capability_description,
            settings.capability_url,
            capacity_of(settings),
            settings.capability_price_per_unit,
            settings.capability_price_scaling,
            settings.capability_currency,
        )

    def body(self, capacity: int) -> dict[str, Any]:
        """What the orchestrator is sent.

        Args:
            capacity: of now; no more than `self.capacity`.
        """
        body: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "url": self.url,
            "capacity": min(capacity, self.capacity),
            "price_per_unit": self.price_per_unit,
            "price_scaling": self.price_scaling,
        }
        return body | {"currency": self.currency} if self.currency else body


def capacity_of(settings: Settings) -> int:
    """How many streams the orchestrator may send: what was said, or what the pool serves."""
    count = settings.capability_capacity or len(servers(settings))
    return min(count, settings.max_sessions) if settings.max_sessions else count


class Registration:
    """Keeps one capability registered.

    Args:
        capacity_now: how many streams the relay could serve now, those that run included; 0 while
            it takes none. On the event loop, cheap.
    """

    def __init__(
        self,
        capability: Capability,
        capacity_now: Callable[[], int],
        *,
        token: str | None = None,
        http: aiohttp.ClientSession,
        repeat_s: float = REPEAT_S,
        retry_first_s: float = RETRY_FIRST_S,
        ready_interval_s: float = READY_INTERVAL_S,
    ) -> None:
        self.registered = False
        self.last_problem: str | None = None
        self._capability = capability
        self._token = token
        self._capacity_now = capacity_now
        self._http = http
        self._repeat_s = repeat_s
        self._retry_first_s = retry_first_s
        self._ready_interval_s = ready_interval_s
        self._task: asyncio.Task[None] | None = None
        self._may_be_known = False
        """A registration left, whatever became of it."""
        self._sent_capacity = 0
        self._told: Outcome | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name="registration")

    async def aclose(self) -> None:
        """Unregister if the orchestrator may know of us; close. Bounded in time, idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])
        try:
            if self._may_be_known:
                self._may_be_known = False
                with suppress(TimeoutError):
                    async with asyncio.timeout(UNREGISTER_TIMEOUT_S):
                        await self._unregister()
        finally:
            await self._http.close()

    async def _run(self) -> None:
        waits = self._waits()
        while True:
            if not self._capacity_now():
                if self._may_be_known:
                    self._may_be_known = False
                    await self._unregister()
                await asyncio.sleep(self._ready_interval_s)
                continue
            if await self._register() is Outcome.DONE:
                waits = self._waits()
                await self._wait_for_change()
            else:
                await asyncio.sleep(next(waits))

    async def _wait_for_change(self) -> None:
        """Until it is time to register again, or the capacity is another."""
        loop = asyncio.get_running_loop()
        again_at = loop.time() + self._repeat_s
        while (remaining_s := again_at - loop.time()) > 0:
            await asyncio.sleep(min(remaining_s, self._ready_interval_s))
            if self._capacity_now() != self._sent_capacity:
                return

    async def _register(self) -> Outcome:
        self._sent_capacity = self._capacity_now()
        body = self._capability.body(self._sent_capacity)
        if self._token:
            body["token"] = self._token
        self._may_be_known = True
        outcome, problem = await self._post("register", json=body)
        self.last_problem = problem
        if outcome is not Outcome.DONE and not self.registered:
            self._may_be_known = False
        if outcome is Outcome.DONE:
            self.registered = True
        if outcome is not self._told:
            self._told = outcome
            fields = {"orchestrator": self._capability.orchestrator_url}
            if outcome is Outcome.DONE:
                log.info(
                    "registration.registered",
                    capability=self._capability.name,
                    url=self._capability.url,
                    capacity=body["capacity"],
                    **fields,
                )
            else:
                log.warning("registration.failed", reason=outcome.value, error=problem, **fields)
        return outcome

    async def _unregister(self) -> None:
        outcome, problem = await self._post("unregister", data=self._capability.name.encode())
        self._told = None
        self.registered = False
        log.info(
            "registration.unregistered",
            capability=self._capability.name,
            outcome=outcome.value,
            error=problem,
        )

    async def _post(self, what: str, **body: Any) -> tuple[Outcome, str | None]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                async with self._http.post(
                    f"{self._capability.orchestrator_url}/capability/{what}",
                    headers={"Authorization": self._capability.secret},
                    allow_redirects=False,
                    **body,
                ) as response:
                    text = (await read_body(response, 1024)).decode(errors="replace").strip()
                    status = response.status
        except TimeoutError:
            return Outcome.UNREACHABLE, f"no answer within {REQUEST_TIMEOUT_S:g} s"
        except aiohttp.ClientConnectorCertificateError:
            return Outcome.UNREACHABLE, (
                "its certificate is not one that is trusted here: give its authority as"
                " RELAY_TLS_CA_FILE, or set ORCH_TLS_INSECURE"
            )
        except (aiohttp.ClientError, OSError) as error:
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            return Outcome.UNREACHABLE, _in_words(cause)
        if status == 200:
            return Outcome.DONE, None
        if status in (400, 401, 403) and text.lower().startswith(_WRONG_SECRET):
            return Outcome.WRONG_SECRET, "it says that ORCH_SECRET is wrong"
        return Outcome.REFUSED, f"it answered {status}: {self._without_secrets(text)[:200]}"

    def _without_secrets(self, text: str) -> str:
        for secret in (self._capability.secret, self._token):
            if secret:
                text = text.replace(secret, "***")
        return text

    def _waits(self) -> Iterator[float]:
        return backoff_delays(self._retry_first_s, RETRY_LONGEST_S)


def _in_words(cause: Exception) -> str:
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno).lower()
    return getattr(cause, "strerror", None) or type(cause).__name__


def open_registration(settings: Settings, capacity_now: Callable[[], int]) -> Registration | None:
    """What registers as the operator wants; None if nothing is to be. Inside the event loop."""
    capability = Capability.of(settings)
    if capability is None:
        return None
    trust = tls_trust(
        settings.tls_ca_file, insecure=settings.orch_tls_insecure or settings.tls_insecure
    )
    # Not the sessions' client: the orchestrator is the operator's choice, and no session's host.
    http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))
    token = settings.api_token.get_secret_value() if settings.api_token else None
    return Registration(capability, capacity_now, token=token, http=http)
