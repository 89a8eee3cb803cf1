"""Sound to a stock aiortc peer that echoes it, and back into place: each private name that the way
uses still does what it is used for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection

from relay.codec_executor import CodecExecutor
from relay.media.audio_decoder import OpusDecoder
from relay.media.audio_grid import BLOCK_SAMPLES, BLOCK_TICKS, SoundBlock
from relay.queues import MediaQueue
from relay.sound.placement import PlacedSound, ReturnedPacket, SentSound, SoundPlacement
from relay.webrtc.sound_line import SoundLine
from tests.sound_source import tone

QUIET_BLOCKS, BLOCKS = 20, 60


class Echo(MediaStreamTrack):
    """Sends back each frame that it receives, decoded and to be encoded again."""

    kind = "audio"

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self._source = source

    async def recv(self):
        return await self._source.recv()


class Exchange:
    """Notes what comes back."""

    def __init__(self) -> None:
        self.blocks: MediaQueue[SoundBlock] = MediaQueue("audio_blocks", 200)
        self.returns = True
        self.packets: asyncio.Queue[ReturnedPacket] = asyncio.Queue()
        self.sent: SentSound | None = None

    def connected(self, sent: SentSound) -> None:
        self.sent = sent

    def skipped(self, pts: int) -> None:
        raise AssertionError("nothing is skipped here")

    def returned(self, packet: ReturnedPacket) -> None:
        self.packets.put_nowait(packet)

    def disconnected(self) -> None:
        self.sent = None


@asynccontextmanager
async def echoing_peer(line: SoundLine) -> AsyncIterator[RTCPeerConnection]:
    ours, theirs = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    theirs.on("track", lambda track: theirs.addTrack(Echo(track)))
    line.add_to(ours)
    connected = asyncio.Event()
    ours.on("connectionstatechange", connected.set)
    try:
        await ours.setLocalDescription(await ours.createOffer())
        await theirs.setRemoteDescription(ours.localDescription)
        await theirs.setLocalDescription(await theirs.createAnswer())
        await ours.setRemoteDescription(theirs.localDescription)
        async with asyncio.timeout(10):
            while ours.connectionState != "connected":
                connected.clear()
                await connected.wait()
        line.begin()
        yield ours
    finally:
        line.end()
        await ours.close()
        await theirs.close()


@pytest.mark.timeout(30)
async def test_a_beep_comes_back_to_its_time_within_a_millisecond() -> None:
    """Undecoded, in steps of 960, nothing in the stock track's queue; placed, the beep begins
    where it was sent, in the channel where it was."""
    codecs, exchange = CodecExecutor(1), Exchange()
    line = SoundLine(exchange, codecs)
    beep = np.round(tone(48_000, (BLOCKS - QUIET_BLOCKS) * 0.02).T * 32767)
    row = np.concatenate([np.zeros((QUIET_BLOCKS * BLOCK_SAMPLES, 2)), beep]).astype(np.int16)
    try:
        async with echoing_peer(line) as peer:
            assert exchange.sent is not None
            placement, decoder = SoundPlacement(exchange.sent), OpusDecoder()
            for number in range(BLOCKS):
                span = slice(number * BLOCK_SAMPLES, (number + 1) * BLOCK_SAMPLES)
                exchange.blocks.put_nowait(SoundBlock(number * BLOCK_TICKS, row[span]))
            packets: list[ReturnedPacket] = []
            placed: list[PlacedSound] = []
            async with asyncio.timeout(15):
                while not placed or placed[-1].pts < (BLOCKS - 1) * BLOCK_TICKS:
                    packet = await exchange.packets.get()
                    packets.append(packet)
                    samples = decoder.decode(packet.data)
                    placed += placement.add(packet.timestamp, samples, packet.arrived_at)
            assert {(b.timestamp - a.timestamp) % (1 << 32) for a, b in pairwise(packets)} == {
                BLOCK_SAMPLES
            }
            assert peer.getReceivers()[0].track._queue.empty()
            assert exchange.sent.placed_anew == 0
    finally:
        codecs.close()
    assert [p.pts for p in placed] == [n * BLOCK_TICKS for n in range(BLOCKS)]
    heard = np.concatenate([p.samples for p in placed])
    onset = int(np.argmax(np.abs(heard[:, 0]) > 1500))
    assert abs(onset - QUIET_BLOCKS * BLOCK_SAMPLES) < 48
    middle = heard[(QUIET_BLOCKS + 5) * BLOCK_SAMPLES :][:24_000]
    for side, frequency in ((0, 1000), (1, 1500)):
        spectrum = np.abs(np.fft.rfft(middle[:, side]))
        assert abs(np.argmax(spectrum) * 48_000 / len(middle) - frequency) < 5
