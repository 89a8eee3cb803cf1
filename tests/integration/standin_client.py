"""A plain aiortc client for the stand-in's tests: numbered pictures out, numbered pictures back.

A picture holds its number as twelve bright or dark blocks, so that what returns is known by its
content whatever timestamp it carries, also after inversion and two lossy encodings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import aiohttp
import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from demo.standin import ComfyStreamStandIn
from relay.tasks import cancel_and_wait

TICKS = Fraction(1, 90_000)
STEP = 3000
BITS = 12
BLOCK = 32
WIDTH, HEIGHT = BLOCK * 4, BLOCK * 4
TIMEOUT_S = 8.0

INVERT = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
}
PASS = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
}
AUDIO = {
    "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500.0}},
    "2": {"class_type": "SaveAudioTensor", "inputs": {"audio": ["1", 0]}},
}


def picture(number: int) -> np.ndarray:
    """BITS blocks, lowest bit first, then two dark and two bright ones that show inversion."""
    bits = [number >> bit & 1 for bit in range(BITS)] + [0, 0, 1, 1]
    grid = np.array(bits, np.uint8).reshape(4, 4) * 160 + 48
    plane = np.kron(grid, np.ones((BLOCK, BLOCK), np.uint8))
    return np.repeat(plane[:, :, None], 3, axis=2)


@dataclass(frozen=True, slots=True)
class Returned:
    """One received picture: its number, whether it is inverted, its pts, its arrival."""

    number: int | None
    inverted: bool
    pts: int
    arrived_at: float
    size: tuple[int, int]


def read_picture(frame: av.VideoFrame) -> tuple[int | None, bool]:
    """The number drawn in a picture, and whether it is a negative; None if it is neither."""
    if (frame.width, frame.height) != (WIDTH, HEIGHT):
        return None, False
    grey = frame.to_ndarray(format="gray")
    grid = grey.reshape(4, BLOCK, 4, BLOCK).mean(axis=(1, 3)).reshape(-1)
    # Blocks are drawn at 48 and 208; the mean of noise is near the middle.
    if np.abs(grid - 128).min() < 40:
        return None, False
    bits = grid > 128
    marks = bits[BITS:].tolist()
    if marks not in ([False, False, True, True], [True, True, False, False]):
        return None, False
    inverted = marks[0]
    number = sum(int(bool(bit) != inverted) << index for index, bit in enumerate(bits[:BITS]))
    return number, inverted


class PictureTrack(MediaStreamTrack):
    """Sends pictures when told to."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.sent_at: dict[int, float] = {}
        self._queue: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def send(self, number: int, pts: int) -> None:
        self._queue.put_nowait((number, pts))

    async def recv(self) -> av.VideoFrame:
        number, pts = await self._queue.get()
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        frame.pts, frame.time_base = pts, TICKS
        self.sent_at[number] = time.monotonic()
        return frame


class ToneTrack(MediaStreamTrack):
    """48 kHz stereo, left and right at different levels, paced; `gate` cleared is a pause."""

    kind = "audio"
    LEFT, RIGHT = 8000, 2000

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self._pts = 0

    async def recv(self) -> av.AudioFrame:
        await self.gate.wait()
        await asyncio.sleep(0.02)
        phase = 2 * np.pi * 480 * (self._pts + np.arange(960)) / 48_000
        samples = np.empty(1920, np.int16)
        samples[0::2] = self.LEFT * np.sin(phase)
        samples[1::2] = self.RIGHT * np.sin(phase)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="stereo")
        frame.pts, frame.sample_rate, frame.time_base = self._pts, 48_000, Fraction(1, 48_000)
        self._pts += 960
        return frame


