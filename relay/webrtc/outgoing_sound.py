"""Blocks of sound to the Opus packets that aiortc sends; silence where there are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from relay.codec_executor import CodecExecutor
from relay.media.audio_encoder import OpusEncoder
from relay.media.audio_grid import BLOCK_SAMPLES, SAMPLE_RATE, SoundBlock, silence
from relay.queues import MediaQueue, QueueClosed
from relay.sound.placement import SentBlock, SentSound

FEED_AFTER_S = 0.5
"""Without sound for so long, silence is sent: ComfyStream loses returned sound for good after 1 s
without any."""
MOST_FEED_BEHIND_S = 0.1
"""A process that stood still makes up for no more silence than this."""
BLOCK_S = BLOCK_SAMPLES / SAMPLE_RATE
MOST_IN_FLIGHT = round(10 / BLOCK_S)
"""A server that is 10 s behind gets no more until it has caught up: its queues have no end."""
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
