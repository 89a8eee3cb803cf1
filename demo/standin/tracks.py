"""The tracks that a connection sends back: straight from the peer, or through the pipeline.

An exception out of ``recv`` ends the sender for the rest of the connection, and nothing tells
the peer: that is how a ComfyStream's video dies while the connection stays "connected".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from demo.standin.faults import FaultBoard
from demo.standin.return_path import ReturnPath
from demo.standin.stats import FpsMeter
from demo.standin.stream_media import StreamMedia

logger = logging.getLogger(__name__)

Media = av.VideoFrame | av.AudioFrame | av.Packet


class ReturnTrack(MediaStreamTrack):
    """What both modes share: where frames come from and what happens on their way back.

    Args:
        source: the track received from the peer.
        path: the faults on the way back.
    """

    def __init__(self, source: MediaStreamTrack, path: ReturnPath) -> None:
        super().__init__()
        self.kind = source.kind
        self.source = source
        self.path = path
        self.received = 0

    @property
    def fps(self) -> float | None:
        """Frames a second, where they are measured and once they are."""
        return None

    async def recv(self) -> Media:
        """The next frame to send, in the peer's own pts and time base."""
        while True:
            frame = await self._next()
            if frame is None:
                continue
            returned = (
                self.path.video(frame)
                if isinstance(frame, av.VideoFrame)
                else self.path.audio(frame)
            )
            if returned is not None:
                return returned

    async def _next(self) -> av.VideoFrame | av.AudioFrame | None:
        raise NotImplementedError


class NoopTrack(ReturnTrack):
    """Returns what it receives, and dies when nothing comes for `timeout_s`."""

    def __init__(
        self, source: MediaStreamTrack, path: ReturnPath, board: FaultBoard, timeout_s: float
    ) -> None:
        super().__init__(source, path)
        self._board = board
        self._timeout_s = timeout_s

    async def drain(self) -> None:
        """Read on when there is nobody to send to."""
        async for _ in frames(self.source):
            self.received += 1

    async def _next(self) -> av.VideoFrame | av.AudioFrame | None:
        async with asyncio.timeout(self._timeout_s):
            frame = await self.source.recv()
        self.received += 1
        if self.kind == "video" and self._board.drops_input(self.received):
            return None
        return frame


class PipelineTrack(ReturnTrack):
    """Feeds the pipeline from the peer, and takes from it whatever is next."""

    def __init__(self, source: MediaStreamTrack, path: ReturnPath, media: StreamMedia) -> None:
        super().__init__(source, path)
        self._media = media

    async def collect(self) -> None:
        """Put everything received into the pipeline, until the peer's track ends."""
        async for frame in frames(self.source):
            self.received += 1
            self._put(frame)

    def _put(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        raise NotImplementedError


class PipelineVideoTrack(PipelineTrack):
    """Video through the pipeline, with the rate at which it leaves it."""

    def __init__(
        self, source: MediaStreamTrack, path: ReturnPath, media: StreamMedia, board: FaultBoard
    ) -> None:
        super().__init__(source, path, media)
        self.fps_meter = FpsMeter()
        self._board = board

    @property
    def fps(self) -> float | None:
        return self.fps_meter.fps or None

    def _put(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        self._media.put_video_frame(frame, lost=self._board.drops_input(self.received))

    async def _next(self) -> av.VideoFrame:
        frame = await self._media.processed_video_frame()
        self.fps_meter.count()
        return frame


class PipelineAudioTrack(PipelineTrack):
    """Audio through the pipeline."""

    def _put(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        self._media.put_audio_frame(frame)

    async def _next(self) -> av.AudioFrame:
        return await self._media.processed_audio_frame()


async def frames(source: MediaStreamTrack) -> AsyncIterator[av.VideoFrame | av.AudioFrame]:
    """Everything received until the peer's track ends."""
    with contextlib.suppress(MediaStreamError):
        while True:
            yield await source.recv()


async def drain(source: MediaStreamTrack) -> None:
    """Throw away a track that nobody uses; aiortc would keep every decoded frame."""
    async for _ in frames(source):
        pass
