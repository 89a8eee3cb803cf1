"""Packets that leave together arrive one by one, whole and in order."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from relay.webrtc.udp_burst import MOST_SEGMENTS, UdpBurst, runs

SO_NO_CHECK, UDP_NO_CHECK6_TX = 11, 101
"""asm-generic/socket.h, linux/udp.h: sockets without checksums can't send what is to be cut."""
PACKETS = [b"a" * 1200, b"b" * 1200, b"c" * 700, b"d" * 30, b"e" * 1200, b"f" * 1200]


class CountingTransport:
    """Datagrams that were sent one by one are counted."""

    def __init__(self, transport: asyncio.DatagramTransport) -> None:
        self.alone = 0
        self.waiting = 0
        self._transport = transport

    def sendto(self, data: bytes, address: Any) -> None:
        self.alone += 1
        self._transport.sendto(data, address)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> Any:
        return self._transport.get_extra_info(name)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def receiver(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(request.param, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1" if request.param == socket.AF_INET else "::1", 0))
        udp.settimeout(5)
        yield udp


@pytest.fixture
async def transport(receiver: socket.socket) -> AsyncIterator[CountingTransport]:
    loop = asyncio.get_running_loop()
    made, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=(receiver.getsockname()[0], 0)
    )
    yield CountingTransport(made)
    made.close()


@pytest.fixture
def burst() -> Iterator[UdpBurst]:
    made = UdpBurst()
    yield made
    made.close()


def received(receiver: socket.socket, count: int) -> list[bytes]:
    return [receiver.recv(4096) for _ in range(count)]


async def test_they_arrive_as_if_sent_one_by_one(
    receiver: socket.socket, transport: CountingTransport, burst: UdpBurst
) -> None:
    address = receiver.getsockname()[:2]
    burst.send(transport, PACKETS, address)  # type: ignore[arg-type]
    assert received(receiver, len(PACKETS)) == PACKETS
    assert transport.alone == 1  # the delimiter, which follows upon a smaller one
    burst.close()  # and once more by the fixture


async def test_without_bursts_each_leaves_alone(
    receiver: socket.socket, transport: CountingTransport
) -> None:
    burst = UdpBurst(enabled=False)
    burst.send(transport, PACKETS, receiver.getsockname()[:2])  # type: ignore[arg-type]
    assert received(receiver, len(PACKETS)) == PACKETS
    assert transport.alone == len(PACKETS)


async def test_what_the_kernel_refuses_leaves_one_by_one_from_then_on(
    receiver: socket.socket, transport: CountingTransport, burst: UdpBurst
) -> None:
    """As where an interface has no checksums (EINVAL, EIO); nothing is lost or sent twice."""
    pair = PACKETS[:2]
    address = receiver.getsockname()[:2]
    burst.send(transport, pair, address)  # type: ignore[arg-type]
    assert transport.alone == 0
    assert burst._socket is not None
    if receiver.family == socket.AF_INET:
        burst._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    else:
        burst._socket.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
    burst.send(transport, pair, address)  # type: ignore[arg-type]
    assert transport.alone == 2
    burst.send(transport, pair, address)  # type: ignore[arg-type]
    assert transport.alone == 4
    assert received(receiver, 2) == pair  # the others have no checksum, which IPv6 does not admit


async def test_what_waits_is_not_overtaken(
    receiver: socket.socket, transport: CountingTransport, burst: UdpBurst
) -> None:
    """Behind what the transport keeps until there is room, all go its way; then together again."""
    address = receiver.getsockname()[:2]
    transport.waiting = 1
    burst.send(transport, PACKETS[:2], address)  # type: ignore[arg-type]
    assert transport.alone == 2
    transport.waiting = 0
    burst.send(transport, PACKETS[:2], address)  # type: ignore[arg-type]
    assert transport.alone == 2
    assert received(receiver, 4) == PACKETS[:2] * 2


async def test_a_fault_that_passes_ends_no_bursts(
    receiver: socket.socket, transport: CountingTransport, burst: UdpBurst
) -> None:
    """No buffers, no route: these packets go the transport's way, the next ones together."""
    address = receiver.getsockname()[:2]
    burst.send(transport, PACKETS[:2], address)  # type: ignore[arg-type]
    own = burst._socket

    class Full:
        def sendmsg(self, *_: object) -> None:
            raise OSError(errno.ENOBUFS, "no buffer space")

    burst._socket = Full()  # type: ignore[assignment]
    burst.send(transport, PACKETS[:2], address)  # type: ignore[arg-type]
    assert transport.alone == 2
    burst._socket = own
    burst.send(transport, PACKETS[:2], address)  # type: ignore[arg-type]
    assert transport.alone == 2
    assert received(receiver, 6) == PACKETS[:2] * 3


async def test_without_descriptors_each_leaves_alone(
    receiver: socket.socket,
    transport: CountingTransport,
    burst: UdpBurst,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "dup", none_left)
    burst.send(transport, PACKETS, receiver.getsockname()[:2])  # type: ignore[arg-type]
    assert received(receiver, len(PACKETS)) == PACKETS
    assert transport.alone == len(PACKETS)


def test_a_run_is_what_the_kernel_cuts_from_one_datagram() -> None:
    """Packets of one size, and one that is smaller; no more than it takes."""
    sizes = [[len(packet) for packet in run] for run in runs(PACKETS)]
    assert sizes == [[1200, 1200, 700], [30], [1200, 1200]]
    assert [len(run) for run in runs([b"x"] * (MOST_SEGMENTS + 1))] == [MOST_SEGMENTS, 1]
    assert max(sum(map(len, run)) for run in runs([b"x" * 1300] * 60)) < 65536
    assert runs([b"small", b"larger than that"]) == [[b"small"], [b"larger than that"]]
    assert runs([]) == []
