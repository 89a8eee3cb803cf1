"""Sound through the server: decoded, put on a grid, sent, and what returns encoded for the output.

    units -> decoder -> grid -> [blocks] -> WebRTC -> ComfyStream
      -> packets -> decoder -> placement -> timeline -> encoder -> output

The row that leaves is unbroken and of one format whatever happens on the way: silence stands for
what the source does not have, the source's own sound for what the server does not return.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from relay.codec_executor import CodecExecutor
from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream
from relay.media.audio_decoder import AudioDecoder, OpusDecoder
from relay.media.audio_encoder import AudioEncoder, output_stream
from relay.media.audio_grid import (
    BLOCK_SAMPLES,
    BLOCK_TICKS,
    AudioGrid,
    Samples,
    SoundBlock,
    silence,
)
from relay.queues import MediaQueue
from relay.session_config import AudioCodec
from relay.sound.placement import ReturnedPacket, SentSound, SoundPlacement
from relay.sound.timeline import SoundTimeline

SILENCE_LAG = CLOCK_RATE
"""How far the pictures must be ahead before silence takes the place of sound that the programme
lists, at least: half a second more than sound has been seen to lie behind its picture in the
channel (0.6 s and more where a server made it)."""
LONGEST_SILENCE_LAG = 3 * CLOCK_RATE
UNLISTED_LAG = CLOCK_RATE // 10
"""The same where no sound is listed."""
MOST_SILENCE_SENT = 25
"""Blocks of silence in a row that are sent for what they are; a longer pause is not worth it."""
UNITS_CAPACITY = 1000
PACKETS_CAPACITY = 2000


class ServerSound:
    """One session's sound on its way through the server; implements `SoundExchange`.

    Args:
        codecs: where everything is decoded and encoded.
        codec: of the output.
        returns: whether the output's sound is what the server returns; if not, sound is only sent.
    """

    def __init__(
        self,
        codecs: CodecExecutor,
        codec: AudioCodec = AudioCodec.AAC,
        *,
        returns: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.blocks: MediaQueue[SoundBlock] = MediaQueue("audio_blocks", 250)
        self.returns = returns
        self.timeline = SoundTimeline()
        self.grid = AudioGrid()
        self._codecs = codecs
        self._codec = codec
        self._clock = clock
        self._emit: Callable[[AccessUnit], None] = _ignore
        self._sound_listed: Callable[[], bool] = lambda: True
        self._units: MediaQueue[AccessUnit] = MediaQueue("audio_units", UNITS_CAPACITY)
        self._packets: deque[ReturnedPacket] = deque(maxlen=PACKETS_CAPACITY)
        self._decoder = AudioDecoder()
        self._encoder = AudioEncoder(codec)
        self._sent: SentSound | None = None
        self._placement: SoundPlacement | None = None
        self._returned_decoder: OpusDecoder | None = None
        self._first_video_pts: int | None = None
        self._video_pts: int | None = None
        self._end_pts: int | None = None
        self._silence_lag = SILENCE_LAG
        self._input_ended = False
        self._wake = asyncio.Event()

    @property
    def stream(self) -> ElementaryStream:
        """The sound that comes out."""
        return output_stream(self._codec)

    def bind(self, emit: Callable[[AccessUnit], None], sound_listed: Callable[[], bool]) -> None:
        """Say where the sound goes, and how to tell whether the input's programme lists any."""
        self._emit = emit
        self._sound_listed = sound_listed

    # The input's side.

    def take(self, unit: AccessUnit) -> None:
        """Take the next access unit of the input."""
        if not self._input_ended:
            self._follow_lag(unit.pts)
            self._units.put_nowait(unit)
            self._wake.set()

    def video_time(self, dts: int) -> None:
        """The input's pictures have come to this time: sound should be near it."""
        if self._first_video_pts is None:
            self._first_video_pts = dts
        self._video_pts = dts
        if self._fill_until() is not None:
            self._wake.set()

    def end_input(self) -> None:
        """Nothing more will come. Idempotent."""
        self._input_ended = True
        self._wake.set()

    # The server's side.

    def connected(self, sent: SentSound) -> None:
        """See `SoundExchange`."""
        self.blocks.clear("before_connection")
        self._packets.clear()
        self._sent = sent
        self._placement = SoundPlacement(sent)
        self._returned_decoder = OpusDecoder()

    def skipped(self, pts: int) -> None:
        """See `SoundExchange`."""
        self.blocks.dropped["server_busy"] += 1
        self.timeline.give_up(pts)
        self._wake.set()

    def returned(self, packet: ReturnedPacket) -> None:
        """See `SoundExchange`."""
        if self.returns:
            self._packets.append(packet)
            self._wake.set()

    def disconnected(self) -> None:
        """See `SoundExchange`."""
        self._placement = None
        self.blocks.clear("not_connected")
        self.timeline.give_up()
        self._wake.set()

    async def run(self) -> None:
        """Work until the input has ended and all that was sent is back or given up.

        Raises:
            MediaError: the encoder can't go on.
        """
        try:
            while not (self._input_ended and not len(self._units)):
                await self._wait()
                await self._turn()
            self._add(await self._codecs.run(self.grid.finish), sent=True)
            while len(self.timeline):
                await self._release()
                if len(self.timeline):
                    await self._wait()
                    await self._turn()
            for unit in await self._codecs.run(self._encoder.flush):
                self._emit(unit)
        finally:
            self.blocks.close()

    async def _wait(self) -> None:
        deadline = self.timeline.deadline
        try:
            timeout_s = None if deadline is None else max(0.0, deadline - self._clock())
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _turn(self) -> None:
        """Everything that has come since the last turn."""
        units = [self._units.get_nowait() for _ in range(len(self._units))]
        packets = list(self._packets)
        self._packets.clear()
        placement, decoder = self._placement, self._returned_decoder
        blocks, filled, returned = await self._codecs.run(
            self._decode, units, self._fill_until(units), packets, decoder
        )
        self._end_pts = self.grid.end_pts
        self._add(blocks, sent=sum(block.silent for block in blocks) <= MOST_SILENCE_SENT)
        self._add(filled, sent=False)
        if placement is not None and placement is self._placement:
            for packet, samples in zip(packets, returned, strict=True):
                for placed in placement.add(packet.timestamp, samples, packet.arrived_at):
                    self.timeline.processed(placed.pts, placed.samples, self._clock())
        await self._release()

    def _decode(
        self,
        units: list[AccessUnit],
        fill_until: int | None,
        packets: list[ReturnedPacket],
        decoder: OpusDecoder | None,
    ) -> tuple[list[SoundBlock], list[SoundBlock], list[Samples]]:
        """Runs on a codec thread. What the source said, what it did not, what the server said."""
        blocks: list[SoundBlock] = []
        for unit in units:
            for pcm in self._decoder.decode(unit):
                blocks += self.grid.add(pcm)
        filled: list[SoundBlock] = []
        if fill_until is not None:
            if self.grid.end_pts is None and self._first_video_pts is not None:
                filled += self.grid.fill(self._first_video_pts, self._clock())
            filled += self.grid.fill(fill_until, self._clock())
        returned = []
        for packet in packets:
            samples = decoder.decode(packet.data) if decoder is not None else None
            returned.append(silence(BLOCK_SAMPLES) if samples is None else samples)
        return blocks, filled, returned

    def _fill_until(self, units: list[AccessUnit] | None = None) -> int | None:
        """The time up to which silence is due by now; None if sound is near enough, or here."""
        if self._video_pts is None or self._first_video_pts is None or units:
            return None
        lag = self._silence_lag if self._sound_listed() else UNLISTED_LAG
        until = self._video_pts - lag
        end = self._end_pts
        if end is None:
            return until if until >= self._first_video_pts else None
        return until if until - end >= BLOCK_TICKS or end - until > 20 * SILENCE_LAG else None

    def _follow_lag(self, pts: int) -> None:
        """Sound that goes on where it was, `pts` being its next, tells how far it lies behind."""
        if self._video_pts is None or self._end_pts is None:
            return
        if abs(pts - self._end_pts) < CLOCK_RATE // 2:
            lag = self._video_pts - pts + CLOCK_RATE // 2
            self._silence_lag = max(self._silence_lag, min(lag, LONGEST_SILENCE_LAG))

    def _add(self, blocks: list[SoundBlock], *, sent: bool) -> None:
        """Put blocks in the row, and those that are worth it on their way to the server."""
        now = self._clock()
        for block in blocks:
            goes = self._placement is not None and not self._input_ended
            goes = goes and (sent or not block.silent)
            if self.returns:
                self.timeline.add(block, now, expected=goes)
            if goes:
                full = len(self.blocks) >= self.blocks.capacity
                oldest = self.blocks.peek()
                if full and oldest is not None:
                    self.timeline.give_up(oldest.pts)
                self.blocks.put_nowait(block)

    async def _release(self) -> None:
        ready = self.timeline.release(self._clock())
        if ready:
            for unit in await self._codecs.run(self._encode, ready):
                self._emit(unit)

    def _encode(self, blocks: list[SoundBlock]) -> list[AccessUnit]:
        """Runs on a codec thread."""
        return [unit for block in blocks for unit in self._encoder.encode(block)]

    @property
    def dropped(self) -> Counter[str]:
        """Sound that is not on the output as it was sent or returned, in blocks or units, by
        reason."""
        dropped = Counter(self.blocks.dropped) + Counter(self._units.dropped)
        dropped["undecodable"] += self._decoder.errors + self._decoder.unknown
        dropped["repeated"] += round(self.grid.samples_cut / BLOCK_SAMPLES)
        dropped["returned_late"] += self.timeline.too_late
        return +dropped

    def status(self) -> dict[str, Any]:
        """Plain values for the session's status."""
        sent = self._sent
        return {
            "connected": self._placement is not None,
            "blocks_sent": sent.count if sent else 0,
            "blocks_returned": sent.returned if sent else 0,
            "round_trip_ms": sent.delay.percentiles_ms() if sent else None,
            "lost_ms": _milliseconds(sent.lost_samples) if sent else 0,
            "placed_anew": sent.placed_anew if sent else 0,
            "blocks_out": {
                origin: self.timeline.blocks[origin]
                for origin in ("processed", "source", "silence")
            },
        }


def _ignore(_unit: AccessUnit) -> None:
    """Where sound goes that is only sent."""


def _milliseconds(samples: int) -> int:
    return round(samples * 1000 / 48_000)
