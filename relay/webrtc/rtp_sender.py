"""Access units to RTP packets, encrypted and sent a picture at a time.

Stands in for the loop of aiortc's sender, which makes, encrypts and sends each packet by itself:
with three packets a picture that was a quarter of what a copied frame cost (measured). What aiortc
goes on doing: negotiation, encryption keys, RTCP.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiortc import RTCRtpSender
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from relay.media.access_unit import AccessUnit
from relay.media.annexb import START_CODE
from relay.media.h264 import ACCESS_UNIT_DELIMITER
from relay.media.timeline import RTP_MODULUS
from relay.webrtc import aiortc_internals
from relay.webrtc.h264_payload import packetize
from relay.webrtc.rtp_header import EXTENSION, FIXED, MARKER, SEQUENCE_MODULUS, VERSION_2
from relay.webrtc.udp_burst import UdpBurst

MOST_PAYLOAD_BYTES = 1300
"""As aiortc: the way has to carry packets of this size in any case, for they come back so."""
TOGETHER, PAUSE_S = 32, 0.001
"""So many packets leave at once, and the rest of a larger picture later: a socket with Linux's
default buffer (net.core.rmem_default) holds 92 of them before its process reads (measured)."""
HISTORY = 512
"""Packets that can be sent once more: two large keyframes, or two seconds at 2 Mbit/s."""
MOST_ASKED = 512
"""Packets a second that are sent again because they are asked for: one datagram can ask for
thousands."""
DELIMITER_PAYLOAD = ACCESS_UNIT_DELIMITER.removeprefix(START_CODE)


class _SentPacket(NamedTuple):
    timestamp: int
    data: bytes
    """Not encrypted."""


class RtpVideoSender:
    """Sends what `next_unit` gives; takes the place of `sender`'s own loop.

    Args:
        next_unit: the next access unit, its pts in 90 kHz ticks; raises MediaStreamError at the
            end.
        announced: the stamp that the next access unit will have, whose delimiter goes out right
            behind each unit, so that a receiver which waits for the next timestamp releases this
            one at once; None sends no delimiters.
        on_end: called when no more will be sent, with what made it end if that was a fault.
    """

    def __init__(
        self,
        sender: RTCRtpSender,
        next_unit: Callable[[], Awaitable[AccessUnit]],
        on_end: Callable[[Exception | None], None],
        *,
        announced: Callable[[], int] | None,
        bursts: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender = sender
        self._next_unit = next_unit
        self._on_end = on_end
        self._announced = announced
        self._burst = UdpBurst(enabled=bursts)
        self._history: dict[int, _SentPacket] = {}
        # In the lower half: a loss right at the start can't be taken for a wrap (RFC 3711, 3.3.1).
        self._sequence_number = random.randrange(SEQUENCE_MODULUS // 2)
        self._origin = random.randrange(RTP_MODULUS)
        self._clock = clock
        self._asked_since, self._asked = -math.inf, 0
        """Retransmissions, in the second that began then."""
        self._payload_type = 0
        self._ssrc = 0
        self._extension = b""
        self._encrypt: Callable[[bytes], bytes]
        """From the start of the connection on; before it there is nothing to send."""
        aiortc_internals.replace_sending(sender, self._run, self._retransmit)

    async def send_again(self, units: int) -> None:
        """Send the packets of the last `units` timestamps once more, as if a NACK had asked.

        A receiver of aiortc sends its NACK when it notices a gap, and never again: a lost NACK, a
        lost answer to it, or the loss of the last packet of all is noticed with the next gap at
        the earliest. What had arrived is ignored when it comes twice.

        Raises:
            ConnectionError: the connection is not up.
        """
        packets = list(self._history.values())
        last = list(dict.fromkeys(packet.timestamp for packet in packets))[-units:]
        await self._leave([packet.data for packet in packets if packet.timestamp in last])

    async def _run(self, codec: RTCRtpCodecParameters) -> None:
        aiortc_internals.note_running(self._sender)
        failure: Exception | None = None
        try:
            assert codec.payloadType is not None  # negotiated
            self._payload_type = codec.payloadType
            self._ssrc = aiortc_internals.ssrc(self._sender)
            self._extension = aiortc_internals.header_extension(self._sender)
            self._encrypt = aiortc_internals.encryption(self._sender.transport)
            while True:
                await self._send(await self._next_unit())
        except (asyncio.CancelledError, ConnectionError, MediaStreamError):
            pass
        except Exception as error:  # whoever stops the sender waits for the end of this
            failure = error
        finally:
            self._on_end(failure)
            self._burst.close()
            aiortc_internals.note_ended(self._sender)

    async def _send(self, unit: AccessUnit) -> None:
        payloads = packetize(unit.data, MOST_PAYLOAD_BYTES)
        timestamp = (self._origin + unit.pts) % RTP_MODULUS
        last = len(payloads) - 1
        packets = [
            self._packet(payload, timestamp, marker=number == last)
            for number, payload in enumerate(payloads)
        ]
        if self._announced is not None:
            next_timestamp = (self._origin + self._announced()) % RTP_MODULUS
            packets.append(self._packet(DELIMITER_PAYLOAD, next_timestamp, marker=True))
        await self._leave(packets)
        aiortc_internals.note_sent(
            self._sender, timestamp, len(packets), sum(len(payload) for payload in payloads)
        )

    async def _leave(self, packets: list[bytes]) -> None:
        for sent in range(0, len(packets), TOGETHER):
            if sent:
                await asyncio.sleep(PAUSE_S)
            self._transmit(packets[sent : sent + TOGETHER])

    def _packet(self, payload: bytes, timestamp: int, *, marker: bool) -> bytes:
        number = self._sequence_number
        self._sequence_number = (number + 1) % SEQUENCE_MODULUS
        header = FIXED.pack(
            VERSION_2 | (EXTENSION if self._extension else 0),
            (MARKER if marker else 0) | self._payload_type,
            number,
            timestamp,
            self._ssrc,
        )
        data = header + self._extension + payload
        self._history[number] = _SentPacket(timestamp, data)
        if len(self._history) > HISTORY:
            del self._history[(number - HISTORY) % SEQUENCE_MODULUS]
        return data

    async def _retransmit(self, sequence_number: int) -> None:
        now = self._clock()
        if now - self._asked_since >= 1.0:
            self._asked_since, self._asked = now, 0
        packet = self._history.get(sequence_number)
        if packet is not None and self._asked < MOST_ASKED:
            self._asked += 1
            self._transmit([packet.data])

    def _transmit(self, packets: list[bytes]) -> None:
        way, address = aiortc_internals.way_out(self._sender.transport)
        self._burst.send(way, [self._encrypt(packet) for packet in packets], address)
