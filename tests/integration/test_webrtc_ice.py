"""How a connection finds its way, and how it ends when aiortc can't end it."""

from __future__ import annotations

import asyncio
import re
import socket

import aioice.ice
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSctpTransport, RTCSessionDescription

from relay.errors import ProcessingError
from relay.webrtc import close as webrtc_close
from relay.webrtc.close import close_peer
from relay.webrtc.ice import IceOptions, check_offer, open_peer
from tests.peers.waiting import until


async def offer_of(peer: RTCPeerConnection) -> str:
    """What is offered with video and a data channel, as the relay does."""
    peer.addTransceiver("video")
    peer.createDataChannel("control")
    await peer.setLocalDescription(await peer.createOffer())
    return str(peer.localDescription.sdp)


async def test_nobody_outside_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """No STUN server, public or not, and no name is looked up."""

    def refuse(*_arguments: object) -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(aioice.ice, "server_reflexive_candidate", refuse)
    monkeypatch.setattr(socket, "gethostbyname", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    peer = await open_peer(IceOptions())
    sdp = await offer_of(peer)
    assert " typ host" in sdp
    assert " typ srflx" not in sdp
    await close_peer(peer)


async def test_video_and_data_share_one_way() -> None:
    """One port on each address, whatever the number of media sections."""
    peer = await open_peer(IceOptions())
    sdp = await offer_of(peer)
    assert sdp.count("\nm=") == 2
    ways = set(re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+)", sdp))
    assert len(ways) == len({address for address, _ in ways})
    await close_peer(peer)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (IceOptions(), "loopback"),
        (IceOptions(udp_ports="40000-40001"), "RELAY_UDP_PORTS (40000-40001)"),
        (IceOptions(relay_only=True), "TURN"),
    ],
)
def test_an_offer_that_leads_nowhere_says_why(options: IceOptions, words: str) -> None:
    """Without a candidate nobody need be asked for an answer."""
    check_offer("v=0\r\na=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n", options)
    with pytest.raises(ProcessingError, match=re.escape(words)) as caught:
        check_offer("v=0\r\na=end-of-candidates\r\n", options)
    assert caught.value.code == "no_candidates"


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_peer_that_can_not_be_closed_in_order_is_closed(
    monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Its end raises, or never comes: the sockets are freed all the same, and soon."""

    async def fail(_transport: RTCSctpTransport) -> None:
        if hangs:
            await asyncio.Event().wait()
        raise ValueError("what the peer had sent")

    peer = await open_peer(IceOptions())
    sdp = await offer_of(peer)
    monkeypatch.setattr(RTCSctpTransport, "stop", fail)
    monkeypatch.setattr(webrtc_close, "LONGEST_CLOSE_S", 0.3)
    async with asyncio.timeout(5):
        await close_peer(peer)
    # ResourceWarning is an error: sockets that were left would fail the test by themselves.
    for address, port in set(re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+)", sdp)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, int(port)))


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8])
async def test_an_end_that_nobody_waits_for_still_comes(turns: int) -> None:
    """Whoever closes is cut off, at whatever point: the sockets are closed, and no task stays."""
    ours, theirs = await open_peer(IceOptions()), RTCPeerConnection(RTCConfiguration([]))
    sdp = await offer_of(ours)
    await theirs.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
    await theirs.setLocalDescription(await theirs.createAnswer())
    await ours.setRemoteDescription(theirs.localDescription)
    await until(lambda: ours.connectionState == "connected")
    assert ours.sctp is not None
    ice = ours.sctp.transport.transport._connection
    sockets = [protocol.transport for protocol in ice._protocols]
    assert sockets
    closing = asyncio.create_task(close_peer(ours))
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await until(lambda: not webrtc_close._ending)
    assert all(socket.is_closing() for socket in sockets)
    assert ice._closed
    await until(lambda: theirs.connectionState == "closed")
    await close_peer(theirs)
