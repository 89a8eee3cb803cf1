"""One peer: its connection, its tracks and channels, and what its end does to the others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCDtlsTransport,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)

from demo.standin import aiortc_internals
from demo.standin.control import ControlChannel, forward_text
from demo.standin.registry import Registry
from demo.standin.return_path import ReturnPath
from demo.standin.tracks import (
    NoopTrack,
    PipelineAudioTrack,
    PipelineTrack,
    PipelineVideoTrack,
    ReturnTrack,
    drain,
)
from relay.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0

_numbers = itertools.count(1)


class Connection:
    """One peer connection, in prompt mode or not.

    Args:
        server: everything shared between connections.
        noop: made without prompts.
    """

    def __init__(self, server: Registry, *, noop: bool) -> None:
        self.number = next(_numbers)
        self.noop = noop
        self.tracks: dict[str, ReturnTrack] = {}
        self.was_connected = False
        self.lost = False
        """The peer stopped answering instead of saying goodbye."""
        self.ended = False
        self.keyframe_requests = 0
        self.channels: list[str] = []
        self._server = server
        self._control: ControlChannel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._pc.on("track", self._on_track)
        self._pc.on("datachannel", self._on_datachannel)
        self._pc.on("connectionstatechange", self._on_connection_state)

    async def answer(self, offer: RTCSessionDescription) -> RTCSessionDescription:
        """Negotiate: H.264 and Opus only, all candidates in the answer.

        Raises:
            Exception: aiortc can't make an answer to this offer.
        """
        if "m=video" in offer.sdp:
            video = self._pc.addTransceiver("video", direction="sendrecv")
            codecs = RTCRtpSender.getCapabilities("video").codecs
            video.setCodecPreferences([codec for codec in codecs if codec.name == "H264"])
            aiortc_internals.on_keyframe_request(video.sender, self._keyframe_requested)
        if "m=audio" in offer.sdp:
            audio = self._pc.addTransceiver("audio", direction="sendrecv")
            codecs = RTCRtpSender.getCapabilities("audio").codecs
            audio.setCodecPreferences([codec for codec in codecs if codec.name == "opus"])
        await self._pc.setRemoteDescription(offer)
        answer = await self._pc.createAnswer()
        with aiortc_internals.rtp_origin(self._server.board.current.rtp_origin):
            await self._pc.setLocalDescription(answer)
        for transceiver in self._pc.getTransceivers():
            track = self.tracks.get(transceiver.kind)
            if transceiver.currentDirection == "recvonly" and isinstance(track, NoopTrack):
                self._start(track.drain())
        return self._pc.localDescription

    @property
    def state(self) -> str:
        return self._pc.connectionState

    async def aclose(self) -> None:
        """Say goodbye to the peer and wait until everything it started has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pc.close()
                if connecting := aiortc_internals.connecting_tasks(self._pc):
                    await asyncio.wait(connecting)
        await cancel_and_wait(self._tasks)

    def report(self) -> dict[str, Any]:
        """What ``/standin/state`` says of this connection."""
        senders = {sender.kind: sender for sender in self._pc.getSenders()}
        video = senders.get("video")
        return {
            "number": self.number,
            "mode": "noop" if self.noop else "prompt",
            "state": self.state,
            "lost": self.lost,
            "tracks": {
                kind: {
                    "id": track.source.id,
                    "received": track.received,
                    "sent": track.path.sent,
                    "sender": track.readyState,
                    "fps": track.fps,
                }
                for kind, track in self.tracks.items()
            },
            "channels": self.channels,
            "control_requests": self._control.requests if self._control else 0,
            "keyframe_requests": self.keyframe_requests,
            "encoder_bitrate": aiortc_internals.encoder_bitrate(video) if video else None,
        }

    # Media.

    def _on_track(self, source: MediaStreamTrack) -> None:
        if source.kind in self.tracks:
            self._start(drain(source))
            return
        board, settings = self._server.board, self._server.settings
        media = self._server.pipeline.media
        path = ReturnPath(board, self._force_keyframe)
        track: ReturnTrack
        if self.noop:
            noop = NoopTrack(source, path, board, settings.noop_timeout_s)
            noop.on("ended", lambda: self._start(noop.drain()))
            track = noop
        elif source.kind == "video":
            video = PipelineVideoTrack(source, path, media, board)
            self._server.video_tracks[source.id] = video
            self._start(video.fps_meter.run())
            track = video
        else:
            track = PipelineAudioTrack(source, path, media)
        self.tracks[source.kind] = track
        self._pc.addTrack(track)
        collecting = self._start(track.collect()) if isinstance(track, PipelineTrack) else None

        @source.on("ended")
        def on_ended() -> None:
            self._server.video_tracks.pop(source.id, None)
            if collecting is not None:
                collecting.cancel()

    def _force_keyframe(self) -> None:
        for sender in self._pc.getSenders():
            if sender.kind == "video":
                aiortc_internals.force_keyframe(sender)

    def _keyframe_requested(self) -> bool:
        self.keyframe_requests += 1
        return not self._server.board.current.ignore_pli

    # Channels.

    def _on_datachannel(self, channel: RTCDataChannel) -> None:
        self.channels.append(channel.label)
        pipeline = self._server.pipeline
        if channel.label == "control":
            control = ControlChannel(channel, pipeline, self._server.board, noop=self.noop)
            self._control = control

            @channel.on("message")
            def on_message(message: str | bytes) -> None:
                self._start(control.answer(message))

        elif channel.label == "data" and not self.noop and pipeline.ports.text_out:
            task = self._start(forward_text(channel, pipeline))
            self._server.text_tasks.add(task)
            task.add_done_callback(self._server.text_tasks.discard)
            channel.on("close", self._server.stop_text)

    # The end.

    def _on_connection_state(self) -> None:
        state = self._pc.connectionState
        logger.info("connection %d: %s", self.number, state)
        if state == "connected":
            self.was_connected = True
        elif state in ("failed", "closed"):
            self.lost = self.was_connected and any(
                aiortc_internals.consent_expired(transport) for transport in self._transports()
            )
            # Not one of this connection's tasks: it outlives what it ends.
            self._server.start(self._end())

    def _transports(self) -> list[RTCDtlsTransport]:
        transports = [sender.transport for sender in self._pc.getSenders()]
        return transports + ([self._pc.sctp.transport] if self._pc.sctp else [])

    async def _end(self) -> None:
        await self._pc.close()
        self.ended = True
        self._server.forget(self)
        self._server.stop_text()
        if not self.noop:
            await self._server.pipeline.stop_prompts(cleanup=True)
            self._server.prompt_peer_cleaned_up_at = time.monotonic()
        await cancel_and_wait(self._tasks)

    def _start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
