"""RTP packets of sound, taken undecoded and at once.

aiortc would hold four of them, 80 ms, and more for good after each lost one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aiortc import RTCRtpReceiver

from relay.sound.placement import ReturnedPacket
from relay.webrtc import aiortc_internals
from relay.webrtc.assembly import RtpPacketLike
from relay.webrtc.rtp_header import SEQUENCE_MODULUS

REORDER_PACKETS = 3
"""So many later packets are held for one that is missing (60 ms), then it is lost."""
_REORDER_SPAN = 100


class IncomingAudio:
    """The incoming track, taken from its receiver undecoded, in order, without a hold.

    Args:
        on_packet: called with each packet.
    """

    def __init__(
        self,
        on_packet: Callable[[ReturnedPacket], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_packet = on_packet
        self._clock = clock
        self._held: dict[int, RtpPacketLike] = {}
        self._next: int | None = None

    def attach(self, receiver: RTCRtpReceiver) -> None:
        """Take over `receiver`'s packets; before the connection is up."""
        aiortc_internals.replace_jitter_buffer(receiver, self)

    def add(self, packet: RtpPacketLike) -> tuple[bool, None]:
        """Take one packet; the shape of the call is aiortc's `JitterBuffer.add`."""
        if self._next is None:
            self._next = packet.sequence_number
        ahead = (packet.sequence_number - self._next) % SEQUENCE_MODULUS
        if ahead >= SEQUENCE_MODULUS // 2:
            if SEQUENCE_MODULUS - ahead < _REORDER_SPAN:
                return False, None  # late or repeated
            self._restart_at(packet.sequence_number)
        elif ahead > _REORDER_SPAN:
            self._restart_at(packet.sequence_number)
        self._held[packet.sequence_number] = packet
        self._release()
        while len(self._held) > REORDER_PACKETS:
            self._next = (self._next + 1) % SEQUENCE_MODULUS
            self._release()
        return False, None

    def _restart_at(self, sequence_number: int) -> None:
        self._held.clear()
        self._next = sequence_number

    def _release(self) -> None:
        assert self._next is not None
        while (packet := self._held.pop(self._next, None)) is not None:
            self._next = (self._next + 1) % SEQUENCE_MODULUS
            if packet._data:
                self._on_packet(ReturnedPacket(packet._data, packet.timestamp, self._clock()))
