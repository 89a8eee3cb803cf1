"""Loads a workflow into a ComfyStream server before anybody needs it: `POST /prompt`.

The route sets the workflow of the whole server and runs it five times, without a client
(measured); it answers when that is done, after minutes where models have to be loaded. A later
offer with a workflow of the same models is answered at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import structlog

from relay.backoff import backoff_delays
from relay.comfystream.leases import ServerLease, ServerLeases
from relay.comfystream.server_address import server_key
from relay.errors import ProcessingError, RequestError
from relay.http_body import read_body
from relay.tasks import cancel_and_wait

log = structlog.get_logger(__name__)

WARM_UP = "warm-up"
"""Holds the lease of a server while it warms up, in place of a session."""
RETRY_FIRST_S = 2.0
RETRY_LONGEST_S = 30.0
ATTEMPTS = 5
"""Of a server; one that can't run the workflow then is left to the sessions to try."""


class WarmUp:
    """Of every server, side by side.

    Args:
        timeout_s: for one server's one attempt.
    """

    def __init__(
        self,
        urls: Sequence[str],
        workflow: dict[str, Any],
        leases: ServerLeases,
        http: aiohttp.ClientSession,
        *,
        timeout_s: float,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        self._urls = urls
        self._workflow = workflow
        self._leases = leases
        self._http = http
        self._timeout_s = timeout_s
        self._retry_first_s = retry_first_s
        self._tasks: list[asyncio.Task[None]] = []
        self._any_ended = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether a session that comes now finds a server that need not load."""
        return self._any_ended.is_set()

    def start(self) -> None:
        """Begin; returns at once."""
        self._tasks = [
            asyncio.create_task(self._warm(url), name=f"warm-up {server_key(url)}")
            for url in self._urls
        ]

    async def wait_ready(self) -> None:
        """Return when one server is warm, or could not be warmed."""
        await self._any_ended.wait()

    async def aclose(self) -> None:
        """Stop where it stands. Idempotent."""
        await cancel_and_wait(self._tasks)

    async def _warm(self, url: str) -> None:
        try:
            await self._try_again_and_again(url)
        finally:
            self._any_ended.set()

    async def _try_again_and_again(self, url: str) -> None:
        waits = backoff_delays(self._retry_first_s, RETRY_LONGEST_S)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                lease = self._leases.acquire(url, WARM_UP)
            except RequestError:
                return  # a session has it, and warms it
            try:
                await warm_up(self._http, url, self._workflow, lease, timeout_s=self._timeout_s)
            except ProcessingError as error:
                log.warning(
                    "comfystream.warm_up_failed",
                    server=server_key(url),
                    code=error.code,
                    error=error.message,
                    attempt=attempt,
                )
            else:
                log.info("comfystream.warm", server=server_key(url))
                return
            finally:
                lease.release()
            await asyncio.sleep(next(waits))


async def warm_up(
    http: aiohttp.ClientSession,
    base_url: str,
    workflow: dict[str, Any],
    lease: ServerLease,
    *,
    timeout_s: float,
) -> None:
    """Return when the server has run the workflow.

    Args:
        lease: of that server; it is waited for until that is safe. The caller's to release.
        timeout_s: for the request, loading included.

    Raises:
        ProcessingError: with a code of those that an offer has.
    """
    await lease.wait_until_safe()
    await lease.begin_offer()
    try:
        async with asyncio.timeout(timeout_s):
            async with http.post(
                f"{base_url}/prompt",
                json=workflow,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                allow_redirects=False,
            ) as response:
                await read_body(response, 1024)
                status = response.status
    except aiohttp.ConnectionTimeoutError as error:
        lease.refused()
        raise ProcessingError(
            "can't reach ComfyStream to warm it up: no connection in time",
            code="comfystream_unreachable",
        ) from error
    except TimeoutError:
        lease.unanswered()
        raise ProcessingError(
            f"ComfyStream did not finish to warm up within {timeout_s:g} s (RELAY_OFFER_TIMEOUT_S)",
            code="comfystream_timeout",
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, aiohttp.ClientConnectorError):
            lease.refused()
        raise ProcessingError(
            f"lost ComfyStream while it warmed up ({type(error).__name__})",
            code="comfystream_unreachable",
        ) from error
    if status != 200:
        lease.refused()
        raise ProcessingError(
            f"ComfyStream answered {status} to the workflow to warm up with; its log has the cause",
            code="comfystream_refused",
        )
    lease.answered()
