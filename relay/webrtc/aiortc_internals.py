"""Every private name of aiortc, aioice and pylibsrtp that the relay depends on, and nothing else.

Pinned to aiortc 1.16.* and pylibsrtp 1.0.*: a renamed attribute would fail silently (an
assignment makes a new one and the stock path stays in force), so each is looked up before it is
set, and tests/integration/test_aiortc_internals.py shows on a loopback connection that each still
does what its function here says.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import aioice.ice
import pylibsrtp
from aiortc import RTCDtlsTransport, RTCIceTransport, RTCRtpReceiver, RTCRtpSender
from aiortc.clock import current_datetime
from aiortc.codecs import is_rtx
from aiortc.rtcdtlstransport import State
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTP_HEADER_LENGTH,
    HeaderExtensions,
    RtcpPsfbPacket,
    pack_remb_fci,
)
from pylibsrtp import SRTP_MAX_TRAILER_LEN

# What pylibsrtp calls libsrtp with.
ffi: Any = vars(pylibsrtp)["ffi"]
lib: Any = vars(pylibsrtp)["lib"]

MOST_SRTP_BYTES = 1500
"""pylibsrtp's buffer."""
LONGEST_JUMP = 1024
"""Sequence numbers that may be missing at once. To note each of 32000 costs 30 ms, and nobody has
them any more."""
NTP_EPOCH_S = 2_208_988_800
"""From 1900 to 1970 (RFC 868)."""


def replace_jitter_buffer(receiver: RTCRtpReceiver, buffer: Any) -> None:
    """Let `buffer.add(packet) -> (send_pli, None)` take every packet instead of the stock
    jitter buffer and decoder. Before the connection is up."""
    _set(receiver, "_RTCRtpReceiver__jitter_buffer", buffer)


def disable_bandwidth_estimator(receiver: RTCRtpReceiver) -> None:
    """Send no REMB by itself: the stock estimator makes the peer rebuild its encoder, with a
    keyframe, whenever the estimate moves by 10 %, and costs 40 % of the receive path."""
    _set(receiver, "_RTCRtpReceiver__remote_bitrate_estimator", None)


def drop_impossible_datagrams(receiver: RTCRtpReceiver) -> None:
    """Let no datagram come to aiortc that ends the connection: an empty one, and one that looks
    like SRTP and is longer than libsrtp's buffer. Anybody can send them, as aioice looks at no
    sender's address. Before the connection is up.
    """
    connection = _get(receiver.transport.transport, "_connection")
    put_in_queue = _get(connection, "data_received")

    def data_received(data: bytes, component: int) -> None:
        if data and not (data[0] >> 6 == 2 and len(data) > MOST_SRTP_BYTES):
            put_in_queue(data, component)

    _set(connection, "data_received", data_received)


def take_packets(receiver: RTCRtpReceiver, take: Callable[[bytes], None]) -> None:
    """Let `take` have each packet of the receiver's streams, decrypted, as soon as it is read; not
    those of a stream that is not known yet, nor retransmissions in a stream of their own (RFC
    4588). Once the connection is up.

    aioice tries each datagram as STUN first, and aiortc puts it in a queue: at the start of a
    stream a packet may pass by those that still lie there.
    """
    transport = receiver.transport
    known_streams = _get(receiver, "_RTCRtpReceiver__remote_streams")
    codecs = _get(receiver, "_RTCRtpReceiver__codecs")
    payload_types = {number for number, codec in codecs.items() if not is_rtx(codec)}
    decrypt = _srtp_call(_get(transport, "_rx_srtp"), lib.srtp_unprotect)

    def reader(read_all_else: Callable[[bytes, Any], None]) -> Callable[[bytes, Any], None]:
        def datagram_received(data: bytes, address: Any) -> None:
            # RTP begins with 128 to 191 (RFC 7983, 7); where RTCP comes on the same way, its types
            # are those of no RTP payload (RFC 5761, 4).
            if (
                RTP_HEADER_LENGTH < len(data) <= MOST_SRTP_BYTES
                and data[0] >> 6 == 2
                and data[1] & 0x7F in payload_types
                and int.from_bytes(data[8:12]) in known_streams
                and transport._state is State.CONNECTED
            ):
                try:
                    packet = decrypt(data)
                except pylibsrtp.Error:
                    return  # not the peer's, or a repetition
                take(packet)
            else:
                read_all_else(data, address)

        return datagram_received

    for socket_protocol in _get(_get(transport.transport, "_connection"), "_protocols"):
        read = _get(socket_protocol, "datagram_received")
        _set(socket_protocol, "datagram_received", reader(read))


