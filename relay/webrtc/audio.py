"""Sound to the server and back: Opus packets made by us, and taken undecoded and at once.

aiortc would hold four packets of what comes back, 80 ms, and more for good after each lost one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import av
import structlog
from aiortc import (
    MediaStreamTrack,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
)
from aiortc.mediastreams import MediaStreamError

from relay.codec_executor import CodecExecutor
from relay.errors import ProcessingError
from relay.media.audio_encoder import OpusEncoder
from relay.media.audio_grid import BLOCK_SAMPLES, SAMPLE_RATE, SoundBlock, silence
from relay.processor import SoundExchange
from relay.queues import MediaQueue, QueueClosed
from relay.sound.placement import ReturnedPacket, SentBlock, SentSound
from relay.webrtc import aiortc_internals

log = structlog.get_logger(__name__)

FEED_AFTER_S = 0.5
"""Without sound for so long, silence is sent: ComfyStream loses returned sound for good after 1 s
without any."""
MOST_FEED_BEHIND_S = 0.1
"""A process that stood still makes up for no more silence than this."""
BLOCK_S = BLOCK_SAMPLES / SAMPLE_RATE
MOST_IN_FLIGHT = round(10 / BLOCK_S)
"""A server that is 10 s behind gets no more until it has caught up: its queues have no end."""
WATCH_INTERVAL_S = 1.0
RETURN_TIMEOUT_S = 4.0
FIRST_RETURN_TIMEOUT_S = 15.0
"""Without any sound coming back for so long, none will: the server's sender of it is dead, which
only a new connection cures. A workflow with long buffers gets more, by what it took before."""
SLOW_RETURNS = 4.0
REORDER_PACKETS = 3
"""So many later packets are held for one that is missing (60 ms), then it is lost."""
_REORDER_SPAN = 100
_SEQUENCE_MODULUS = 1 << 16
_TIME_BASE = Fraction(1, SAMPLE_RATE)


class AudioStreamTrack(MediaStreamTrack):
    """The outgoing track: blocks of sound from a queue, and silence while there are none.

    Begins with silence at once, so that sound starts with the connection. aiortc calls `recv`,
    and anything but a clean end would kill its sender for good without a word.

    Args:
        blocks: SoundBlock; not ended by its end, as the pictures decide when the sending ends.
        codecs: where Opus is encoded.
        sent: notes every packet.
        on_skipped: called with the pts of a block that is not sent, because the server is too far
            behind.
    """

    kind = "audio"

    def __init__(
        self,
        blocks: MediaQueue[SoundBlock],
        codecs: CodecExecutor,
        sent: SentSound,
        on_skipped: Callable[[int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self._blocks = blocks
        self._codecs = codecs
        self._sent = sent
        self._on_skipped = on_skipped
        self._clock = clock
        self._encoder = OpusEncoder()
        self._feed_at: float | None = None

    async def recv(self) -> av.Packet[Any]:
        """The next 20 ms, in Opus.

        Raises:
            MediaStreamError: the track was stopped, or encoding failed (`failure` says why).
        """
        if self.readyState != "live":
            raise MediaStreamError
        try:
            block = await self._next_block()
            samples = block.samples if block is not None else silence(BLOCK_SAMPLES)
            data = await self._codecs.run(self._encoder.encode, samples)
        except (asyncio.CancelledError, MediaStreamError):
            raise
        except QueueClosed:
            raise MediaStreamError from None
        except Exception as error:  # aiortc's sender must not see anything else
            self.failure = error
            raise MediaStreamError from error
        number = self._sent.remember(SentBlock(block.pts if block else None, self._clock()))
        packet: av.Packet[Any] = av.Packet(data)
        packet.pts = packet.dts = number * BLOCK_SAMPLES
        packet.time_base = _TIME_BASE
        return packet

    async def _next_block(self) -> SoundBlock | None:
        """The next block, or None when it is time to send silence."""
        if self._feed_at is None:
            self._feed_at = self._clock()
        while not self._blocks.closed:
            try:
                async with asyncio.timeout(max(0.0, self._feed_at - self._clock())):
                    block = await self._blocks.get()
            except TimeoutError:
                self._feed_at = max(self._feed_at + BLOCK_S, self._clock() - MOST_FEED_BEHIND_S)
                if self._sent.in_flight() < MOST_IN_FLIGHT:
                    return None
                continue
            self._feed_at = self._clock() + FEED_AFTER_S
            if self._sent.in_flight() < MOST_IN_FLIGHT:
                return block
            self._on_skipped(block.pts)
        raise MediaStreamError


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


class RtpPacketLike(Protocol):
    sequence_number: int
    timestamp: int
    _data: bytes


class IncomingAudio:
    """The incoming track, taken from its receiver undecoded, in order, without a hold.

    Args:
        on_packet: called with each packet.
    """

    def __init__(
        self,
        on_packet: Callable[[ReturnedPacket], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_packet = on_packet
        self._clock = clock
        self._held: dict[int, RtpPacketLike] = {}
        self._next: int | None = None

    def attach(self, receiver: RTCRtpReceiver) -> None:
        """Take over `receiver`'s packets; before the connection is up."""
        aiortc_internals.replace_jitter_buffer(receiver, self)

    def add(self, packet: RtpPacketLike) -> tuple[bool, None]:
        """Take one packet; the shape of the call is aiortc's `JitterBuffer.add`."""
        if self._next is None:
            self._next = packet.sequence_number
        ahead = (packet.sequence_number - self._next) % _SEQUENCE_MODULUS
        if ahead >= _SEQUENCE_MODULUS // 2:
            if _SEQUENCE_MODULUS - ahead < _REORDER_SPAN:
                return False, None  # late or repeated
            self._restart_at(packet.sequence_number)
        elif ahead > _REORDER_SPAN:
            self._restart_at(packet.sequence_number)
        self._held[packet.sequence_number] = packet
        self._release()
        while len(self._held) > REORDER_PACKETS:
            self._next = (self._next + 1) % _SEQUENCE_MODULUS
            self._release()
        return False, None

    def _restart_at(self, sequence_number: int) -> None:
        self._held.clear()
        self._next = sequence_number

    def _release(self) -> None:
        assert self._next is not None
        while (packet := self._held.pop(self._next, None)) is not None:
            self._next = (self._next + 1) % _SEQUENCE_MODULUS
            if packet._data:
                self._on_packet(ReturnedPacket(packet._data, packet.timestamp, self._clock()))
