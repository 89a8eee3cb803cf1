"""Several datagrams to one address in one system call.

A call for each packet of a picture was a third of what sending cost (measured). Linux cuts one
large datagram into many of one size, of which the last may be smaller (UDP_SEGMENT, udp(7), since
4.18); where it can't, or the way is no socket of this process (TURN), they leave one by one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from typing import Any

import structlog

log = structlog.get_logger(__name__)

UDP_SEGMENT = 103
"""linux/udp.h; the socket module has no name for it."""
MOST_SEGMENTS = 64
MOST_BYTES = 0xFFFF - 8 - 40
"""Of what is cut up: a datagram with its headers (linux/udp.h, UDP_MAX_SEGMENTS; RFC 768)."""


_CAN_NOT = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
"""An older kernel, a way that carries only smaller packets, an interface without checksums."""


class UdpBurst:
    """Sends through the socket of a transport that belongs to somebody else.

    Args:
        enabled: False sends one by one.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled and sys.platform == "linux"
        # Any: typeshed gives datagrams no get_write_buffer_size, which both loops do.
        self._transport: Any = None
        self._socket: socket.socket | None = None

    def send(
        self, transport: asyncio.DatagramTransport, packets: list[bytes], address: Any
    ) -> None:
        """Send `packets` in order, or as many as the network takes: it is UDP."""
        if transport is not self._transport:
            self._open(transport)
        for run in runs(packets) if self._socket is not None else [packets]:
            if len(run) == 1 or not self._send_run(run, address):
                for packet in run:
                    transport.sendto(packet, address)

    def close(self) -> None:
        """Send one by one from now on. Idempotent."""
        self._enabled = False
        self._drop_socket()

    def _open(self, transport: asyncio.DatagramTransport) -> None:
        self._drop_socket()
        self._transport = transport
        theirs = transport.get_extra_info("socket") if self._enabled else None
        if theirs is None:
            return
        try:
            # A descriptor of our own: theirs may be closed, and its number another's by then.
            own = os.dup(theirs.fileno())
        except OSError:
            return  # no more are to be had
        self._socket = socket.socket(theirs.family, socket.SOCK_DGRAM, fileno=own)

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_run(self, run: list[bytes], address: Any) -> bool:
        if self._socket is None or self._transport.get_write_buffer_size():
            return False  # what the transport keeps until there is room goes first
        size = len(run[0]).to_bytes(2, sys.byteorder)
        try:
            self._socket.sendmsg(
                run, [(socket.IPPROTO_UDP, UDP_SEGMENT, size)], socket.MSG_DONTWAIT, address
            )
        except OSError as error:
            if error.errno in _CAN_NOT:
                log.info("webrtc.no_udp_bursts", error=str(error))
                self.close()
            return False  # the transport sends them, keeps them, or reports what is wrong
        return True


def runs(packets: list[bytes]) -> list[list[bytes]]:
    """Cut into what can be sent together: packets of one size, and one that is smaller."""
    found: list[list[bytes]] = []
    size = room = 0
    for packet in packets:
        length = len(packet)
        if found and length <= size and room >= length and len(found[-1]) < MOST_SEGMENTS:
            found[-1].append(packet)
            room = room - length if length == size else 0
        else:
            found.append([packet])
            size, room = length, MOST_BYTES - length
    return found