class ReceptionNotes:
    """What aiortc's receiver keeps of the packets it gets, for its reports and requests."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self._streams = _get(receiver, "_RTCRtpReceiver__remote_streams")
        self._heard_at = _get(receiver, "_RTCRtpReceiver__active_ssrc")
        self._requests = _get(receiver, "_RTCRtpReceiver__nack_generator")
        self._timestamp: int | None = None

    def add(self, packet: Any) -> list[int]:
        """Note a packet of a stream that is known.

        Args:
            packet: with `sequence_number`, `timestamp` and `ssrc`.

        Returns:
            The sequence numbers to ask for, if this packet shows that some are missing.
        """
        self._streams[packet.ssrc].add(packet)
        if packet.timestamp != self._timestamp:
            self._timestamp = packet.timestamp
            self._heard_at[packet.ssrc] = current_datetime()
        newest = self._requests.max_seq
        if newest is not None:
            ahead = (packet.sequence_number - newest) & 0xFFFF
            if LONGEST_JUMP < ahead < 0x8000:
                self._requests.max_seq = packet.sequence_number
                self._requests.missing.clear()
                return []
        return sorted(self._requests.missing) if self._requests.add(packet) else []


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


async def request_retransmission(
    receiver: RTCRtpReceiver, sequence_numbers: list[int], ssrc: int | None = None
) -> None:
    """Send a NACK (RFC 4585, 6.2.1) for these packets of one stream; None: of every stream heard
    in the last 10 s."""
    heard = [source.source for source in receiver.getSynchronizationSources()]
    for media_ssrc in heard if ssrc is None else [ssrc]:
        await receiver._send_rtcp_nack(media_ssrc, sequence_numbers)


def replace_sending(
    sender: RTCRtpSender,
    run: Callable[[RTCRtpCodecParameters], Coroutine[Any, Any, None]],
    send_again: Callable[[int], Coroutine[Any, Any, None]],
) -> None:
    """Let `run` send the track's packets instead of aiortc's loop, and `send_again` what a NACK
    asks for, by sequence number. Before the connection is up; `run` is started when it is.

    Reports about what was sent (RTCP) go on as long as `note_sent` is told; `stop` of the sender
    waits for `note_running` and `note_ended`.
    """
    _set(sender, "_run_rtp", run)
    _set(sender, "_retransmit", send_again)


def note_running(sender: RTCRtpSender) -> None:
    """The replaced loop runs."""
    _get(sender, "_RTCRtpSender__rtp_started").set()


def note_ended(sender: RTCRtpSender) -> None:
    """The replaced loop has ended."""
    _get(sender, "_RTCRtpSender__rtp_exited").set()


def note_sent(sender: RTCRtpSender, timestamp: int, packets: int, payload_bytes: int) -> None:
    """So many packets with this RTP timestamp leave now; for the sender's reports.

    Raises:
        KeyError: a name is not there.
    """
    notes = vars(sender)
    notes["_RTCRtpSender__packet_count"] += packets
    notes["_RTCRtpSender__octet_count"] += payload_bytes
    notes["_RTCRtpSender__rtp_timestamp"] = timestamp
    notes["_RTCRtpSender__ntp_timestamp"] = int((time.time() + NTP_EPOCH_S) * (1 << 32))


def header_extension(sender: RTCRtpSender) -> bytes:
    """What follows the fixed header of every packet: the identification of the media section
    (RFC 8843, 14), ready to be sent; nothing if it was not negotiated.

    The time of sending is left out: of what a peer makes of it, nothing is used here, and it costs
    an aiortc peer 40 % of its receive path.
    """
    values = HeaderExtensions(mid=_get(sender, "_RTCRtpSender__mid"))
    profile, value = _get(sender, "_RTCRtpSender__rtp_header_extensions_map").set(values)
    if not value:
        return b""
    return struct.pack("!HH", profile, len(value) // 4) + cast(bytes, value)


def ssrc(sender: RTCRtpSender) -> int:
    """Of the sender's packets."""
    return cast(int, _get(sender, "_ssrc"))


def encryption(transport: RTCDtlsTransport) -> Callable[[bytes], bytes]:
    """Makes an SRTP packet of an RTP packet. Once the connection is up."""
    return _srtp_call(_get(transport, "_tx_srtp"), lib.srtp_protect)


def way_out(transport: RTCDtlsTransport) -> tuple[asyncio.DatagramTransport, tuple[str, int]]:
    """What datagrams leave through, and where to.

    Raises:
        ConnectionError: the connection is not up.
    """
    pair = _get(_get(transport.transport, "_connection"), "_nominated").get(1)
    if pair is None or transport._state is not State.CONNECTED:
        raise ConnectionError("the connection is not up")
    return pair.protocol.transport, pair.remote_addr


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


def _srtp_call(session: pylibsrtp.Session, function: Any) -> Callable[[bytes], bytes]:
    """As the methods of `session`, which make a C object for each packet: half of their time."""
    handle = _get(session, "_srtp")
    data = ffi.new("char[]", MOST_SRTP_BYTES + SRTP_MAX_TRAILER_LEN)
    view, length = ffi.buffer(data), ffi.new("int *")

    def process(packet: bytes) -> bytes:
        """Raises pylibsrtp.Error or, for one that is too long, ValueError."""
        size = len(packet)
        if size > MOST_SRTP_BYTES:
            raise ValueError("an RTP packet is too long for SRTP")
        view[0:size] = packet
        length[0] = size
        if status := function(handle[0], data, length):
            raise pylibsrtp.Error(f"libsrtp says {status}")
        return cast(bytes, view[0 : length[0]])

    return process


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
