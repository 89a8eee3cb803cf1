"""The outgoing track never starves the server and never buries it; the incoming one never holds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from relay.codec_executor import CodecExecutor
from relay.media.audio_decoder import OpusDecoder
from relay.media.audio_grid import BLOCK_TICKS, SoundBlock
from relay.queues import MediaQueue
from relay.sound.placement import ReturnedPacket, SentSound
from relay.webrtc.incoming_sound import REORDER_PACKETS, IncomingAudio
from relay.webrtc.outgoing_sound import FEED_AFTER_S, MOST_IN_FLIGHT, AudioStreamTrack


class Sender:
    """A track, its queue, and what became of it."""

    def __init__(self, codecs: CodecExecutor) -> None:
        self.blocks: MediaQueue[SoundBlock] = MediaQueue("audio_blocks", 2000)
        self.sent = SentSound()
        self.skipped: list[int] = []
        self.track = AudioStreamTrack(self.blocks, codecs, self.sent, self.skipped.append)

    def put(self, number: int) -> None:
        samples = np.full((960, 2), 3000, np.int16)
        self.blocks.put_nowait(SoundBlock(number * BLOCK_TICKS, samples))


@pytest.fixture
def codecs():
    executor = CodecExecutor(1)
    yield executor
    executor.close()


async def test_silence_begins_at_once_and_fills_pauses(codecs: CodecExecutor) -> None:
    """The first packet needs no sound; sound goes as it comes, and after a pause of half a second
    silence goes on at its own pace, all of it one unbroken row."""
    sender, loop = Sender(codecs), asyncio.get_running_loop()
    first = await sender.track.recv()
    assert sender.sent.block(0).pts is None
    for number in range(3):
        sender.put(number)
    packets = [first, *[await sender.track.recv() for _ in range(3)]]
    assert [sender.sent.block(n).pts for n in (1, 2, 3)] == [0, BLOCK_TICKS, 2 * BLOCK_TICKS]
    began = loop.time()
    packets += [await sender.track.recv() for _ in range(6)]
    assert loop.time() - began >= 0.45
    assert FEED_AFTER_S <= 0.5, "ComfyStream gives up after a second"
    assert [packet.pts for packet in packets] == [960 * n for n in range(10)]
    assert [sender.sent.block(n).pts for n in range(4, 10)] == [None] * 6
    decoder = OpusDecoder()
    assert all(len(decoder.decode(bytes(packet))) == 960 for packet in packets)


async def test_a_server_that_is_far_behind_gets_no_more(codecs: CodecExecutor) -> None:
    """Ten seconds are under way: what comes is skipped, told, until the server has caught up."""
    sender = Sender(codecs)
    for number in range(MOST_IN_FLIGHT + 10):
        sender.put(number)
    for _ in range(MOST_IN_FLIGHT):
        await sender.track.recv()
    waiting = asyncio.ensure_future(sender.track.recv())
    async with asyncio.timeout(5):
        while len(sender.skipped) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not waiting.done()
    sender.sent.returned = 100
    sender.put(9999)
    async with asyncio.timeout(5):
        await waiting
    assert sender.sent.block(MOST_IN_FLIGHT).pts == 9999 * BLOCK_TICKS
    assert sender.skipped == [n * BLOCK_TICKS for n in range(MOST_IN_FLIGHT, MOST_IN_FLIGHT + 10)]


async def test_only_a_clean_end_leaves_the_track(codecs: CodecExecutor) -> None:
    """A closed queue, a stopped track and a broken encoder all look like an end to aiortc."""
    closed, stopped, broken = Sender(codecs), Sender(codecs), Sender(codecs)
    closed.blocks.close()
    stopped.track.stop()
    broken.blocks.put_nowait(SoundBlock(0, np.zeros((7, 3), np.int16)))
    for sender in (closed, stopped, broken):
        with pytest.raises(MediaStreamError):
            await sender.track.recv()
    assert broken.track.failure is not None
    assert closed.track.failure is None


@dataclass
class Packet:
    sequence_number: int
    timestamp: int
    _data: bytes


def received(order: list[int], start: int = 65_530) -> list[int]:
    """What comes out when packets numbered from 0 come in this order."""
    got: list[ReturnedPacket] = []
    incoming = IncomingAudio(got.append)
    for number in order:
        packet = Packet((start + number) % 65_536, 960 * number, bytes((number % 256,)))
        assert incoming.add(packet) == (False, None)
    return [packet.timestamp // 960 for packet in got]


def test_packets_leave_as_they_come() -> None:
    """Without a hold, across the wrap of the sequence number."""
    assert received(list(range(20))) == list(range(20))


def test_small_disorder_is_mended() -> None:
    """A packet that comes up to three later ones too late takes its place; a repeat is let go."""
    assert received([0, 2, 1, 3, 3, 7, 5, 6, 4, 8]) == list(range(9))


def test_a_lost_packet_is_waited_for_so_long_and_no_longer() -> None:
    """The fourth packet behind it ends the wait."""
    order = [0, *range(2, 2 + REORDER_PACKETS)]
    assert received(order) == [0]
    assert received([*order, 5]) == [0, 2, 3, 4, 5]
    assert received([*order, 5, 1, 6]) == [0, 2, 3, 4, 5, 6]


def test_a_sender_that_begins_anew_is_followed() -> None:
    """A leap of the sequence number in either direction."""
    assert received([0, 1, 5000, 5001, 300, 301]) == [0, 1, 5000, 5001, 300, 301]
