"""Every private name of aiortc and aioice that the relay depends on, and nothing else.

Pinned to aiortc 1.16.*: a renamed attribute would fail silently (an assignment makes a new one
and the stock path stays in force), so each is looked up before it is set, and
tests/integration/test_aiortc_internals.py shows on a loopback connection that each still does
what its function here says.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from collections.abc import Callable
from typing import Any

import aioice.ice
from aiortc import RTCIceTransport, RTCRtpReceiver, RTCRtpSender
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, pack_remb_fci


def replace_jitter_buffer(receiver: RTCRtpReceiver, buffer: Any) -> None:
    """Let `buffer.add(packet) -> (send_pli, None)` take every packet instead of the stock
    jitter buffer and decoder. Before the connection is up."""
    _set(receiver, "_RTCRtpReceiver__jitter_buffer", buffer)


def disable_bandwidth_estimator(receiver: RTCRtpReceiver) -> None:
    """Send no REMB by itself: the stock estimator makes the peer rebuild its encoder, with a
    keyframe, whenever the estimate moves by 10 %, and costs 40 % of the receive path."""
    _set(receiver, "_RTCRtpReceiver__remote_bitrate_estimator", None)


async def send_bitrate_limit(receiver: RTCRtpReceiver, bits_per_second: int) -> None:
    """Send one REMB (draft-alvestrand-rmcat-remb-03) for all streams heard so far."""
    own_ssrc = _get(receiver, "_RTCRtpReceiver__rtcp_ssrc")
    media_ssrcs = [source.source for source in receiver.getSynchronizationSources()]
    if own_ssrc is None or not media_ssrcs:
        return
    fci = pack_remb_fci(bits_per_second, media_ssrcs)
    packet = RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=own_ssrc, media_ssrc=0, fci=fci)
    await receiver._send_rtcp(packet)


async def request_keyframe(receiver: RTCRtpReceiver) -> None:
    """Send a PLI (RFC 4585, 6.3.1) for every stream heard in the last 10 s."""
    for source in receiver.getSynchronizationSources():
        await receiver._send_rtcp_pli(source.source)


async def request_retransmission(receiver: RTCRtpReceiver, sequence_numbers: list[int]) -> None:
    """Send a NACK (RFC 4585, 6.2.1) for these packets."""
    for source in receiver.getSynchronizationSources():
        await receiver._send_rtcp_nack(source.source, sequence_numbers)


async def send_again(sender: RTCRtpSender, frames: int) -> None:
    """Send the packets of the last `frames` timestamps once more, as if a NACK had asked for them.

    A receiver of aiortc sends its NACK when it notices a gap, and never again: a lost NACK, a lost
    answer to it, or the loss of the last packet of all is noticed with the next gap at the
    earliest. What had arrived is ignored when it comes twice.
    """
    packets = list(_get(sender, "_RTCRtpSender__rtp_history").values())
    if not packets:
        return
    any_number = packets[0].sequence_number
    packets.sort(key=lambda one: (one.sequence_number - any_number + 0x8000) & 0xFFFF)
    last = list(dict.fromkeys(one.timestamp for one in packets))[-frames:]
    for packet in packets:
        if packet.timestamp in last:
            await sender._retransmit(packet.sequence_number)


def on_keyframe_request(sender: RTCRtpSender, callback: Callable[[], None]) -> None:
    """Call back for every PLI and FIR of the peer; stock aiortc ignores them for a track that
    hands over encoded packets."""
    _set(sender, "_send_keyframe", callback)


def shorten_consent(interval_s: float = 1.0, failures: int = 4) -> None:
    """Notice a vanished peer after about interval x failures (RFC 7675) instead of 30 s.

    For the whole process. A backstop: the relay's own media watchdog comes first.
    """
    _set(aioice.ice, "CONSENT_INTERVAL", interval_s)
    _set(aioice.ice, "CONSENT_FAILURES", failures)


def limit_udp_ports(loop: asyncio.AbstractEventLoop, ports: range) -> None:
    """Let every ICE socket of this loop bind to one of `ports`, each in turn.

    aioice has no setting for it: for each address it calls `create_datagram_endpoint` of the
    running loop with `local_addr=(address, 0)`, and no other part of this process binds that way.
    When all are taken it gets EADDRINUSE, and goes on without that address.
    """
    create = loop.create_datagram_endpoint
    turn = itertools.count()

    async def create_in_range(
        protocol_factory: Any, local_addr: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        if local_addr is None or local_addr[1] != 0:
            return await create(protocol_factory, local_addr=local_addr, **options)
        bound = _bind_in_range(local_addr[0], ports, next(turn))
        try:
            return await create(protocol_factory, sock=bound)
        except BaseException:
            bound.close()
            raise

    _set(loop, "create_datagram_endpoint", create_in_range)


def release_waiting_for_start(transport: RTCIceTransport) -> None:
    """End the tasks that wait for a start of `transport` which will not be any more: aiortc leaves
    them waiting for good when its own start raised for what the peer's description said."""
    started = _get(transport, "_RTCIceTransport__start")
    if started is not None:
        started.set()


async def close_ice(transport: RTCIceTransport) -> None:
    """Close the sockets of `transport` and end its tasks, also where aiortc holds it for closed
    because its own close was cut off. Idempotent."""
    connection = _get(transport, "_connection")
    if not _get(connection, "_closed"):
        await connection.close()


def _bind_in_range(address: str, ports: range, start: int) -> socket.socket:
    """A UDP socket on the first port that is free, from `start` on and around.

    Raises:
        OSError: EADDRINUSE: none is.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        for offset in range(len(ports)):
            try:
                udp.bind((address, ports[(start + offset) % len(ports)]))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return udp
        raise OSError(errno.EADDRINUSE, f"no free UDP port from {ports[0]} to {ports[-1]}")
    except BaseException:
        udp.close()
        raise


def _get(owner: object, name: str) -> Any:
    return getattr(owner, name)


def _set(owner: object, name: str, value: object) -> None:
    getattr(owner, name)  # AttributeError when an upgrade has renamed it
    setattr(owner, name, value)
