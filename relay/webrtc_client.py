"""One WebRTC connection to a ComfyStream server: connect, watch, close.

A connection is used once: aiortc can't restart ICE, and a new RTCPeerConnection also resets
every fault of the server's timestamps. Reconnecting is `comfystream_processor`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import structlog
from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription

from relay.codec_executor import CodecExecutor
from relay.comfystream.control import ControlClient
from relay.copy_switch import CopySwitch
from relay.errors import ProcessingError
from relay.media.access_unit import CLOCK_RATE, AccessUnit, SourceFrame
from relay.media.encoder import VideoEncoder
from relay.processor import SoundExchange
from relay.queues import MediaQueue
from relay.tasks import run_beside, to_its_end
from relay.webrtc import aiortc_internals, pacing
from relay.webrtc.answer_candidates import AnswerCandidates
from relay.webrtc.close import close_peer
from relay.webrtc.frame_ledger import FrameLedger
from relay.webrtc.ice import IceOptions, check_offer, no_connection, open_peer
from relay.webrtc.incoming_video import IncomingVideo
from relay.webrtc.network import NetworkFigures, measure
from relay.webrtc.outgoing_video import VideoStreamTrack
from relay.webrtc.pacing import FlightControl
from relay.webrtc.rtp_sender import RtpVideoSender
from relay.webrtc.sound_line import SoundLine

__all__ = ["VideoStreamTrack", "WebRTCClient", "WebRTCOptions"]

log = structlog.get_logger(__name__)

OfferExchange = Callable[[str], Awaitable[str]]
"""Sends our offer's SDP, returns the answer's; raises ProcessingError."""

CONNECT_TIMEOUT_S = 10.0
"""From the answer to ICE and DTLS being up; 25 ms on loopback."""
GATHERING_ENDS_S = 1.0
"""For a gathering of candidates that nobody waits for any more; without STUN it takes
milliseconds."""
FIRST_MEDIA_TIMEOUT_S = 10.0
KEYFRAME_AFTER_S = 0.5
MOST_CONTROL_BUFFERED = 16 << 20
"""Bytes of requests that wait to be sent; a way that takes no more is no way."""
WATCH_INTERVAL_S = 0.25
DRAIN_TIMEOUT_S = 0.3


@dataclass(frozen=True, slots=True)
class WebRTCOptions:
    """How a connection is made; everything that is not the request's."""

    ice: IceOptions = field(default_factory=IceOptions)
    media_timeout_s: float = 2.0
    """A connection that returns nothing for this long while frames are under way is dead."""
    candidates: AnswerCandidates | None = None
    """What of a server's answer is admitted; None admits all."""
    bit_rate: int = 2_000_000
    """What we ask the server's encoder for, bits per second."""
    announce_next_frame: bool = True
    release_on_marker: bool = True
    udp_bursts: bool = True
    """Whether a picture's packets are handed to the kernel together; see `udp_burst`."""


