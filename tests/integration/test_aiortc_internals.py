"""Each private name of aiortc that the relay uses still does what it is used for.

One loopback connection between two peers of the pinned version: an upgrade that renames or
rewires one of them fails here, instead of silently bringing the stock path back.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import aioice.ice
import av
import numpy as np
import pytest
import uvloop
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from relay.media import h264
from relay.media.access_unit import TIME_BASE, AccessUnit
from relay.media.encoder import H264_STREAM, VideoEncoder
from relay.webrtc import aiortc_internals, rtp_sender
from relay.webrtc.assembly import AccessUnitAssembler, AssembledUnit
from relay.webrtc.rtp_receiver import ReceivedPacket, RtpVideoReceiver
from relay.webrtc.rtp_sender import MOST_ASKED, MOST_PAYLOAD_BYTES, TOGETHER, RtpVideoSender
from relay.webrtc.udp_burst import UdpBurst

INTERVAL = 3000
"""From unit to unit, 90 kHz ticks: an announcement that is not kept looks like a broken frame."""


class UnitTrack(MediaStreamTrack):
    """Gives the sender access units that the test puts in its queue."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.units: asyncio.Queue[AccessUnit | None] = asyncio.Queue()
        self.upcoming = 0
        """The stamp that the unit after the last one has."""
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def recv(self) -> Any:
        raise AssertionError("aiortc's own loop sends")

    def end(self, failure: Exception | None) -> None:
        self.ended.set_result(failure)
        self.stop()

    async def next_unit(self) -> AccessUnit:
        unit = await self.units.get()
        if unit is None:
            raise MediaStreamError
        self.upcoming = unit.pts + INTERVAL
        return unit


