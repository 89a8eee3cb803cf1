"""Loses datagrams between this process's WebRTC connections and their peers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aioice.ice import StunProtocol


class LossyUdp:
    """What is lost, both ways; may be changed while media flows.

    Attributes:
        loss: the share of datagrams that is lost at random, 0 to 1.
    """

    def __init__(self, seed: int = 1) -> None:
        self.loss = 0.0
        self.lost = 0
        self._random = random.Random(seed)

    def loses(self) -> bool:
        """Whether the next datagram is lost."""
        lost = self._random.random() < self.loss
        self.lost += lost
        return lost


@contextmanager
def lossy_udp() -> Iterator[LossyUdp]:
    """Every connection made meanwhile goes through it."""
    way = LossyUdp()
    receive, send, send_stun = (
        StunProtocol.datagram_received,
        StunProtocol.send_data,
        StunProtocol.send_stun,
    )

    def lossy_receive(self: StunProtocol, data: bytes, address: Any) -> None:
        if not way.loses():
            receive(self, data, address)

    async def lossy_send(self: StunProtocol, data: bytes, address: Any) -> None:
        if not way.loses():
            await send(self, data, address)

    def lossy_send_stun(self: StunProtocol, message: Any, address: Any) -> None:
        if not way.loses():
            send_stun(self, message, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StunProtocol, "datagram_received", lossy_receive)
        patch.setattr(StunProtocol, "send_data", lossy_send)
        patch.setattr(StunProtocol, "send_stun", lossy_send_stun)
        yield way
