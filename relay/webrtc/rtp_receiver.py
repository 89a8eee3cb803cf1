"""Video packets from the socket to the assembler, in the call that brings them.

aiortc puts each datagram in a queue, wakes a task for it, and makes objects of its every field:
half of what receiving cost (measured). What it still does: all packets but video, and of a
stream of video those until it knows the stream; receiver reports.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiortc import RTCRtpReceiver

from relay.webrtc import aiortc_internals
from relay.webrtc.assembly import AccessUnitAssembler
from relay.webrtc.h264_payload import depacketize
from relay.webrtc.rtp_header import CSRC_COUNT, EXTENSION, FIXED, MARKER, PADDING


@dataclass(slots=True)
class ReceivedPacket:
    """What of an RTP packet is asked for later."""

    sequence_number: int
    timestamp: int
    marker: int
    ssrc: int
    _data: bytes
    """Depacketized."""


class RtpVideoReceiver:
    """Reads the H.264 packets of `receiver`.

    Args:
        assembler: takes them; also those that still come through aiortc.
        in_background: sends feedback.
    """

    def __init__(
        self,
        receiver: RTCRtpReceiver,
        assembler: AccessUnitAssembler,
        in_background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.failure: Exception | None = None
        """What made reading end; nobody above a socket's callback sees it."""
        self._receiver = receiver
        self._assembler = assembler
        self._in_background = in_background
        self._notes = aiortc_internals.ReceptionNotes(receiver)
        self._closed = False
        aiortc_internals.drop_impossible_datagrams(receiver)
        aiortc_internals.replace_jitter_buffer(receiver, assembler)
        aiortc_internals.disable_bandwidth_estimator(receiver)

    def begin(self) -> None:
        """Read directly from now on; the connection is up."""
        aiortc_internals.take_packets(self._receiver, self._take)

    def close(self) -> None:
        """Read no more. Idempotent."""
        self._closed = True

    def _take(self, data: bytes) -> None:
        if self._closed:
            return
        try:
            packet = parse(data)
        except ValueError:
            return  # missing, as if it had not come
        try:
            self._take_packet(packet)
        except Exception as error:  # of those who take the pictures: the connection ends of it
            self.failure = error
            self.close()

    def _take_packet(self, packet: ReceivedPacket) -> None:
        missing = self._notes.add(packet)
        if missing:
            self._in_background(
                aiortc_internals.request_retransmission(self._receiver, missing, packet.ssrc)
            )
        keyframe_needed, _ = self._assembler.add(packet)
        if keyframe_needed:
            self._in_background(aiortc_internals.request_keyframe(self._receiver))


def parse(data: bytes) -> ReceivedPacket:
    """An RTP packet (RFC 3550, 5.1) with H.264.

    Args:
        data: decrypted, its fixed header complete.

    Raises:
        ValueError: its lengths contradict one another, or its payload is no H.264.
    """
    flags, marker_and_type, sequence_number, timestamp, ssrc = FIXED.unpack_from(data)
    start = FIXED.size + 4 * (flags & CSRC_COUNT)
    if flags & EXTENSION:
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4])
    end = len(data)
    if flags & PADDING:
        end -= data[-1]
    if start > end:
        raise ValueError("an RTP packet ends before its payload")
    payload = data[start:end]
    return ReceivedPacket(
        sequence_number,
        timestamp,
        marker_and_type & MARKER,
        ssrc,
        depacketize(payload) if payload else b"",
    )
