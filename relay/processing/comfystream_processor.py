"""The frame processor that is a ComfyStream server: one connection after another.

Every attempt is a new `WebRTCClient` with the same prompts and size. With prompts, each offer waits
until the server can take one without harm (`comfystream.leases`). Frames that arrive while none is
connected are not sent, counted as `not_connected`; what the viewer sees meanwhile is `fallback`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import structlog

from relay.backoff import backoff_delays
from relay.channels.text_output import TextOutput
from relay.codec_executor import CodecExecutor
from relay.comfystream.leases import ServerLease
from relay.comfystream.signalling import exchange_offer
from relay.comfystream.workflow_check import takes_sound
from relay.copy_switch import CopySwitch
from relay.errors import BusyError, ProcessingError
from relay.media.access_unit import AccessUnit, SourceFrame
from relay.media.encoder import VideoEncoder
from relay.processing.fallback import GRACE_S, Fallback
from relay.processing.link_record import LinkRecord, LinkState
from relay.processing.live_changes import LiveChanges, NewConnectionWanted, OtherServerWanted
from relay.processing.server_move import OtherServers, ServerMove
from relay.processing.workflow_watch import WorkflowWatch
from relay.processor import ProcessedUnit, SoundExchange
from relay.queues import MediaQueue, OverflowPolicy, QueueClosed
from relay.session_config import OnOverload, SessionConfig
from relay.tasks import cancel_and_wait, run_beside
from relay.webrtc_client import WebRTCClient, WebRTCOptions

log = structlog.get_logger(__name__)

Waited = TypeVar("Waited")

UNANSWERED_S = 12.0
"""Above every other limit: the first picture of a connection may take 10 s."""
ANSWERS_INTERVAL_S = 1.0
WARM_UP_TEXTS = 5
"""What a workflow from sound to text makes of the noise it is warmed up with (measured)."""
LOADING_AFTER_S = 1.0
"""An offer that is not answered by then is waiting for a workflow to load: a warm server takes
0.1 s (measured)."""


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How attempts follow one another."""

    offer_timeout_s: float = 300.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 15.0
    steady_after_s: float = 10.0
    """A connection that lasted this long was good: waiting starts small again."""
    limit_s: float = 0.0
    """Without a processed picture for this long it is given up; 0 never is."""
    fallback_grace_s: float = GRACE_S
    update_timeout_s: float = 30.0
    """For ComfyStream to confirm new prompts: it runs them once, and may have to load a model."""


