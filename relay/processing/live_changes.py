"""How a session's processing is changed while it runs.

What ComfyStream can change within a connection, it is asked to on its control channel; what it
fixes with the offer takes a new connection. Either way the session has one configuration in force,
which every later connection is made with, and a change that fails leaves the one before it.

ComfyStream stops for good when an update of its prompts fails (measured): it takes stop_prompts,
then resume_prompts, to make it go on with those it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from relay.changes.session_change import ChangeBatch, ChangeQueue
from relay.comfystream.leases import ServerLease
from relay.comfystream.live_update import needs_new_offer
from relay.errors import BusyError, ProcessingError, RelayError, RequestError
from relay.processing.workflow_watch import WorkflowWatch
from relay.session_config import SessionConfig
from relay.webrtc_client import WebRTCClient

log = structlog.get_logger(__name__)

RECOVERY_TIMEOUT_S = 1.0
"""For each of the two requests that make a stopped server go on; they take milliseconds."""
PAUSE_TIMEOUT_S = 2.0
FLOWING_S = 2.0
"""A source that sent nothing for so long is not there. An update is tried on a frame of the stream,
which ComfyStream waits 1 s for; an offer brings its own."""
NO_FRAME = "frames available"
"""What ComfyStream says when none came in that second."""


class NewConnectionWanted(Exception):
    """What is asked for now takes another connection than the present one."""


class OtherServerWanted(NewConnectionWanted):
    """It takes another server too: this one runs somebody else's prompts."""

    def __init__(self, error: RequestError) -> None:
        super().__init__(error.message)
        self.error = ProcessingError(error.message, code=error.code)


