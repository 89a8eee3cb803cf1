"""The benchmark's ComfyStream: packets go back as they came, under numbers without gaps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bench.echo_server import HISTORY, PacketEcho

PEER, OWN = 0x1111, 0x2222


class Scene:
    """An echo and what it did."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.asked_for: list[int] = []
        receiver = SimpleNamespace(_send_rtcp_nack=self._nack)
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

    async def _nack(self, ssrc: int, numbers: list[int]) -> None:
        assert ssrc == PEER
        self.asked_for += numbers


def packet(number: int, ssrc: int, payload: bytes) -> bytes:
    """RTP with one header extension, as aiortc sends it."""
    head = b"\x90\xe3" + (number % 0x10000).to_bytes(2) + (90_000).to_bytes(4) + ssrc.to_bytes(4)
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