class ComfyStreamProcessor:
    """Keeps one session's frames going through one ComfyStream server.

    Args:
        on_change: called on the event loop when `link.state` has changed.
        acquire_lease: takes a lease on the server of that address; raises RequestError.
        other_servers: where the session may go when its server fails; None stays.
        on_config: called on the event loop with each new configuration in force.
        text: takes the text that ComfyStream sends.
        sound: what sends sound along and takes what returns; None for pictures only.
    """

    def __init__(
        self,
        config: SessionConfig,
        options: WebRTCOptions,
        policy: ReconnectPolicy,
        http: aiohttp.ClientSession,
        codecs: CodecExecutor,
        make_encoder: Callable[[int, int], VideoEncoder],
        lease: ServerLease | None,
        on_change: Callable[[], None],
        *,
        acquire_lease: Callable[[str], ServerLease],
        other_servers: OtherServers | None = None,
        on_config: Callable[[SessionConfig], None] = lambda _: None,
        text: TextOutput | None = None,
        sound: SoundExchange | None = None,
    ) -> None:
        self.changes = LiveChanges(
            config,
            lease,
            acquire_lease,
            self._config_changed,
            update_timeout_s=policy.update_timeout_s,
        )
        self._move = ServerMove(other_servers, self.changes)
        self.changes.other_server_free = self._move.would_help
        self._fallback = Fallback(config.fallback, self._show, grace_s=policy.fallback_grace_s)
        self.link = LinkRecord(self.changes, self._move, self._fallback, on_change)
        """How the link to the server stands, and what has happened on it."""
        self._answered = 0
        """Processed pictures up to the last failure."""
        self._on_config = on_config
        self._text = text if text is not None else TextOutput(None)
        self._options = options
        self._policy = policy
        self._http = http
        self._codecs = codecs
        self._make_encoder = make_encoder
        self._sound = sound
        self.copying = CopySwitch(config.ingest)
        """See `FrameProcessor.copying`."""
        self._processed: MediaQueue[ProcessedUnit] | None = None

    @property
    def _config(self) -> SessionConfig:
        return self.changes.config

    @property
    def _lease(self) -> ServerLease | None:
        return self.changes.lease

    async def run(
        self, frames: MediaQueue[SourceFrame], processed: MediaQueue[ProcessedUnit]
    ) -> None:
        """See `FrameProcessor.run`. Failed connections are retried, as long as the policy says.

        Raises:
            ProcessingError: nothing came back for the policy's limit; the last failure.
        """
        self._processed = processed
        self._fallback.paused = self._config.paused
        frames.observer = self._fallback.see_input
        waits = self._backoff()
        try:
            while not (frames.closed and not len(frames)):
                began_at = time.monotonic()
                try:
                    await self._process_once(frames)
                    return
                except NewConnectionWanted as wanted:
                    self.link.set_state(LinkState.WAITING)
                    if isinstance(wanted, OtherServerWanted):
                        await _discarding(frames, self._move_from(wanted.error))
                    continue
                except ProcessingError as error:
                    self._note_failure(error)
                    if error.code == "comfystream_refused" and self.changes.refused(error):
                        continue
                    if self._remaining_s() <= 0:
                        raise
                    if await _discarding(frames, self._move_from(error)):
                        waits = self._backoff()
                        continue
                if time.monotonic() - began_at > self._policy.steady_after_s:
                    waits = self._backoff()
                await _discarding(frames, asyncio.sleep(min(next(waits), self._remaining_s())))
        except QueueClosed:
            return  # the input ended while nothing was connected
        finally:
            frames.observer = None
            self.link.set_state(LinkState.CLOSED)

    def see_decoded(self, decodable: bool) -> None:
        """See `FrameProcessor.see_decoded`."""
        self._fallback.see_decoded(decodable)
        if self.link.client is not None:
            self.link.client.see_decoded(decodable)

    def request_keyframe(self) -> None:
        """See `FrameProcessor.request_keyframe`."""
        if self.link.client is not None and self.link.state is LinkState.CONNECTED:
            self.link.client.request_keyframe()

    async def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Send a message on the control channel of the connection that stands; its reply, if any.

        Raises:
            BusyError: `not_connected`; `comfystream_silent`.
        """
        client = self.link.client
        if client is None or client.control is None or self.link.state is not LinkState.CONNECTED:
            raise BusyError("not connected to ComfyStream now", code="not_connected")
        try:
            return await client.control.ask(message)
        except ProcessingError as error:
            silent = error.code == "control_timeout"
            raise BusyError(
                error.message, code="comfystream_silent" if silent else "not_connected"
            ) from error

    async def _process_once(self, frames: MediaQueue[SourceFrame]) -> None:
        self.link.begin_attempt()
        lease = None
        try:
            async with self._limited():
                self.changes.adopt()
                while (lease := self._lease) is not None:
                    await _discarding(frames, lease.wait_until_safe(self._move.would_help))
                    self.changes.adopt()
                    if lease is self._lease:
                        break
                warm_up = WARM_UP_TEXTS if takes_sound(self._config.prompts) else 0
                self._text.new_connection(skip=warm_up)
                client = self._new_client()
                self.link.begin_client(client)
                await self._connect(client, frames)
            try:
                self.link.connected()
                await self._stay_connected(client)
            finally:
                await self.link.disconnected(client)
                await client.aclose()
        finally:
            if lease is not None:
                lease.leave()
                await lease.confirm_left()

    async def _move_from(self, error: ProcessingError) -> bool:
        """Whether the next attempt goes to another server."""
        before, self._answered = self._answered, self._fallback.frames_processed
        try:
            url = await self._move.choose(error, answered=self._answered > before)
        except ProcessingError as problem:
            self.link.last_error = problem
            return False
        self.link.last_error = None  # no fault of the next one's
        self.changes.move_to(url)
        return True

    async def _connect(self, client: WebRTCClient, frames: MediaQueue[SourceFrame]) -> None:
        """Connect, or leave nothing behind, or leave it to the lease."""
        connecting = asyncio.ensure_future(client.connect(frames, self._take_processed))
        try:
            await _discarding(frames, _result_of(connecting))
        except BaseException:
            if self._lease is None or not self._lease.part_later(connecting, client.aclose):
                await cancel_and_wait([connecting])
                await client.aclose()
            raise

    def _show(self, unit: ProcessedUnit) -> None:
        if self._processed is not None and not self._processed.closed:
            self._processed.put_nowait(unit)

    def _take_processed(self, unit: AccessUnit) -> None:
        if unit.hidden:
            self._fallback.take_hidden(unit)
            return
        self._text.see_picture(unit.pts)
        self._fallback.take_processed(unit)

    def _config_changed(self, config: SessionConfig) -> None:
        if config.paused:
            self._fallback.paused = True
        elif self._fallback.paused:
            self._fallback.resume()
        self._on_config(config)

    @contextlib.asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """Raises ProcessingError inside when nothing came back for the policy's limit."""
        waiting = None
        remaining_s = self._remaining_s()
        try:
            async with asyncio.timeout(None if math.isinf(remaining_s) else remaining_s):
                try:
                    yield
                except asyncio.CancelledError:
                    waiting = self.link.problem
                    raise
        except TimeoutError:
            raise waiting or ProcessingError(
                f"no connection to ComfyStream within {self._policy.limit_s:g} s",
                code="comfystream_unreachable",
            ) from None

    def _remaining_s(self) -> float:
        """Until processing is given up, seconds; infinity if it never is. An input that brings
        nothing is not the server's fault."""
        if not self._policy.limit_s or self._config.paused:
            return math.inf
        now = time.monotonic()
        return (self._fallback.unanswered_since or now) + self._policy.limit_s - now

    def _backoff(self) -> Iterator[float]:
        return backoff_delays(self._policy.first_wait_s, self._policy.longest_wait_s)

    async def _stay_connected(self, client: WebRTCClient) -> None:
        watches: list[Coroutine[Any, Any, None]] = [self._watch_answers(client)]
        if self._config.prompts and client.control is not None:
            self.link.watch = WorkflowWatch(self._config.prompts)
            watches.append(self.link.watch.run(client.control))
        watches.append(self.changes.follow(client, self.link.watch))
        try:
            await run_beside(client.run(), *watches)
        finally:
            self.link.watch = None

    async def _watch_answers(self, client: WebRTCClient) -> None:
        """The last resort: frames come, and whatever the connection believes, nothing that can be
        named comes back."""
        began_at = time.monotonic()
        while True:
            await asyncio.sleep(ANSWERS_INTERVAL_S)
            if self._config.paused or client.is_excused:
                began_at = time.monotonic()
            unanswered_s = min(self._fallback.unanswered_s(), time.monotonic() - began_at)
            if unanswered_s <= UNANSWERED_S:
                continue  # before round trips are sorted for nothing
            if unanswered_s > 5 * client.ledger.slowest_recent_s():
                raise ProcessingError(
                    f"no frame has come back from ComfyStream for {unanswered_s:.1f} s",
                    code="media_timeout",
                )

    def _new_client(self) -> WebRTCClient:
        return WebRTCClient(
            self._offer,
            self._options,
            self._codecs,
            self._make_encoder,
            processing=bool(self._config.prompts),
            copying=self.copying,
            complete=self._config.on_overload is OnOverload.WAIT,
            sound=self._sound,
            on_text=self._text.receive,
        )

    async def _offer(self, offer_sdp: str) -> str:
        if self._lease is not None:
            await self._lease.begin_offer()
        loading = asyncio.get_running_loop().call_later(
            LOADING_AFTER_S, self.link.set_state, LinkState.LOADING
        )
        try:
            answer = await exchange_offer(
                self._http,
                self._config.comfystream_url,
                offer_sdp,
                prompts=self._config.prompts,
                width=self._config.width,
                height=self._config.height,
                timeout_s=self._policy.offer_timeout_s,
            )
        except ProcessingError as error:
            self._note_failed_offer(error)
            raise
        finally:
            loading.cancel()
        if self._lease is not None:
            self._lease.answered()
        if self._options.candidates is not None:
            url = self._config.comfystream_url
            answer = await self._options.candidates.admitted(
                answer, offer=offer_sdp, server_url=url
            )
        return answer

    def _note_failed_offer(self, error: ProcessingError) -> None:
        if self._lease is None:
            return
        if error.code == "comfystream_timeout":
            self._lease.unanswered()
        elif error.code == "comfystream_refused" or isinstance(
            error.__cause__, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        ):
            self._lease.refused()

    def _note_failure(self, error: ProcessingError) -> None:
        self.link.failed(error)
        log.warning(
            "comfystream.attempt_failed",
            code=error.code,
            error=error.message,
            attempt=self.link.attempts,
            cause=repr(error.__cause__) if error.__cause__ else None,
        )


async def _result_of(future: asyncio.Future[None]) -> None:
    """Wait for it; a cancel leaves it running."""
    await asyncio.shield(future)


async def _discarding(
    frames: MediaQueue[SourceFrame], waiting_for: Coroutine[Any, Any, Waited]
) -> Waited:
    """Await `waiting_for` while letting go of every frame that comes; frames that wait are kept.

    Raises:
        QueueClosed: the frames ended first.
    """

    async def discard() -> None:
        if frames.policy is OverflowPolicy.WAIT:
            await frames.wait_closed()
            if not len(frames):
                raise QueueClosed(frames.name)
            await asyncio.Event().wait()
        while True:
            await frames.get()
            frames.dropped["not_connected"] += 1

    return await run_beside(waiting_for, discard())
