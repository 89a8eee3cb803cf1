"""How a connection finds its way: ICE servers, policy and ports, and what it says when it can't."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
)

from relay.errors import ProcessingError
from relay.webrtc.ice_servers import IceServers


@dataclass(frozen=True, slots=True)
class IceOptions:
    """What an operator says about the way; the same for every connection."""

    servers: IceServers = field(default_factory=IceServers)
    """None by default: no STUN, no delay."""
    relay_only: bool = False
    """Offer none but a TURN server's addresses (RFC 8828 calls it that, W3C `relay`)."""
    udp_ports: str | None = None
    """The range of `RELAY_UDP_PORTS`, for messages."""


async def open_peer(ice: IceOptions) -> RTCPeerConnection:
    """A peer connection that has not begun.

    Raises:
        ProcessingError: code `ice_servers_unavailable`.
    """
    servers = [RTCIceServer(**server) for server in await ice.servers.for_connection()]
    policy = RTCIceTransportPolicy.RELAY if ice.relay_only else RTCIceTransportPolicy.ALL
    return RTCPeerConnection(
        RTCConfiguration(
            iceServers=servers,  # never None, for which aiortc asks a public STUN server
            iceTransportPolicy=policy,
            # One way for everything: without it each media section takes a port, and a TURN
            # address, of its own until the answer says otherwise.
            bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
        )
    )


def check_offer(sdp: str, ice: IceOptions) -> None:
    """Refuse an offer that no answer can lead anywhere: without a single candidate.

    Raises:
        ProcessingError: code `no_candidates`, with the likely cause.
    """
    if "\na=candidate:" in sdp:
        return
    ice.servers.connection_failed()
    if ice.relay_only:
        why = (
            "the TURN server gave no address: it can't be reached, or refuses the credentials of"
            " RELAY_ICE_SERVERS"
        )
    elif ice.udp_ports:
        why = (
            f"all UDP ports of RELAY_UDP_PORTS ({ice.udp_ports}) are taken: widen the range, or"
            " run fewer sessions"
        )
    else:
        why = "this machine has no network address but loopback"
    raise ProcessingError(f"no way for media: {why}", code="no_candidates")


def no_connection(ice: IceOptions) -> ProcessingError:
    """What to say when the two sides did not find each other."""
    ice.servers.connection_failed()
    through = "through the TURN server" if ice.relay_only else "from here"
    return ProcessingError(
        f"no WebRTC connection to ComfyStream: its UDP ports can't be reached {through};"
        " see NAT and TURN in the operator's guide",
        code="webrtc_failed",
    )
