"""The frame processor that is a ComfyStream server: one connection after another.

Every attempt is a new `WebRTCClient` with the same prompts and size. Frames that arrive while
none is connected are let go, counted as `not_connected`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
import structlog

from relay.backoff import backoff_delays
from relay.codec_executor import CodecExecutor
from relay.comfystream.signalling import exchange_offer
from relay.errors import ProcessingError
from relay.media.access_unit import DecodedFrame
from relay.media.encoder import VideoEncoder
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue, QueueClosed
from relay.session_config import SessionConfig
from relay.tasks import run_beside
from relay.webrtc_client import WebRTCClient, WebRTCOptions

log = structlog.get_logger(__name__)


class LinkState(StrEnum):
    """Where the link to the server stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """Between two attempts."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How attempts follow one another."""

    offer_timeout_s: float = 300.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 15.0
    steady_after_s: float = 10.0
    """A connection that lasted this long was good: waiting starts small again."""


class ComfyStreamProcessor:
    """Keeps one session's frames going through one ComfyStream server.

    Args:
        on_change: called on the event loop when `link_state` has changed.
    """

    def __init__(
        self,
        config: SessionConfig,
        options: WebRTCOptions,
        policy: ReconnectPolicy,
        http: aiohttp.ClientSession,
        codecs: CodecExecutor,
        make_encoder: Callable[[int, int], VideoEncoder],
        on_change: Callable[[], None],
    ) -> None:
        self.link_state = LinkState.CONNECTING
        self.last_error: ProcessingError | None = None
        """Why the last attempt failed; None while it works."""
        self.attempts = 0
        self.connections = 0
        self._config = config
        self._options = options
        self._policy = policy
        self._http = http
        self._codecs = codecs
        self._make_encoder = make_encoder
        self._on_change = on_change
        self._client: WebRTCClient | None = None

    async def run(
        self, frames: MediaQueue[DecodedFrame], processed: MediaQueue[ProcessedUnit]
    ) -> None:
        """See `FrameProcessor.run`. Failed connections are retried without end."""
        waits = backoff_delays(self._policy.first_wait_s, self._policy.longest_wait_s)
        try:
            while not (frames.closed and not len(frames)):
                connected_at = time.monotonic()
                try:
                    await self._process_once(frames, processed)
                    return
                except ProcessingError as error:
                    self._note_failure(error)
                if time.monotonic() - connected_at > self._policy.steady_after_s:
                    waits = backoff_delays(self._policy.first_wait_s, self._policy.longest_wait_s)
                await _discarding(frames, asyncio.sleep(next(waits)))
        except QueueClosed:
            return  # the input ended while nothing was connected
        finally:
            self._set_link_state(LinkState.CLOSED)

    def status(self) -> dict[str, Any]:
        client = self._client
        return {
            "link": self.link_state.value,
            "attempts": self.attempts,
            "reconnects": max(0, self.connections - 1),
            "error": self.last_error.message if self.last_error else None,
            "error_code": self.last_error.code if self.last_error else None,
            "fps_sent": round(client.ledger.sent.rate, 1) if client else 0.0,
            "fps_returned": round(client.ledger.returned.rate, 1) if client else 0.0,
            "frames_in_flight": client.ledger.identifier.in_flight if client else 0,
            "frames_abandoned": client.ledger.abandoned if client else 0,
            "label_shift": client.ledger.identifier.label_shift if client else 0,
            "round_trip_ms": client.ledger.round_trip.percentiles_ms() if client else None,
        }

    @property
    def webrtc_state(self) -> str:
        """W3C's RTCPeerConnectionState of the current connection."""
        return self._client.state if self._client else "new"

    async def _process_once(
        self, frames: MediaQueue[DecodedFrame], processed: MediaQueue[ProcessedUnit]
    ) -> None:
        self.attempts += 1
        self._set_link_state(LinkState.CONNECTING)
        client = self._client = WebRTCClient(
            self._offer,
            self._options,
            self._codecs,
            self._make_encoder,
            processing=bool(self._config.prompts),
        )
        try:
            await _discarding(frames, client.connect(frames, processed))
            self.connections += 1
            self.last_error = None
            self._set_link_state(LinkState.CONNECTED)
            await client.run()
        finally:
            await client.aclose()

    async def _offer(self, offer_sdp: str) -> str:
        return await exchange_offer(
            self._http,
            self._config.comfystream_url,
            offer_sdp,
            prompts=self._config.prompts,
            width=self._config.width,
            height=self._config.height,
            timeout_s=self._policy.offer_timeout_s,
        )

    def _note_failure(self, error: ProcessingError) -> None:
        self.last_error = error
        self._set_link_state(LinkState.WAITING)
        log.warning(
            "comfystream.attempt_failed",
            code=error.code,
            error=error.message,
            attempt=self.attempts,
            cause=repr(error.__cause__) if error.__cause__ else None,
        )

    def _set_link_state(self, state: LinkState) -> None:
        if state is not self.link_state:
            self.link_state = state
            self._on_change()


async def _discarding(frames: MediaQueue[DecodedFrame], waiting_for: Any) -> None:
    """Await `waiting_for` while letting go of every frame that comes.

    Raises:
        QueueClosed: the frames ended first.
    """

    async def discard() -> None:
        while True:
            await frames.get()
            frames.dropped["not_connected"] += 1

    await run_beside(waiting_for, discard())
