"""Loses datagrams between this process's WebRTC connections and their peers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aioice.ice import StunProtocol

from relay.webrtc.udp_burst import UdpBurst


class LossyUdp:
    """What is lost, both ways; may be changed while media flows.

    Attributes:
        loss: the share of datagrams that is lost at random, 0 to 1.
        largest_dtls: bytes of the largest datagram of the data channels that gets through; None for
            any.
        too_large: how many did not.
    """

    def __init__(self, seed: int = 1) -> None:
        self.loss = 0.0
        self.largest_dtls: int | None = None
        self.too_large = 0
        self.lost = 0
        self._random = random.Random(seed)

    def loses(self, data: bytes = b"") -> bool:
        """Whether the next datagram, which is `data`, is lost."""
        # RFC 7983, section 7: DTLS records begin with 20 to 63.
        is_dtls = bool(data) and 20 <= data[0] <= 63
        if is_dtls and self.largest_dtls is not None and len(data) > self.largest_dtls:
            self.too_large += 1
            return True
        lost = self._random.random() < self.loss
        self.lost += lost
        return lost


@contextmanager
def lossy_udp() -> Iterator[LossyUdp]:
    """Every connection made meanwhile goes through it."""
    way = LossyUdp()
    receive, send, send_stun, send_burst = (
        StunProtocol.datagram_received,
        StunProtocol.send_data,
        StunProtocol.send_stun,
        UdpBurst.send,
    )

    def lossy_receive(self: StunProtocol, data: bytes, address: Any) -> None:
        if not way.loses(data):
            receive(self, data, address)

    async def lossy_send(self: StunProtocol, data: bytes, address: Any) -> None:
        if not way.loses(data):
            await send(self, data, address)

    def lossy_send_stun(self: StunProtocol, message: Any, address: Any) -> None:
        if not way.loses():
            send_stun(self, message, address)

    def lossy_burst(self: UdpBurst, transport: Any, packets: list[bytes], address: Any) -> None:
        send_burst(self, transport, [one for one in packets if not way.loses(one)], address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UdpBurst, "send", lossy_burst)
        patch.setattr(StunProtocol, "datagram_received", lossy_receive)
        patch.setattr(StunProtocol, "send_data", lossy_send)
        patch.setattr(StunProtocol, "send_stun", lossy_send_stun)
        yield way