@dataclass
class Link:
    """A peer of ours that sends access units, and a stock peer that answers with its own video."""

    ours: RTCPeerConnection
    theirs: RTCPeerConnection
    track: UnitTrack
    sender: RtpVideoSender
    receiver: RtpVideoReceiver
    units: asyncio.Queue[AssembledUnit]
    keyframe_requests: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, picture: int, stamp: int, encoder: VideoEncoder, key: bool) -> None:
        array = np.full((64 * 3 // 2, 64), picture % 256, np.uint8)
        frame = av.VideoFrame.from_ndarray(array, format="yuv420p")
        frame.time_base = TIME_BASE
        for unit in encoder.encode(frame, stamp, key):
            self.track.units.put_nowait(unit)


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    track = UnitTrack()
    units: asyncio.Queue[AssembledUnit] = asyncio.Queue()
    ours, theirs = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    transceiver = ours.addTransceiver(track, direction="sendrecv")
    transceiver.setCodecPreferences(
        [c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == "video/H264"]
    )
    feedback: set[asyncio.Task[None]] = set()

    def in_background(sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(sending)
        feedback.add(task)
        task.add_done_callback(feedback.discard)

    link = Link(
        ours,
        theirs,
        track,
        RtpVideoSender(
            transceiver.sender, track.next_unit, track.end, announced=lambda: track.upcoming
        ),
        RtpVideoReceiver(
            transceiver.receiver, AccessUnitAssembler(units.put_nowait), in_background
        ),
        units,
    )
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
    track.units.put_nowait(None)
    await ours.close()
    await theirs.close()
    await asyncio.gather(*feedback)


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
        first = await asyncio.wait_for(received.track.recv(), 10)
        assert (first.width, first.height) == (64, 64)
    finally:
        encoder.close()


async def test_both_reports_count_what_is_sent(link: Link) -> None:
    """`note_sent`: what the sender says it sent (its statistics and sender reports) is what the
    receiver got; the clocks of a report are of one moment."""
    encoder = VideoEncoder(64, 64)
    sender, receiver = link.ours.getSenders()[0], link.theirs.getReceivers()[0]
    try:
        await link.send(0, 3000, encoder, True)
        await link.send(1, 6000, encoder, False)
        await asyncio.wait_for(receiver.track.recv(), 10)
        while True:
            theirs = {one.type: one for one in (await receiver.getStats()).values()}
            if "remote-outbound-rtp" in theirs:
                break
            await asyncio.sleep(0.05)  # a report comes every second or so
    finally:
        encoder.close()
    ours = {one.type: one for one in (await sender.getStats()).values()}
    assert ours["outbound-rtp"].packetsSent == theirs["inbound-rtp"].packetsReceived == 4
    assert theirs["remote-outbound-rtp"].packetsSent == 4
    assert theirs["remote-outbound-rtp"].bytesSent == ours["outbound-rtp"].bytesSent > 0
    said_at = theirs["remote-outbound-rtp"].remoteTimestamp
    assert abs((said_at - datetime.now(UTC)).total_seconds()) < 60


async def test_packets_are_read_without_aiortcs_queue(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`take_packets`, `ReceptionNotes`: nothing of a stream that is known goes through aiortc, and
    its reports count it all the same."""
    await asyncio.wait_for(link.units.get(), 10)
    receiver = link.ours.getReceivers()[0]
    link.receiver.begin()

    async def never(packet: Any, arrival_time_ms: int) -> None:
        raise AssertionError("a packet went through aiortc")

    async def received() -> int:
        (stats,) = [
            one for one in (await receiver.getStats()).values() if one.type == "inbound-rtp"
        ]
        return int(stats.packetsReceived)

    while not link.units.empty():
        link.units.get_nowait()
    monkeypatch.setattr(receiver, "_handle_rtp_packet", never)
    before = await received()
    for _ in range(3):
        unit = await asyncio.wait_for(link.units.get(), 10)
        assert h264.has_slice(unit.data)
    assert await received() >= before + 3
    assert receiver.getSynchronizationSources()


async def test_a_gap_is_asked_for_at_once(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ReceptionNotes`: a packet that is missing is told with the one behind it, and its frame
    comes with what is sent again."""
    await asyncio.wait_for(link.units.get(), 10)
    link.receiver.begin()
    take = link.receiver._take
    lost: list[int] = []

    def lose_one(data: bytes) -> None:
        if lost:
            take(data)
        else:
            lost.append(int.from_bytes(data[2:4]))

    aiortc_internals.take_packets(link.ours.getReceivers()[0], lose_one)
    asked: asyncio.Queue[int] = asyncio.Queue()

    async def note(sequence_number: int) -> None:
        asked.put_nowait(sequence_number)

    monkeypatch.setattr(link.theirs.getSenders()[0], "_retransmit", note)
    first_asked_for = await asyncio.wait_for(asked.get(), 10)
    assert [first_asked_for] == lost


async def test_one_request_for_thousands_of_packets_gets_a_second_s_worth(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A datagram has room for 6000 requests of one packet."""
    sent: list[int] = []
    first = asyncio.Event()

    def note(self: UdpBurst, transport: Any, packets: list[bytes], address: Any) -> None:
        sent.append(len(packets))
        first.set()

    monkeypatch.setattr(UdpBurst, "send", note)
    link.track.units.put_nowait(AccessUnit(H264_STREAM, b"\x00\x00\x01\x65abc", 3000, 3000))
    await asyncio.wait_for(first.wait(), 10)
    sent.clear()
    (number, *_) = link.sender._history
    for _ in range(4 * MOST_ASKED):
        await link.sender._retransmit(number)
    assert sum(sent) <= 2 * MOST_ASKED  # of two seconds, if the clock turned meanwhile


async def test_a_datagram_from_anybody_does_not_end_the_connection(link: Link) -> None:
    """`drop_impossible_datagrams`: aiortc ends of an empty one, and of one that is too long for
    libsrtp; both before its queue and instead of it."""
    await asyncio.wait_for(link.units.get(), 10)
    receiver = link.ours.getReceivers()[0]
    connection = receiver.transport.transport._connection
    (source,) = receiver.getSynchronizationSources()
    (codec, *_) = receiver._RTCRtpReceiver__codecs
    known = bytes([0x80, codec]) + bytes(6) + source.source.to_bytes(4) + bytes(1500)
    for begun in (False, True):
        if begun:
            link.receiver.begin()
        for datagram in (b"", b"\x80" * 1501, known):
            for protocol in connection._protocols:
                protocol.datagram_received(datagram, ("127.0.0.1", 9))
        while not link.units.empty():
            link.units.get_nowait()
        for _ in range(3):
            await asyncio.wait_for(link.units.get(), 10)
    assert link.ours.connectionState == "connected"
    assert link.receiver.failure is None


async def test_a_fault_in_sending_ends_the_track_and_is_told(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for a sender that has gone without a word."""

    def broken(data: bytes, most_bytes: int) -> list[bytes]:
        raise IndexError("a fault")

    monkeypatch.setattr(rtp_sender, "packetize", broken)
    link.track.units.put_nowait(AccessUnit(H264_STREAM, b"\x00\x00\x01\x65abc", 3000, 3000))
    failure = await asyncio.wait_for(link.track.ended, 10)
    assert isinstance(failure, IndexError)


async def test_a_fault_of_who_takes_pictures_is_kept(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is read any more: the connection ends of it."""
    await asyncio.wait_for(link.units.get(), 10)
    failed = asyncio.Event()

    def broken(packet: object) -> tuple[bool, None]:
        failed.set()
        raise IndexError("a fault")

    monkeypatch.setattr(link.receiver._assembler, "add", broken)
    link.receiver.begin()
    await asyncio.wait_for(failed.wait(), 10)
    await asyncio.sleep(0)
    assert isinstance(link.receiver.failure, IndexError)


async def test_a_stream_without_markers_is_heard(link: Link) -> None:
    """`ReceptionNotes`: or feedback would go nowhere."""
    await asyncio.wait_for(link.units.get(), 10)
    receiver = link.ours.getReceivers()[0]
    (source,) = receiver.getSynchronizationSources()
    heard_at = receiver._RTCRtpReceiver__active_ssrc
    before = heard_at[source.source]
    notes = aiortc_internals.ReceptionNotes(receiver)
    assert notes.add(ReceivedPacket(1, 4711, 0, source.source, b"")) == []
    assert heard_at[source.source] > before


async def test_a_long_jump_is_no_gap(link: Link) -> None:
    """`ReceptionNotes`: a sender that goes on elsewhere, or a hostile one, costs no time."""
    await asyncio.wait_for(link.units.get(), 10)
    receiver = link.ours.getReceivers()[0]
    (source,) = receiver.getSynchronizationSources()
    requests = receiver._RTCRtpReceiver__nack_generator
    notes = aiortc_internals.ReceptionNotes(receiver)
    number = (requests.max_seq + 30_000) % 65536
    assert notes.add(ReceivedPacket(number, 1, 0, source.source, b"")) == []
    assert (requests.max_seq, requests.missing) == (number, set())
    assert notes.add(ReceivedPacket((number + 3) % 65536, 1, 0, source.source, b"")) == sorted(
        [(number + 1) % 65536, (number + 2) % 65536]
    )


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


async def test_a_nack_brings_the_packet_once_more(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`replace_sending`: what a peer asks for is sent again, and what is not known any more is
    passed over."""
    encoder = VideoEncoder(64, 64)
    sent: asyncio.Queue[list[bytes]] = asyncio.Queue()
    send = UdpBurst.send

    def note(self: UdpBurst, transport: Any, packets: list[bytes], address: Any) -> None:
        sent.put_nowait(packets)
        send(self, transport, packets, address)

    monkeypatch.setattr(UdpBurst, "send", note)
    try:
        received = link.theirs.getReceivers()[0]
        await link.send(0, 3000, encoder, True)
        await asyncio.wait_for(received.track.recv(), 10)
        frame = await asyncio.wait_for(sent.get(), 10)
        numbers = [int.from_bytes(packet[2:4]) for packet in frame]
        unknown = (numbers[0] - 1) % 65536
        for source in received.getSynchronizationSources():
            await received._send_rtcp_nack(source.source, [unknown, numbers[0]])
        (again,) = await asyncio.wait_for(sent.get(), 10)
        assert again == frame[0]
        assert sent.empty()
    finally:
        encoder.close()


async def test_a_large_picture_leaves_in_parts(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver's socket does not hold all of it at once; the delimiter still is the last."""
    parts: list[int] = []
    sent_all = asyncio.Event()

    def note(self: UdpBurst, transport: Any, packets: list[bytes], address: Any) -> None:
        parts.append(len(packets))
        if len(packets[-1]) < 60:
            sent_all.set()

    monkeypatch.setattr(UdpBurst, "send", note)
    data = b"\x00\x00\x00\x01\x65" + b"\x55" * 100 * MOST_PAYLOAD_BYTES
    link.track.units.put_nowait(AccessUnit(H264_STREAM, data, 3000, 3000, keyframe=True))
    await asyncio.wait_for(sent_all.wait(), 10)
    assert max(parts) == TOGETHER
    assert sum(parts) == 102


async def test_the_last_frames_packets_can_be_sent_again(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send_again`: a frame whose last packet was lost comes out at the peer all the same."""
    encoder = VideoEncoder(64, 64)
    send, lost = UdpBurst.send, asyncio.Event()

    def lose_announcement(
        self: UdpBurst, transport: Any, packets: list[bytes], address: Any
    ) -> None:
        send(self, transport, packets[:-1], address)
        lost.set()

    try:
        received = link.theirs.getReceivers()[0]
        with monkeypatch.context() as patch:
            patch.setattr(UdpBurst, "send", lose_announcement)
            await link.send(0, 3000, encoder, True)
            await asyncio.wait_for(lost.wait(), 10)
        assert received.track._queue.empty()
        await link.sender.send_again(2)
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
