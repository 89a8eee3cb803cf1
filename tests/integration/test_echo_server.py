"""The benchmark's ComfyStream: packets go back as they came, under numbers without gaps."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from bench.echo_server import HISTORY, PacketEcho

PEER, OWN = 0x1111, 0x2222


class Scene:
    """An echo and what it did."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.asked_for: list[int] = []
        self.keyframe_asked_for = asyncio.Event()
        receiver = SimpleNamespace(_send_rtcp_nack=self._nack, _send_rtcp_pli=self._pli)
        transceiver: Any = SimpleNamespace(receiver=receiver, sender=SimpleNamespace(_ssrc=OWN))
        self.echo = PacketEcho(transceiver, self._send)

    async def give(self, *numbers: int, payload: bytes = b"\x41 a slice of a picture") -> None:
        for number in numbers:
            await self.echo.packet(packet(number, PEER, payload), 0)

    @property
    def numbers(self) -> list[int]:
        return [int.from_bytes(data[2:4]) for data in self.sent]

    async def _send(self, data: bytes) -> None:
        self.sent.append(data)

    async def _pli(self, ssrc: int) -> None:
        assert ssrc == PEER
        self.keyframe_asked_for.set()

    async def _nack(self, ssrc: int, numbers: list[int]) -> None:
        assert ssrc == PEER
        self.asked_for += numbers


def packet(number: int, ssrc: int, payload: bytes) -> bytes:
    """RTP with one header extension, as aiortc sends it; each number is a picture."""
    time = 90_000 + 3000 * number
    head = b"\x90\xe3" + (number % 0x10000).to_bytes(2) + time.to_bytes(4) + ssrc.to_bytes(4)
    return head + b"\xbe\xde\x00\x01\x10\x30\x00\x00" + payload


DELIMITER = b"\x09\xf0"


async def test_packets_go_back_as_the_sender_s_own() -> None:
    """Only the source's number is another."""
    scene = Scene()
    await scene.give(7)
    assert scene.sent == [packet(7, OWN, b"\x41 a slice of a picture")]


async def test_delimiters_that_come_alone_stay_and_leave_no_gap() -> None:
    """Over the end of the numbers, too; a packet that comes twice goes back under its number."""
    scene = Scene()
    for number in range(65_530, 65_545, 3):
        await scene.give(number, number + 1)
        await scene.give(number + 2, payload=DELIMITER)
    assert scene.numbers == [(65_530 + n) % 0x10000 for n in range(10)]
    await scene.give(65_543 - 1)
    assert scene.numbers[-1] == scene.numbers[-3]


async def test_what_was_lost_on_the_way_back_is_sent_again() -> None:
    """From what is kept, for a while."""
    scene = Scene()
    await scene.give(*range(10))
    await scene.echo.again(4)
    assert scene.sent[-1] == scene.sent[4]
    await scene.give(*range(10, HISTORY + 10))
    count = len(scene.sent)
    await scene.echo.again(4)
    assert len(scene.sent) == count


async def test_what_never_came_is_asked_for() -> None:
    """Under the number that the peer gave it; when it comes it fills its gap."""
    scene = Scene()
    await scene.give(0, 1)
    await scene.give(2, payload=DELIMITER)
    await scene.give(3, 5)
    assert scene.numbers == [0, 1, 2, 4]
    await scene.echo.again(3)
    assert scene.asked_for == [4]
    await scene.give(4)
    assert scene.numbers[-1] == 3


IDR = b"\x7c\x85 the first piece of a keyframe"


async def test_a_keyframe_that_nobody_makes_is_asked_for() -> None:
    """At once, where none have come regularly."""
    scene = Scene()
    await scene.give(1, payload=IDR)
    await scene.give(2)
    scene.echo.keyframe()
    async with asyncio.timeout(5):
        await scene.keyframe_asked_for.wait()


async def test_a_keyframe_that_is_due_is_waited_for() -> None:
    """And if it does not come, asked for."""
    scene = Scene()
    await scene.give(1, payload=IDR)
    await asyncio.sleep(0.2)
    await scene.give(2, payload=IDR)
    scene.echo.keyframe()
    await scene.give(3, payload=IDR)
    await asyncio.sleep(0.3)
    assert not scene.keyframe_asked_for.is_set()
    scene.echo.keyframe()
    async with asyncio.timeout(5):
        await scene.keyframe_asked_for.wait()
