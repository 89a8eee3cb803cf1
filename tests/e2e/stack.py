"""The whole path on loopback: trickle server, stand-in, relay, source and viewer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import av
from aiohttp import web

from demo import barcode
from demo.segment_writer import SourceChunk
from relay.api.keys import SESSIONS
from relay.config.settings import Settings
from relay.media.access_unit import AccessUnit, DecodedFrame
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from tests.standin_process import StandIn, standin_process
from trickle_relay_service import create_app

INVERT: list[dict[str, Any]] = [
    {
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
    }
]
DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """A frame of the output channel."""

    number: int | None
    """Read from its picture; None if that can't be read."""
    inverted: bool
    pts: int
    width: int
    height: int
    seen_at: float
    """By the monotonic clock, when it had been decoded."""


@dataclass
class Viewer:
    """Everything that came on a channel."""

    frames: list[SeenFrame] = field(default_factory=list)
    audio: list[AccessUnit] = field(default_factory=list)
    segments: list[bytes] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    async def wait_for(
        self, condition: Callable[[Viewer], bool], timeout_s: float = DEADLINE_S
    ) -> None:
        """Return once `condition` holds; it is tried after each frame."""
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    async def watch(self, url: str) -> None:
        """Read the channel to its end."""
        decoder = TrickleStreamDecoder(None, None)
        try:
            options = SubscriberOptions(wait_for_channel_s=DEADLINE_S)
            async with TrickleSubscriber(url, options=options) as subscriber:
                async for segment in subscriber:
                    data = bytearray()
                    async for chunk in segment:
                        data += chunk
                        self._take(await asyncio.to_thread(decoder.feed, bytes(chunk)))
                    self._take(await asyncio.to_thread(decoder.end_segment))
                    self.segments.append(bytes(data))
            self._take(list(decoder.flush()))
        finally:
            decoder.close()
            self.ended = True
            self.changed.set()

    def _take(self, items: list[DecodedFrame | AccessUnit]) -> None:
        for item in items:
            if isinstance(item, DecodedFrame):
                self.frames.append(_seen(item.frame, item.pts))
            else:
                self.audio.append(item)
        if items:
            self.changed.set()


def _seen(frame: av.VideoFrame, pts: int) -> SeenFrame:
    reading = barcode.read(frame)
    return SeenFrame(
        reading.number if reading else None,
        bool(reading and reading.inverted),
        pts,
        frame.width,
        frame.height,
        time.monotonic(),
    )


@dataclass
class Stack:
    """Addresses of the running parts, and the relay's API."""

    trickle: TrickleServer
    comfystream: StandIn
    relay_url: str
    http: aiohttp.ClientSession
    sessions: Any
    """The relay's own `SessionManager`, for tests that reach inside."""

    def channel(self, name: str) -> str:
        return f"{self.trickle.url.rstrip('/')}/{name}"

    async def call(self, method: str, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.request(method, self.relay_url + path, **request) as response:
            return response.status, await response.json()

    async def start(self, channel: str, **request: Any) -> str:
        """Start a session on a channel; returns its id."""
        body = {
            "input_stream_url": self.channel(channel),
            "comfystream_url": self.comfystream.url,
            "prompts": INVERT,
            **request,
        }
        status, answer = await self.call("POST", "/session/start", json=body)
        assert (status, answer["success"]) == (200, True), answer
        return str(answer["session_id"])

    async def status(self, session_id: str) -> dict[str, Any]:
        code, answer = await self.call("GET", f"/session/{session_id}/status")
        assert code == 200, answer
        session: dict[str, Any] = answer["session"]
        return session

    async def wait_for_status(
        self,
        session_id: str,
        condition: Callable[[dict[str, Any]], bool],
        timeout_s: float = DEADLINE_S,
    ) -> dict[str, Any]:
        """The first status that satisfies `condition`; the API is asked again and again."""
        async with asyncio.timeout(timeout_s):
            while not condition(status := await self.status(session_id)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return status


def left_out_before_server(status: dict[str, Any]) -> int:
    """Frames of the source that were not sent, for whatever reason."""
    queues = (status["frames_dropped"].get(name, {}) for name in ("coded_frames", "decoded_frames"))
    return sum(sum(reasons.values()) for reasons in queues)


def assert_every_frame_once_with_its_time(
    viewer: Viewer,
    pts_of: Callable[[int], int],
    last: int,
    status: dict[str, Any],
    server: dict[str, Any],
) -> None:
    """None twice, none out of order, none missing from the first seen to `last`, each with its
    source pts. A machine that stalls may cost frames, and then they must be accounted for:
    skipped by the relay and counted by it, or dropped in the server (which then mislabels what
    follows, until the relay's next audit) and counted by that.

    Args:
        pts_of: the source's pts of a frame number.
        status: the session's.
        server: the stand-in's state.
    """
    numbers = [frame.number for frame in viewer.frames if frame.number is not None]
    assert len(numbers) == len(viewer.frames), "a picture can't be read"
    assert numbers == sorted(set(numbers))
    dropped_inside = server["frames"]["replaced"]
    mistimed = [f for f in viewer.frames if f.number is not None and f.pts != pts_of(f.number)]
    assert dropped_inside or not mistimed, mistimed
    missing = set(range(numbers[0], last + 1)) - set(numbers)
    skipped = left_out_before_server(status) + status["processing"]["frames_abandoned"]
    assert len(missing) <= skipped + dropped_inside, (missing, status["frames_dropped"])


@asynccontextmanager
async def running_stack(
    *standin_arguments: str,
    trickle_options: ServerOptions | None = None,
    comfystream: StandIn | None = None,
    **settings: Any,
) -> AsyncIterator[Stack]:
    """Trickle server and relay in this process, the stand-in in its own.

    Args:
        comfystream: one that runs already; None starts one.
    """
    async with TrickleServer(host="127.0.0.1", port=0, options=trickle_options) as trickle:
        running = nullcontext(comfystream) if comfystream else standin_process(*standin_arguments)
        async with running as comfystream:
            settings.setdefault("comfystream_url", comfystream.url)
            # How busy the machine of the tests is decides nothing.
            quiet = {"segment_seconds": 0.5, "max_load": 0.0, "shed": False}
            app = create_app(Settings(**{**quiet, **settings}))
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                host, port = runner.addresses[0][:2]
                async with aiohttp.ClientSession() as http:
                    url = f"http://{host}:{port}"
                    yield Stack(trickle, comfystream, url, http, app[SESSIONS])
            finally:
                await runner.cleanup()


def held_open(chunks: Iterable[SourceChunk], seen: threading.Event) -> Iterator[SourceChunk]:
    """`chunks`, and no end before `seen`: a server keeps nothing of a channel that was deleted,
    which a relay without CPU may be seconds behind of."""
    yield from chunks
    seen.wait(40)


@asynccontextmanager
async def in_background(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks that are cancelled at the end if they still run, and must not have failed."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