class WebRTCClient:
    """One peer connection: H.264 out and back, Opus too where sound goes along, data channels
    `control` and `data`.

    Args:
        exchange_offer: the server's signalling.
        processing: whether a workflow runs; decides how many frames may be under way.
        complete: whether every frame has to come back, at the cost of pace.
        make_encoder: for the outgoing frames, from (width, height).
        copying: whether frames that come coded are sent as they are.
        sound: what sends sound along and takes what returns; None for pictures only.
        on_text: called on the event loop with each message of the data channel.
    """

    def __init__(
        self,
        exchange_offer: OfferExchange,
        options: WebRTCOptions,
        codecs: CodecExecutor,
        make_encoder: Callable[[int, int], VideoEncoder],
        *,
        processing: bool,
        complete: bool = False,
        copying: CopySwitch | None = None,
        sound: SoundExchange | None = None,
        on_text: Callable[[str | bytes], None] = lambda _: None,
    ) -> None:
        self.ledger = FrameLedger()
        self._complete = complete
        self._on_text = on_text
        self._copying = copying
        self._exchange_offer = exchange_offer
        self._options = options
        self._codecs = codecs
        self._make_encoder = make_encoder
        self._flight = FlightControl(
            _limits(processing, complete, options.announce_next_frame),
            self.ledger.identifier.under_way,
            lambda: self.ledger.give_up_before(float("inf")),
            lambda: self.ledger.issuer.interval / CLOCK_RATE,
            time.monotonic,
        )
        self.control: ControlClient | None = None
        """The server's control channel, from `connect` on."""
        self._peer: RTCPeerConnection | None = None
        self._outgoing: VideoStreamTrack | None = None
        self._sender: RtpVideoSender | None = None
        self._incoming: IncomingVideo | None = None
        self._sound = SoundLine(sound, codecs) if sound is not None else None
        self._state_changed = asyncio.Event()
        self._connected_at = 0.0
        self._undecodable_since: float | None = None
        self._resting = False
        self._excused_until = -math.inf

    @property
    def state(self) -> str:
        """W3C's RTCPeerConnectionState."""
        return self._peer.connectionState if self._peer is not None else "new"

    async def network(self) -> NetworkFigures | None:
        """What is known of the way; None before there is one, and after."""
        return await measure(self._peer) if self._peer is not None else None

    async def connect(
        self, frames: MediaQueue[SourceFrame], deliver: Callable[[AccessUnit], None]
    ) -> None:
        """Offer, and return when ICE and DTLS are up. A cancel leaves `aclose` to be called.

        Args:
            deliver: called on the event loop with each picture that comes back, in order; see
                `IncomingVideo`.

        Raises:
            ProcessingError: the signalling's, or code `webrtc_failed`, `no_candidates` or
                `ice_servers_unavailable`.
        """
        peer = self._peer = await open_peer(self._options.ice)
        peer.on("connectionstatechange", self._state_changed.set)
        self._outgoing = VideoStreamTrack(
            frames,
            self._make_encoder,
            self._codecs,
            self.ledger,
            self._flight,
            copying=self._copying,
            recover=self._recover,
        )
        transceiver = peer.addTransceiver(self._outgoing, direction="sendrecv")
        self._sender = RtpVideoSender(
            transceiver.sender,
            self._outgoing.next_unit,
            self._outgoing.end,
            announced=self._upcoming_stamp if self._options.announce_next_frame else None,
            bursts=self._options.udp_bursts,
        )
        transceiver.setCodecPreferences(
            [c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == "video/H264"]
        )
        self._incoming = IncomingVideo(
            self.ledger,
            self._flight,
            deliver,
            release_on_marker=self._options.release_on_marker,
        )
        self._incoming.attach(transceiver.receiver)
        aiortc_internals.on_keyframe_request(transceiver.sender, self._outgoing.request_keyframe)
        if self._sound is not None:
            self._sound.add_to(peer)
        self.control = self._open_control(peer)
        peer.createDataChannel("data").on("message", self._on_text)

        # aioice loses the sockets of a gathering that is cut off.
        await to_its_end(
            peer.setLocalDescription(await peer.createOffer()), timeout_s=GATHERING_ENDS_S
        )
        check_offer(peer.localDescription.sdp, self._options.ice)
        answer = await self._exchange_offer(peer.localDescription.sdp)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except Exception as error:  # aiortc raises many kinds for an SDP it can't use
            raise ProcessingError(
                "ComfyStream's WebRTC answer can't be used", code="comfystream_bad_answer"
            ) from error
        if transceiver.currentDirection != "sendrecv":
            raise ProcessingError(
                "ComfyStream's answer does not return H.264 video", code="comfystream_bad_answer"
            )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._wait_for_state("connected")
        except TimeoutError:
            raise no_connection(self._options.ice) from None
        self._connected_at = time.monotonic()
        self._incoming.begin()
        if self._sound is not None:
            self._sound.begin()

    async def run(self) -> None:
        """Return when the frames have ended and come back; raise when the connection fails.

        Raises:
            ProcessingError: code `webrtc_failed` (closed, encoder failed) or
                `media_timeout` (nothing comes back).
        """
        await run_beside(
            self._send_until_the_end(),
            self._watch_media(),
            self._watch_state(),
            self._limit_bitrate(),
            *([self._sound.watch()] if self._sound is not None else []),
        )

    def see_decoded(self, decodable: bool) -> None:
        """Whether the last picture that was delivered could be decoded."""
        if decodable:
            self._undecodable_since = None
        elif self._undecodable_since is None:
            self._undecodable_since = time.monotonic()

    def request_keyframe(self) -> None:
        """Ask the server for a picture that decoding can begin with; it is its next one."""
        if self._incoming is not None:
            self._incoming.want_keyframe()

    @property
    def has_sound(self) -> bool:
        """Whether sound goes along."""
        return self._sound is not None

    @property
    def resting(self) -> bool:
        """Paused, and the server gets nothing at all."""
        return self._resting

    async def flows(self, within_s: float) -> bool:
        """Whether a frame of the source was sent so lately; the first is waited for as long."""
        assert self._outgoing is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._outgoing.first_sent.wait()
        sent_at = self.ledger.last_sent_at
        return sent_at is not None and time.monotonic() - sent_at <= within_s

    def pause(self, *, rest: bool) -> None:
        """Send no more of the source's frames; with `rest`, nothing."""
        assert self._outgoing is not None
        self._resting = rest
        self._outgoing.pause(rest=rest)

    def resume(self) -> None:
        """Send what comes from now on."""
        assert self._outgoing is not None
        self._resting = False
        self._outgoing.resume()

    @property
    def is_excused(self) -> bool:
        """Whether nothing has to come back just now."""
        return self._excused_until > time.monotonic()

    @contextlib.contextmanager
    def excused(self) -> Iterator[None]:
        """While this lasts, nothing has to come back."""
        self._excused_until = math.inf
        try:
            yield
        finally:
            self._excused_until = time.monotonic()

    async def aclose(self) -> None:
        """Say goodbye (RTCP BYE, DTLS close) and free everything. Idempotent, bounded."""
        peer, self._peer = self._peer, None
        if self.control is not None:
            self.control.close()
        if self._incoming is not None:
            await self._incoming.aclose()
        if self._sound is not None:
            self._sound.end()
        if peer is not None:
            await close_peer(peer)
        if self._outgoing is not None:
            self._outgoing.close_encoder()

    def _upcoming_stamp(self) -> int:
        return self.ledger.issuer.upcoming

    def _open_control(self, peer: RTCPeerConnection) -> ControlClient:
        channel = peer.createDataChannel("control")

        def send(message: str) -> None:
            if channel.readyState != "open":
                raise ProcessingError(
                    "the control channel to ComfyStream is not open", code="control_closed"
                )
            if channel.bufferedAmount > MOST_CONTROL_BUFFERED:
                raise ProcessingError(
                    "the control channel to ComfyStream takes no more", code="control_closed"
                )
            channel.send(message)

        control = ControlClient(send)
        channel.on("open", control.opened)
        channel.on("message", control.receive)
        channel.on("close", control.close)
        return control

    async def _send_until_the_end(self) -> None:
        assert self._outgoing is not None
        await self._outgoing.ended.wait()
        if self._outgoing.failure is not None:
            raise ProcessingError(
                "encoding or sending towards ComfyStream failed", code="webrtc_failed"
            ) from self._outgoing.failure
        if not self._outgoing.source_ended:
            raise ProcessingError(
                "the WebRTC connection to ComfyStream stopped sending", code="webrtc_failed"
            )
        await self.drain()

    async def _wait_for_state(self, wanted: str) -> None:
        assert self._peer is not None
        while self._peer.connectionState != wanted:
            if self._peer.connectionState == "failed":
                raise no_connection(self._options.ice)
            if self._peer.connectionState == "closed":
                raise ProcessingError(
                    "the WebRTC connection to ComfyStream was closed while connecting",
                    code="webrtc_failed",
                )
            self._state_changed.clear()
            await self._state_changed.wait()

    async def _watch_state(self) -> None:
        while self.state not in ("failed", "closed"):
            self._state_changed.clear()
            await self._state_changed.wait()
        raise ProcessingError(
            f"the WebRTC connection to ComfyStream was {self.state}", code="webrtc_failed"
        )

    async def _watch_media(self) -> None:
        """Judge the connection by what comes back, not by its state, which may say "connected"
        for as long as a peer that is gone takes to be missed (24-36 s)."""
        assert self._incoming is not None
        asked_at = 0.0
        unanswered_since: float | None = None
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self._incoming.failure is not None:
                raise ProcessingError(
                    "reading what ComfyStream returns failed", code="webrtc_failed"
                ) from self._incoming.failure
            now = time.monotonic()
            if self._undecodable_since is not None:
                undecodable_s = now - self._undecodable_since
                if undecodable_s > self._options.media_timeout_s:
                    raise ProcessingError(
                        f"ComfyStream returned nothing that can be decoded for"
                        f" {undecodable_s:.1f} s",
                        code="media_undecodable",
                    )
                if undecodable_s > KEYFRAME_AFTER_S and now - asked_at > KEYFRAME_AFTER_S:
                    asked_at = now
                    await self._incoming.request_keyframe()
            last_unit_at = self._incoming.last_unit_at
            if unanswered_since is None or (last_unit_at or -math.inf) >= unanswered_since:
                # Kept until something comes back: frames that are given up below don't move it.
                unanswered_since = self.ledger.oldest_unreturned_at()
            if unanswered_since is None or self._excused_until > now:
                continue
            unanswered_since = max(unanswered_since, self._excused_until)
            if last_unit_at is None:
                silent_s, limit_s = now - unanswered_since, FIRST_MEDIA_TIMEOUT_S
            else:
                silent_s = now - max(unanswered_since, last_unit_at)
                limit_s = max(self._options.media_timeout_s, 3 * self.ledger.slowest_recent_s())
            if silent_s > limit_s:
                raise ProcessingError(
                    f"ComfyStream returned nothing for {silent_s:.1f} s", code="media_timeout"
                )
            if silent_s > KEYFRAME_AFTER_S and now - asked_at > KEYFRAME_AFTER_S:
                asked_at = now
                await self._incoming.request_keyframe()
            if self.ledger.give_up_before(now - limit_s / 2):
                self._flight.wake()

    async def _recover(self) -> None:
        """Whatever packet of the frames under way was lost, on either way: have it once more."""
        assert self._sender is not None
        assert self._incoming is not None
        self._incoming.ask_for_tail()
        frames = self.ledger.identifier.in_flight + self._options.announce_next_frame
        with contextlib.suppress(ConnectionError):  # the connection ends, which others notice
            await self._sender.send_again(frames)

    async def _limit_bitrate(self) -> None:
        """Tell the server's encoder its rate with the first packet: it starts at 1 Mbit/s and
        would otherwise rebuild itself, with a keyframe, after about 3 s."""
        assert self._incoming is not None
        await self._incoming.first_packet.wait()
        await self._incoming.limit_bitrate(self._options.bit_rate)

    def _drain_timeout_s(self) -> float:
        if not self._complete:
            return DRAIN_TIMEOUT_S
        return max(self._options.media_timeout_s, 3 * self.ledger.slowest_recent_s())

    async def drain(self) -> None:
        """Return when what is under way has come back; nobody waits long for the last ones, unless
        every frame has to come back."""
        try:
            async with asyncio.timeout(self._drain_timeout_s()):
                while self.ledger.identifier.in_flight:
                    await self._flight.wait_for_return()
        except TimeoutError:
            pass


def _limits(processing: bool, complete: bool, announcing: bool) -> pacing.FlightLimits:
    if not processing:
        return pacing.PASSTHROUGH
    if not announcing:
        return pacing.WORKFLOW_UNANNOUNCED
    return pacing.WORKFLOW_COMPLETE if complete else pacing.WORKFLOW
