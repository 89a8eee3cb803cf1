"""Which of the operator's ComfyStream servers a session gets, and whether it is warm."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import aiohttp

from relay.comfystream.leases import ServerLeases
from relay.comfystream.pool import ServerPool
from relay.comfystream.warm_up import WARM_UP, WarmUp
from relay.comfystream.workflows import DEFAULT_WORKFLOW, TextWorkflow
from relay.config.settings import Settings, servers
from relay.errors import BusyError, ProcessingError
from relay.session_config import SessionConfig


class ServerChoice:
    """The pool, if there is one, and the warm-up, if it is wanted.

    Args:
        http: for questions and warm-up; not closed here.
    """

    def __init__(
        self, settings: Settings, leases: ServerLeases, http: aiohttp.ClientSession
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._pool: ServerPool | None = None
        self._warm_up: WarmUp | None = None
        if settings.comfystream_urls:
            self._pool = ServerPool(settings.comfystream_urls, leases, http)
        if settings.warm_pipeline:
            path = settings.text_workflow
            self._warm_up = WarmUp(
                servers(settings),
                TextWorkflow.load(path).fill("") if path else DEFAULT_WORKFLOW,
                leases,
                http,
                timeout_s=settings.offer_timeout_s,
            )

    @property
    def alive(self) -> bool:
        """Whether the servers of the pool are asked, if there is one."""
        return self._pool is None or self._pool.alive

    def start(self) -> None:
        """Begin to ask the servers of the pool, and to warm up."""
        if self._warm_up is not None:
            self._warm_up.start()
        if self._pool is not None:
            self._pool.start()

    async def aclose(self) -> None:
        """Idempotent."""
        if self._warm_up is not None:
            await self._warm_up.aclose()
        if self._pool is not None:
            await self._pool.aclose()

    @property
    def ready(self) -> bool:
        """Whether a session that comes now finds a server that is there, and warm if it can be."""
        warm = self._warm_up is None or self._warm_up.ready
        return warm and (self._pool is None or self._pool.reachable > 0)

    @property
    def reachable(self) -> int | None:
        """Servers of the pool that answered last; None without a pool."""
        return self._pool.reachable if self._pool is not None else None

    def why_none_free(self) -> BusyError | None:
        """Why a session with prompts would not get a server now; None if it would, as far as that
        is known without asking."""
        if self._warm_up is not None and not self._warm_up.ready:
            return _warming_up()
        return self._pool.why_none_free() if self._pool is not None else None

    def status(self) -> list[dict[str, Any]]:
        """The servers of the pool and how they are; empty without a pool."""
        return self._pool.status() if self._pool is not None else []

    async def settle(self, config: SessionConfig) -> SessionConfig:
        """`config` with a server. One of the pool is to be leased before the loop runs others.

        Raises:
            BusyError: `no_server_free`; `warming_up`.
        """
        if not config.comfystream_url:
            if self._pool is None:
                config = replace(config, comfystream_url=self._settings.comfystream_url)
            else:
                server = await self._pool.choose(prompts=bool(config.prompts))
                config = replace(config, comfystream_url=server.url, pooled=True)
        if config.prompts and self._leases.holder(config.comfystream_url) == WARM_UP:
            raise _warming_up()
        return config

    def any_free(self, *, prompts: bool, without: Collection[str]) -> bool:
        """See `OtherServers`."""
        return self._pool is not None and self._pool.any_free(prompts=prompts, without=without)

    async def choose(self, *, prompts: bool, without: Collection[str]) -> str:
        """See `OtherServers`."""
        if self._pool is None:
            raise BusyError("there is no pool of ComfyStream servers", code="no_server_free")
        return (await self._pool.choose(prompts=prompts, without=without)).url

    def note_use(self, url: str, session_id: str) -> None:
        """A session uses the server, and no other any more."""
        if self._pool is not None:
            self._pool.given(url, session_id)

    def note_end(self, session_id: str) -> None:
        """It does so no longer."""
        if self._pool is not None:
            self._pool.returned(session_id)

    def note_failure(self, url: str, error: ProcessingError) -> None:
        """It could not be used."""
        if self._pool is not None:
            self._pool.failed(url, error)


def _warming_up() -> BusyError:
    return BusyError(
        "ComfyStream is loading its models (RELAY_WARM_PIPELINE); try again", code="warming_up"
    )