class LiveChanges:
    """One session's configuration in force, and the changes that wait.

    Args:
        config: what the session was started with.
        lease: its lease on the server, if it has prompts.
        acquire: takes a lease on the server of that address; raises RequestError.
        on_config: called on the event loop with each new configuration in force.
        update_timeout_s: how long ComfyStream may take to confirm new prompts.
    """

    def __init__(
        self,
        config: SessionConfig,
        lease: ServerLease | None,
        acquire: Callable[[str], ServerLease],
        on_config: Callable[[SessionConfig], None],
        *,
        update_timeout_s: float,
    ) -> None:
        self.config = config
        self.lease = lease
        self.queue = ChangeQueue()
        self.other_server_free: Callable[[], bool] = lambda: False
        """Whether the session may go to another server, and one is free."""
        self._lease_wanted = False
        self._acquire = acquire
        self._on_config = on_config
        self._update_timeout_s = update_timeout_s
        self._unproven: list[ChangeBatch] = []
        """Part of the configuration, but no connection has stood with it yet."""
        self._proven = config
        """What the last connection stood with, or the session began with."""

    # -- between connections ------------------------------------------------------------------

    @property
    def wants_lease(self) -> bool:
        """Whether the next connection takes a server for itself."""
        return bool(self.config.prompts) or self._lease_wanted

    def adopt(self) -> None:
        """No connection stands: the next one is made with everything that waits.

        Raises:
            OtherServerWanted: that takes another server.
        """
        for unproven in self._unproven:
            unproven.put_back()
        self._unproven.clear()
        batch = self.queue.take()
        if batch is not None:
            wanted = batch.change.applied_to(self.config)
            try:
                self._take_lease(wanted)
            except RequestError as error:
                batch.failed(error)
            except OtherServerWanted:
                batch.put_back()
                raise
            else:
                self._unproven.append(batch)
                self._put_in_force(wanted)
        if self.lease is not None and not self.config.prompts:
            self.lease.release()
            self.lease = None

    def refused(self, error: ProcessingError) -> bool:
        """ComfyStream refused the offer. If that may be because of what was changed, the
        configuration is the one before again.

        Returns:
            Whether it is.
        """
        if not self._unproven:
            return False
        self._fail_unproven(_update_failed(error))
        self._put_in_force(self._proven)
        return True

    def move_to(self, url: str) -> None:
        """No connection stands: the next one is made to another server, which nobody has leased."""
        if self.wants_lease:
            before, self.lease = self.lease, self._acquire(url)
            if before is not None:
                before.release()
        self._proven = replace(self._proven, comfystream_url=url)
        self._put_in_force(replace(self.config, comfystream_url=url))

    def close(self) -> None:
        """The session ends: whoever waits is told, and the lease given back. Idempotent."""
        error = RequestError("the session has ended", code="session_ended", http_status=409)
        self._fail_unproven(error)
        self.queue.close(error)
        if self.lease is not None:
            self.lease.release()

    # -- within a connection ------------------------------------------------------------------

    async def follow(self, client: WebRTCClient, watch: WorkflowWatch | None) -> None:
        """Apply changes on a connection that stands, one after the other, until cancelled.

        Raises:
            NewConnectionWanted: it takes another one.
            ProcessingError: this one is of no use any more.
        """
        if self.config.paused:
            await self._pause(client)
        self._proven = self.config
        for batch in self._unproven:
            batch.applied()
        self._unproven.clear()
        while True:
            batch_or_none = self.queue.take()
            if batch_or_none is None:
                await self.queue.wait()
                continue
            try:
                await self._apply(batch_or_none, client, watch)
            except asyncio.CancelledError:
                batch_or_none.put_back()  # for the next connection
                raise

    async def _apply(
        self, batch: ChangeBatch, client: WebRTCClient, watch: WorkflowWatch | None
    ) -> None:
        wanted = batch.change.applied_to(self.config)
        new_prompts = wanted.prompts != self.config.prompts
        if (
            (wanted.width, wanted.height) != (self.config.width, self.config.height)
            or needs_new_offer(self.config.prompts, wanted.prompts)
            or (new_prompts and (self.config.paused or not await client.flows(FLOWING_S)))
        ):
            try:
                self._take_lease(wanted)
            except RequestError as error:
                batch.failed(error)
                return
            except OtherServerWanted:
                batch.put_back()
                raise
            batch.put_back()
            raise NewConnectionWanted
        updated = False
        resumes = self.config.paused and not wanted.paused
        try:
            if new_prompts:
                await self._update_prompts(client, wanted.prompts)
                updated = True
                if watch is not None:
                    watch.expect(wanted.prompts)
            if wanted.paused != self.config.paused:
                await (self._pause(client) if wanted.paused else self._resume(client))
        except RelayError as error:
            if error.code == "control_closed":
                batch.put_back()  # the connection is on its way out: the next one has it
                await asyncio.Event().wait()
            if error.code == "control_failed" and (resumes or NO_FRAME in error.message):
                batch.put_back()
                raise NewConnectionWanted from error
            batch.failed(_update_failed(error))
            log.warning("comfystream.update_failed", code=error.code, error=error.message)
            if error.code == "control_timeout":
                raise
            if updated:
                raise NewConnectionWanted from error  # with the prompts of before
            await self._recover(client)
            return
        self._put_in_force(wanted)
        self._proven = wanted
        batch.applied()
        log.info("comfystream.updated", fields=sorted(batch.change.names))

    async def _update_prompts(self, client: WebRTCClient, prompts: list[dict[str, Any]]) -> None:
        assert client.control is not None
        with client.excused():
            await client.control.request(
                "update_prompts", prompts=prompts, timeout_s=self._update_timeout_s
            )

    async def _pause(self, client: WebRTCClient) -> None:
        """Nothing is under way when the server stops, so nothing is mislabelled when it goes on.
        Without prompts, or with sound to keep alive, the server goes on with a picture a second."""
        server_rests = bool(self.config.prompts) and not client.has_sound
        client.pause(rest=server_rests)
        try:
            await client.drain()
            if server_rests:
                await self._request(client, "pause_prompts", PAUSE_TIMEOUT_S)
        except BaseException:
            client.resume()
            raise

    async def _resume(self, client: WebRTCClient) -> None:
        if client.resting:
            await self._request(client, "resume_prompts", PAUSE_TIMEOUT_S)
        client.resume()

    async def _recover(self, client: WebRTCClient) -> None:
        """Make a server that an update has stopped go on with the prompts that were in force.

        Raises:
            NewConnectionWanted: it won't.
        """
        if not self.config.prompts or client.resting:
            return
        try:
            await self._request(client, "stop_prompts", RECOVERY_TIMEOUT_S)
            await self._request(client, "resume_prompts", RECOVERY_TIMEOUT_S)
            if len(self.config.prompts) > 1:
                # Those before the one that failed have been replaced already.
                await self._update_prompts(client, self.config.prompts)
        except ProcessingError as error:
            log.warning("comfystream.not_recovered", code=error.code, error=error.message)
            raise NewConnectionWanted from error

    async def _request(self, client: WebRTCClient, kind: str, timeout_s: float) -> None:
        assert client.control is not None
        await client.control.request(kind, timeout_s=timeout_s)

    # -- the configuration --------------------------------------------------------------------

    def _take_lease(self, wanted: SessionConfig) -> None:
        self._lease_wanted = bool(wanted.prompts)
        if not self._lease_wanted or self.lease is not None:
            return
        try:
            self.lease = self._acquire(wanted.comfystream_url)
        except RequestError as error:
            if self.other_server_free():
                raise OtherServerWanted(error) from error
            self._lease_wanted = False
            raise

    def _put_in_force(self, config: SessionConfig) -> None:
        self._lease_wanted = False
        if config != self.config:
            self.config = config
            self._on_config(config)

    def _fail_unproven(self, error: RelayError) -> None:
        for batch in self._unproven:
            batch.failed(error)
        self._unproven.clear()


def _update_failed(error: RelayError) -> RelayError:
    """What whoever asked is told."""
    if error.code in ("control_failed", "comfystream_refused"):
        return RequestError(
            f"{error.message}; what was in force before is in force again",
            code="update_failed",
            http_status=422,
        )
    if error.code == "control_timeout":
        return BusyError(
            f"{error.message}; what was in force before is in force again",
            code="update_timeout",
        )
    return error