class Client:
    """One peer of a stand-in. Use `connect`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.video = PictureTrack()
        self.audio = ToneTrack()
        self.pictures: list[Returned] = []
        self.sounds: list[tuple[float, av.AudioFrame]] = []
        self.texts: list[dict[str, Any]] = []
        self.replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.control: RTCDataChannel | None = None
        self.connected = asyncio.Event()
        self.closed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._sent_in_step = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self.pc.on("track", self._on_track)
        self.pc.on("connectionstatechange", self._on_state)

    async def offer(
        self, *, video: bool = True, audio: bool = False, channels: Sequence[str] = ()
    ) -> RTCSessionDescription:
        """A local description with these media and channels."""
        if video:
            self.pc.addTrack(self.video)
        if audio:
            self.pc.addTrack(self.audio)
        for label in channels:
            channel = self.pc.createDataChannel(label)
            if label == "control":
                self.control = channel
                channel.on("open", self._open.set)
                channel.on("message", lambda text: self.replies.put_nowait(json.loads(text)))
            else:
                channel.on("message", self._on_text)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription

    async def accept(self, answer: dict[str, str]) -> None:
        """Take the server's answer and wait until connected."""
        await self.pc.setRemoteDescription(RTCSessionDescription(**answer))
        async with asyncio.timeout(TIMEOUT_S):
            await self.connected.wait()

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a control request and return the next reply."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._open.wait()
            assert self.control is not None
            self.control.send(json.dumps({"type": type, **fields}))
            return await self.replies.get()

    async def tell(self, text: str) -> None:
        """Send raw text on the control channel."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._open.wait()
        assert self.control is not None
        self.control.send(text)

    async def send_in_step(self, numbers: Sequence[int], pts: Sequence[int]) -> None:
        """Send pictures one by one, so that the server never holds two and drops none.

        A picture is let out of a jitter buffer by the first packet of the next: what returns for
        the first picture shows as packets after the second was sent, and from the third on every
        picture sent brings one back. Two stay under way, one in each jitter buffer.
        """
        for number, stamp in zip(numbers, pts, strict=True):
            before = len(self.pictures)
            self.video.send(number, stamp)
            self._sent_in_step += 1
            if self._sent_in_step == 2:
                await self._first_packet()
            elif self._sent_in_step > 2:
                await self.wait_pictures(before + 1)

    async def _first_packet(self) -> None:
        receiver = next(r for r in self.pc.getReceivers() if r.track.kind == "video")
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                for report in (await receiver.getStats()).values():
                    if report.type == "inbound-rtp" and report.packetsReceived:
                        return
                await asyncio.sleep(0.002)

    async def stream(self, numbers: Sequence[int], fps: float = 30.0) -> None:
        """Send pictures at a rate, whatever comes back."""
        started_at = time.monotonic()
        for index, number in enumerate(numbers):
            await asyncio.sleep(max(0.0, started_at + index / fps - time.monotonic()))
            self.video.send(number, number * STEP)

    async def wait_pictures(self, count: int, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until `count` pictures have returned in all."""
        await self._wait(lambda: len(self.pictures) >= count, timeout_s)

    async def wait_sounds(self, count: int, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until `count` audio frames have returned in all."""
        await self._wait(lambda: len(self.sounds) >= count, timeout_s)

    async def wait_texts(self, count: int, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until `count` messages have come on the data channel in all."""
        await self._wait(lambda: len(self.texts) >= count, timeout_s)

    async def _wait(self, reached: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not reached():
                self._arrived.clear()
                await self._arrived.wait()

    async def aclose(self) -> None:
        await self.pc.close()
        await cancel_and_wait(self._tasks)

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run something for as long as the client lives."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.start(self._drain(track))

    async def _drain(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                now = time.monotonic()
                if isinstance(frame, av.VideoFrame):
                    number, inverted = read_picture(frame)
                    size = (frame.width, frame.height)
                    self.pictures.append(Returned(number, inverted, frame.pts, now, size))
                else:
                    self.sounds.append((now, frame))
                self._arrived.set()

    def _on_text(self, text: str) -> None:
        self.texts.append(json.loads(text))
        self._arrived.set()

    def _on_state(self) -> None:
        if self.pc.connectionState == "connected":
            self.connected.set()
        elif self.pc.connectionState in ("closed", "failed"):
            self.closed.set()


async def until(
    standin: ComfyStreamStandIn,
    reached: Callable[[dict[str, Any]], bool],
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Look at a stand-in of this process until its state is as wanted."""
    async with asyncio.timeout(timeout_s):
        while True:
            state = standin.state()
            if reached(state):
                return state
            await asyncio.sleep(0.01)


async def post(url: str, path: str, body: Any) -> tuple[int, str, str]:
    """POST JSON; returns status, content type and text."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + path, json=body) as response,
    ):
        return response.status, response.content_type, await response.text()


async def get(url: str, path: str) -> tuple[int, str, str]:
    """GET; returns status, content type and text."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status, response.content_type, await response.text()


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """A client that is not connected yet, closed at the end."""
    peer = Client(url)
    try:
        yield peer
    finally:
        await peer.aclose()


@contextlib.asynccontextmanager
async def connect(
    url: str,
    prompts: Any = None,
    *,
    video: bool = True,
    audio: bool = False,
    channels: Sequence[str] = (),
) -> AsyncIterator[Client]:
    """A connected client, closed cleanly at the end."""
    async with client(url) as peer:
        offer = await peer.offer(video=video, audio=audio, channels=channels)
        body = {"offer": {"sdp": offer.sdp, "type": offer.type}, "prompts": prompts}
        status, _, text = await post(url, "/offer", body)
        assert status == 200, text
        await peer.accept(json.loads(text))
        yield peer


async def _stream_until_killed(url: str) -> None:
    async with connect(url, [INVERT], channels=["control", "data"]) as peer:
        numbers = range(1 << BITS)
        streaming = peer.start(peer.stream(numbers))
        await peer.wait_pictures(5)
        print("streaming", flush=True)  # noqa: T201 - read by the test that kills this process
        await streaming


if __name__ == "__main__":
    asyncio.run(_stream_until_killed(sys.argv[1]))
