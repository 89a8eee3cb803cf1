"""Each private name of aiortc that the relay uses still does what it is used for.

One loopback connection between two peers of the pinned version: an upgrade that renames or
rewires one of them fails here, instead of silently bringing the stock path back.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise

import aioice.ice
import av
import numpy as np
import pytest
import uvloop
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from relay.media import h264
from relay.media.access_unit import TIME_BASE
from relay.media.encoder import VideoEncoder
from relay.webrtc import aiortc_internals
from relay.webrtc.assembly import AccessUnitAssembler, AssembledUnit


class PacketTrack(MediaStreamTrack):
    """Sends encoded packets that the test puts in its queue."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.packets: asyncio.Queue[av.Packet | None] = asyncio.Queue()

    async def recv(self) -> av.Packet:
        packet = await self.packets.get()
        if packet is None:
            raise MediaStreamError
        return packet


@dataclass
class Link:
    """A peer of ours that sends packets, and a stock peer that answers with its own video."""

    ours: RTCPeerConnection
    theirs: RTCPeerConnection
    track: PacketTrack
    units: asyncio.Queue[AssembledUnit]
    keyframe_requests: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, picture: int, stamp: int, encoder: VideoEncoder, key: bool) -> None:
        array = np.full((64 * 3 // 2, 64), picture % 256, np.uint8)
        frame = av.VideoFrame.from_ndarray(array, format="yuv420p")
        frame.time_base = TIME_BASE
        for unit in encoder.encode(frame, stamp, key):
            packet = av.Packet(unit.data)
            packet.pts = packet.dts = unit.pts
            packet.time_base = TIME_BASE
            self.track.packets.put_nowait(packet)


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    track = PacketTrack()
    units: asyncio.Queue[AssembledUnit] = asyncio.Queue()
    ours, theirs = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    link = Link(ours, theirs, track, units)
    transceiver = ours.addTransceiver(track, direction="sendrecv")
    transceiver.setCodecPreferences(
        [c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == "video/H264"]
    )
    aiortc_internals.replace_jitter_buffer(
        transceiver.receiver, AccessUnitAssembler(units.put_nowait)
    )
    aiortc_internals.disable_bandwidth_estimator(transceiver.receiver)
    aiortc_internals.on_keyframe_request(transceiver.sender, link.keyframe_requests.set)
    theirs.addTrack(VideoStreamTrack())
    connected = asyncio.Event()
    ours.on("connectionstatechange", connected.set)
    await ours.setLocalDescription(await ours.createOffer())
    await theirs.setRemoteDescription(ours.localDescription)
    await theirs.setLocalDescription(await theirs.createAnswer())
    await ours.setRemoteDescription(theirs.localDescription)
    while ours.connectionState != "connected":
        connected.clear()
        await asyncio.wait_for(connected.wait(), 10)
    yield link
    track.packets.put_nowait(None)
    await ours.close()
    await theirs.close()


async def until_keyframe(link: Link, ask: Callable[[], Awaitable[None]]) -> int:
    """Ask, then count the units up to and including the next IDR."""
    await ask()
    for count in range(1, 20):
        unit = await asyncio.wait_for(link.units.get(), 10)
        if h264.is_idr(unit.data):
            return count
    raise AssertionError("no keyframe within 20 units")


async def test_whole_access_units_come_back_undecoded(link: Link) -> None:
    """`replace_jitter_buffer`: every unit reaches the assembler, none the decoder's track."""
    units = [await asyncio.wait_for(link.units.get(), 10) for _ in range(5)]
    assert h264.is_idr(units[0].data)
    assert all(h264.has_slice(unit.data) for unit in units)
    deltas = [b.timestamp - a.timestamp for a, b in pairwise(units)]
    assert all(abs(delta % (1 << 32) - 3000) <= 1 for delta in deltas)
    assert link.ours.getReceivers()[0].track._queue.empty()


async def test_a_keyframe_request_brings_an_idr(link: Link) -> None:
    """`request_keyframe`: the peer's next or next but one unit is an IDR."""
    await asyncio.wait_for(link.units.get(), 10)
    await asyncio.wait_for(link.units.get(), 10)
    receiver = link.ours.getReceivers()[0]
    ask = aiortc_internals.request_keyframe
    assert await until_keyframe(link, lambda: ask(receiver)) <= 4


async def test_a_bitrate_limit_reaches_the_peers_encoder(link: Link) -> None:
    """`send_bitrate_limit`: the stock encoder starts anew at our rate, with an IDR."""
    await asyncio.wait_for(link.units.get(), 10)
    await asyncio.wait_for(link.units.get(), 10)
    receiver = link.ours.getReceivers()[0]
    limit = aiortc_internals.send_bitrate_limit
    assert await until_keyframe(link, lambda: limit(receiver, 2_500_000)) <= 4


async def test_the_peers_keyframe_request_reaches_us(link: Link) -> None:
    """`on_keyframe_request`: a PLI for our packet track calls back."""
    encoder = VideoEncoder(64, 64)
    try:
        received = link.theirs.getReceivers()[0]
        await link.send(0, 3000, encoder, True)
        await link.send(1, 6000, encoder, False)
        await asyncio.wait_for(received.track.recv(), 10)
        assert not link.keyframe_requests.is_set()
        for source in received.getSynchronizationSources():
            await received._send_rtcp_pli(source.source)
        await asyncio.wait_for(link.keyframe_requests.wait(), 10)
    finally:
        encoder.close()


async def test_an_announced_frame_is_released_before_the_next_one_comes(link: Link) -> None:
    """The early delimiter: a stock receiver gives out a frame with nothing sent after it but
    the next stamp's delimiter."""
    encoder = VideoEncoder(64, 64)
    try:
        received = link.theirs.getReceivers()[0]
        await link.send(0, 3000, encoder, True)
        announcement = av.Packet(b"\x00\x00\x00\x01\x09\xf0")
        announcement.pts = announcement.dts = 6007
        announcement.time_base = TIME_BASE
        link.track.packets.put_nowait(announcement)
        first = await asyncio.wait_for(received.track.recv(), 10)
        assert (first.width, first.height) == (64, 64)
    finally:
        encoder.close()


async def test_a_missing_packet_is_asked_for(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """`request_retransmission`: a NACK makes the peer send the packet once more."""
    await asyncio.wait_for(link.units.get(), 10)
    asked: asyncio.Queue[int] = asyncio.Queue()

    async def note(sequence_number: int) -> None:
        asked.put_nowait(sequence_number)

    # SRTP lets no packet through twice, so what the peer sends again is seen at the peer.
    monkeypatch.setattr(link.theirs.getSenders()[0], "_retransmit", note)
    await aiortc_internals.request_retransmission(link.ours.getReceivers()[0], [4711, 4712])
    assert [await asyncio.wait_for(asked.get(), 10) for _ in range(2)] == [4711, 4712]


async def test_the_last_frames_packets_can_be_sent_again(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send_again`: a frame whose last packet was lost comes out at the peer all the same."""
    encoder = VideoEncoder(64, 64)
    sender = link.ours.getSenders()[0]
    send, lost = sender.transport._send_rtp, asyncio.Event()

    async def lose_announcement(data: bytes) -> None:
        if len(data) < 40:  # a delimiter: nothing else is as short
            lost.set()
        else:
            await send(data)

    try:
        received = link.theirs.getReceivers()[0]
        await link.send(0, 3000, encoder, True)
        announcement = av.Packet(b"\x00\x00\x00\x01\x09\xf0")
        announcement.pts = announcement.dts = 6007
        announcement.time_base = TIME_BASE
        with monkeypatch.context() as patch:
            patch.setattr(sender.transport, "_send_rtp", lose_announcement)
            link.track.packets.put_nowait(announcement)
            await asyncio.wait_for(lost.wait(), 10)
        assert received.track._queue.empty()
        await aiortc_internals.send_again(sender, 2)
        first = await asyncio.wait_for(received.track.recv(), 10)
        assert (first.width, first.height) == (64, 64)
    finally:
        encoder.close()


def test_consent_names_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """`shorten_consent` sets the two constants that aioice reads at every check."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 5)
    monkeypatch.setattr(aioice.ice, "CONSENT_FAILURES", 6)
    aiortc_internals.shorten_consent(1.5, 3)
    assert (aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES) == (1.5, 3)


def test_a_renamed_private_name_is_noticed() -> None:
    """Setting a name that is not there fails instead of making a new one."""
    with pytest.raises(AttributeError):
        aiortc_internals.replace_jitter_buffer(object(), object())  # type: ignore[arg-type]


async def gathered(peer: RTCPeerConnection) -> list[tuple[str, int]]:
    """Address and port of each candidate of a fresh offer."""
    peer.createDataChannel("x")
    await peer.setLocalDescription(await peer.createOffer())
    found = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+)", peer.localDescription.sdp)
    return [(address, int(port)) for address, port in found]


def peer_without_servers() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def connects_within_a_range() -> None:
    """The body of the test below, for either event loop."""
    outside = peer_without_servers()
    addresses = {address for address, _ in await gathered(outside)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        first = min(probe.getsockname()[1], 65000)
    ports = range(first, first + 8)
    aiortc_internals.limit_udp_ports(asyncio.get_running_loop(), ports)
    ours, theirs = peer_without_servers(), peer_without_servers()
    offered = await gathered(ours)
    assert {address for address, _ in offered} == addresses
    assert {port for _, port in offered} <= set(ports)
    await theirs.setRemoteDescription(ours.localDescription)
    await theirs.setLocalDescription(await theirs.createAnswer())
    connected = asyncio.Event()
    ours.on(
        "connectionstatechange",
        lambda: connected.set() if ours.connectionState == "connected" else None,
    )
    await ours.setRemoteDescription(theirs.localDescription)
    async with asyncio.timeout(10):
        await connected.wait()
    # One of the ports again and again: taken for as long as a peer holds it.
    _, held = offered[0]
    aiortc_internals.limit_udp_ports(asyncio.get_running_loop(), range(held, held + 1))
    late = peer_without_servers()
    assert offered[0] not in await gathered(late)
    for peer in (outside, ours, theirs, late):
        await peer.close()
    freed = peer_without_servers()
    assert {port for _, port in await gathered(freed)} == {held}
    await freed.close()


async def test_ice_sockets_stay_in_the_range_of_ports() -> None:
    """Every candidate is in it, media connects, a port that is taken is not used twice, and one
    that is free again is."""
    await connects_within_a_range()


def test_the_range_of_ports_holds_under_uvloop() -> None:
    """Its loop is another class, and makes its sockets itself."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(connects_within_a_range())
