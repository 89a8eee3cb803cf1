"""What the WebRTC libraries know of the way to ComfyStream."""

from __future__ import annotations

from dataclasses import dataclass

from aiortc import RTCPeerConnection


@dataclass(frozen=True, slots=True)
class NetworkFigures:
    """Of one connection."""

    connection: str = "new"
    """W3C's connectionState."""
    ice: str = "new"
    """iceConnectionState."""
    dtls: str = "new"
    """RTCDtlsTransport.state."""
    rtt_s: float | None = None
    """Round trip by RTCP's sender and receiver reports (RFC 3550, 6.4.1), the larger one."""
    lost_sent: int = 0
    """RTP packets that ComfyStream missed, by its receiver reports."""
    lost_received: int = 0
    """RTP packets of its that we missed, before they were asked for again."""


async def measure(peer: RTCPeerConnection) -> NetworkFigures:
    """Ask; costs some microseconds and never waits."""
    rtts: list[float] = []
    lost_sent = lost_received = 0
    dtls = "new"
    for transceiver in peer.getTransceivers():
        dtls = transceiver.sender.transport.state
        for stats in (await transceiver.sender.getStats()).values():
            if stats.type == "remote-inbound-rtp":
                lost_sent += max(0, stats.packetsLost)
                if stats.roundTripTime is not None:
                    rtts.append(stats.roundTripTime)
        for stats in (await transceiver.receiver.getStats()).values():
            if stats.type == "inbound-rtp":
                lost_received += max(0, stats.packetsLost)
    return NetworkFigures(
        connection=peer.connectionState,
        ice=peer.iceConnectionState,
        dtls=dtls,
        rtt_s=max(rtts, default=None),
        lost_sent=lost_sent,
        lost_received=lost_received,
    )
