"""The sound of one peer connection, both ways: offered, begun, watched, ended."""

from __future__ import annotations

import asyncio
import time

import structlog
from aiortc import RTCPeerConnection, RTCRtpSender, RTCRtpTransceiver

from relay.codec_executor import CodecExecutor
from relay.errors import ProcessingError
from relay.processor import SoundExchange
from relay.sound.placement import SentSound
from relay.webrtc.incoming_sound import IncomingAudio
from relay.webrtc.outgoing_sound import AudioStreamTrack

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S = 1.0
RETURN_TIMEOUT_S = 4.0
FIRST_RETURN_TIMEOUT_S = 15.0
"""Without any sound coming back for so long, none will: the server's sender of it is dead, which
only a new connection cures. A workflow with long buffers gets more, by what it took before."""
SLOW_RETURNS = 4.0


class SoundLine:
    """The sound of one peer connection, both ways.

    Args:
        exchange: where blocks come from and returned packets go.
        codecs: where Opus is encoded.
    """

    def __init__(self, exchange: SoundExchange, codecs: CodecExecutor) -> None:
        self._exchange = exchange
        self._codecs = codecs
        self._sent = SentSound(returns=exchange.returns)
        self._track: AudioStreamTrack | None = None
        self._transceiver: RTCRtpTransceiver | None = None

    def add_to(self, peer: RTCPeerConnection) -> None:
        """Offer Opus, both ways."""
        exchange = self._exchange
        self._track = AudioStreamTrack(exchange.blocks, self._codecs, self._sent, exchange.skipped)
        transceiver = peer.addTransceiver(self._track, direction="sendrecv")
        transceiver.setCodecPreferences(
            [c for c in RTCRtpSender.getCapabilities("audio").codecs if c.mimeType == "audio/opus"]
        )
        IncomingAudio(exchange.returned).attach(transceiver.receiver)
        self._transceiver = transceiver

    def begin(self) -> None:
        """The connection is up; sound goes along if the server has taken it."""
        if self._accepted:
            self._exchange.connected(self._sent)
        else:
            log.warning("comfystream.no_sound", hint="its answer takes no Opus audio")

    async def watch(self) -> None:
        """Never returns.

        Raises:
            ProcessingError: code `media_timeout`: sound is sent and does not come back.
        """
        limit_s = FIRST_RETURN_TIMEOUT_S
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if percentiles := self._sent.delay.percentiles_ms():
                limit_s = max(RETURN_TIMEOUT_S, SLOW_RETURNS * percentiles["p99"] / 1000)
            if self._track is not None and self._track.failure is not None:
                raise ProcessingError(
                    "encoding sound towards ComfyStream failed", code="webrtc_failed"
                ) from self._track.failure
            waiting_since = self._sent.waiting_since()
            if not self._accepted or waiting_since is None:
                continue
            silent_s = time.monotonic() - waiting_since
            if silent_s > limit_s:
                raise ProcessingError(
                    f"ComfyStream returned no sound for {silent_s:.1f} s", code="media_timeout"
                )

    def end(self) -> None:
        """The connection goes down. Idempotent."""
        self._exchange.disconnected()

    @property
    def _accepted(self) -> bool:
        return self._transceiver is not None and self._transceiver.currentDirection == "sendrecv"
