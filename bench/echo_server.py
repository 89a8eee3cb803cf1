"""A ComfyStream that costs next to nothing: it sends each RTP packet back as it came.

    python -m bench.echo_server

What it is given is neither put together nor decoded nor encoded, only decrypted, numbered anew and
encrypted again, so that the relay is what is measured when there are many sessions. Beside that it
does what a receiver and a sender must: it keeps what it has sent for those who ask again, and
returns no delimiter that came alone, as a server that decodes would not. A keyframe that it is
asked for, which a server that encodes would make, is the next one that comes where they come
regularly; elsewhere the request is passed on.
It knows no prompts; frames are passed through. Prints ``{"event": "listening", "url": ...}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import av
from aiohttp import web
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)

HISTORY = 1024
"""Packets that may be asked for again: a second of 30 fps at 8 Mbit/s."""
_DELIMITER, _IDR, _SPS, _STAP_A, _FU_A = 9, 5, 7, 24, 28
"""nal_unit_types: H.264, table 7-1, and RFC 6184, 5.2."""
REGULAR_S = 2.5
"""Keyframes that come more often than this are waited for when one is wanted."""
_SHORT_BYTES = 8
"""A payload that is no longer holds a delimiter and nothing else."""


class _SilentTrack(MediaStreamTrack):
    """Keeps aiortc's sender waiting: what is sent does not come from a track."""

    kind = "video"

    async def recv(self) -> av.Packet[Any]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody sets that future")


class PacketEcho:
    """Sends a connection's packets back, as packets of its sender's.

    Args:
        transceiver: of the video, negotiated.
        send: encrypts and sends an RTP packet.
    """

    def __init__(
        self, transceiver: RTCRtpTransceiver, send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._receiver = transceiver.receiver
        self._ssrc = transceiver.sender._ssrc.to_bytes(4)
        self._send = send
        self._peer_ssrc: int | None = None
        self._newest: int | None = None
        self._left_out = 0
        self._numbers: dict[int, int | None] = {}
        """From a number that came to the one it went back under; None if it did not."""
        self._sent: dict[int, bytes] = {}
        self._asking: set[asyncio.Future[None]] = set()
        self._keyframe_timestamp = b""
        self._keyframe_at = self._next_keyframe_by = -math.inf
        self._wanted: asyncio.TimerHandle | None = None

    async def packet(self, data: bytes, arrival_time_ms: int) -> None:
        """An RTP packet came (RFC 3550, 5.1)."""
        number = int.from_bytes(data[2:4])
        if _is_keyframe(data) and data[4:8] != self._keyframe_timestamp:
            self._keyframe_came(data[4:8])
        if number not in self._numbers:
            self._peer_ssrc = int.from_bytes(data[8:12])
            self._place(number, _is_delimiter(data))
        back = self._numbers[number]
        if back is not None:
            packet = data[:2] + back.to_bytes(2) + data[4:8] + self._ssrc + data[12:]
            self._sent[back] = packet
            self._sent.pop((back - HISTORY) % 0x10000, None)
            await self._send(packet)

    async def again(self, number: int) -> None:
        """A packet is asked for again: it was lost on its way back, or never came."""
        if packet := self._sent.get(number):
            await self._send(packet)
        elif self._peer_ssrc is not None:
            missing = (number + self._left_out) % 0x10000
            await self._receiver._send_rtcp_nack(self._peer_ssrc, [missing])

    def keyframe(self) -> None:
        """A keyframe is asked for: only who sends here can make one, if none is due anyway."""
        if self._wanted is None:
            loop = asyncio.get_running_loop()
            self._wanted = loop.call_at(max(loop.time(), self._next_keyframe_by), self._pass_on)

    def close(self) -> None:
        """Ask for nothing more."""
        if self._wanted is not None:
            self._wanted.cancel()

    def _keyframe_came(self, timestamp: bytes) -> None:
        now = asyncio.get_running_loop().time()
        interval_s = now - self._keyframe_at
        self._keyframe_timestamp, self._keyframe_at = timestamp, now
        if interval_s < REGULAR_S:
            self._next_keyframe_by = now + 1.25 * interval_s
        if self._wanted is not None:
            self._wanted.cancel()
            self._wanted = None

    def _pass_on(self) -> None:
        self._wanted = None
        if self._peer_ssrc is not None:
            asking = asyncio.ensure_future(self._receiver._send_rtcp_pli(self._peer_ssrc))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    def _place(self, number: int, leave_out: bool) -> None:
        """Give the packet, and those that are missing before it, their numbers for the way back."""
        first = number if self._newest is None else (self._newest + 1) % 0x10000
        if (number - first) % 0x10000 > HISTORY:
            first = number  # late beyond what is remembered, or the peer began anew
        while True:
            last = first == number
            back = (first - self._left_out) % 0x10000
            self._numbers[first] = None if last and leave_out else back
            self._numbers.pop((first - 2 * HISTORY) % 0x10000, None)
            if last:
                break
            first = (first + 1) % 0x10000
        self._left_out += leave_out
        self._newest = number


def _is_delimiter(data: bytes) -> bool:
    start = _payload_start(data)
    return len(data) - start <= _SHORT_BYTES and data[start] & 0x1F == _DELIMITER


def _is_keyframe(data: bytes) -> bool:
    start = _payload_start(data)
    kind = data[start] & 0x1F
    if kind == _FU_A:
        kind = data[start + 1] & 0x1F
    elif kind == _STAP_A:
        kind = data[start + 3] & 0x1F
    return kind in (_IDR, _SPS)


def _payload_start(data: bytes) -> int:
    start = 12 + 4 * (data[0] & 0x0F)
    if data[0] & 0x10:
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4])
    return start


class EchoServer:
    """ComfyStream's routes, as far as a session without prompts needs them."""

    def __init__(self) -> None:
        self._peers: set[RTCPeerConnection] = set()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/streams/stats", self._stats)
        app.router.add_post("/offer", self._offer)
        app.on_shutdown.append(self._close)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(content_type="application/json", text="OK")

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _offer(self, request: web.Request) -> web.Response:
        offer = (await request.json())["offer"]
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peers.add(peer)

        @peer.on("connectionstatechange")
        async def changed() -> None:
            if peer.connectionState in ("failed", "closed"):
                self._peers.discard(peer)
                echo.close()
                await peer.close()

        video = peer.addTransceiver(_SilentTrack(), direction="sendrecv")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences([codec for codec in codecs if codec.name == "H264"])
        await peer.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
        await peer.setLocalDescription(await peer.createAnswer())
        transport = video.sender.transport
        echo = PacketEcho(video, transport._send_rtp)
        transport._handle_rtp_data = echo.packet  # type: ignore[method-assign]
        video.sender._retransmit = echo.again  # type: ignore[method-assign]
        video.sender._send_keyframe = echo.keyframe  # type: ignore[method-assign]
        answer = peer.localDescription
        return web.json_response({"sdp": answer.sdp, "type": answer.type})

    async def _close(self, _: web.Application) -> None:
        await asyncio.gather(*(peer.close() for peer in list(self._peers)))


async def _serve(port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(EchoServer().application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        print(json.dumps({"event": "listening", "url": url}), flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Send RTP packets back as they came.")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    port = parser.parse_args().port
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(port))
    else:
        uvloop.run(_serve(port))


if __name__ == "__main__":
    main()
