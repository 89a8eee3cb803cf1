"""Reads a session's input and output channel side by side and tells what became of each frame.

One process, one clock, one reader for both: a frame's delay is the time from its last byte on
the input channel to its last byte on the output channel. Pictures are decoded on a thread of
their own, so that looking at them does not delay the stamps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import av
import structlog

from demo import barcode
from demo.barcode import Reading
from demo.frame_tally import FrameTally
from relay.media.access_unit import AccessUnit, MediaKind
from relay.media.decoder import padded_packet
from relay.media.demuxer import TsDemuxer
from relay.queues import MediaQueue, QueueClosed
from relay.stats import DelayMeter, RateMeter
from relay.tasks import cancel_and_wait
from relay.trickle.errors import ChannelClosedError, ChannelNotFoundError
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

log = structlog.get_logger(__name__)

ArrivalCallback = Callable[[int, float], object]
PictureCallback = Callable[[int, Reading | None], None]

_UNDECODED_CAPACITY = 300
"""Ten seconds; a prober that falls that far behind skips to the newest keyframe."""
_KEPT_CAPACITY = 100_000
"""Pictures kept to be looked at in the end: about 1 GB at the very most, 12 MB for a minute."""


class ChannelProbe:
    """One channel: when the last byte of each frame came, and what its picture says.

    Args:
        url: of the channel.
        on_frame: called with pts and arrival time of each picture, on the event loop.
        on_audio: the same for each PES packet of audio.
        on_picture: called with a picture's pts and reading, later; None decodes nothing.
        pictures_last: decode only when the reading is over, so that it costs the machine nothing
            while it is measured.
        wait_for_channel_s: how long the channel may take to appear.
    """

    def __init__(
        self,
        url: str,
        on_frame: ArrivalCallback,
        on_audio: ArrivalCallback,
        on_picture: PictureCallback | None = None,
        *,
        pictures_last: bool = False,
        wait_for_channel_s: float = 60.0,
    ) -> None:
        self.url = url
        self.frames = RateMeter()
        self.damaged = 0
        self._on_frame = on_frame
        self._on_audio = on_audio
        self._on_picture = on_picture
        self._options = SubscriberOptions(wait_for_channel_s=wait_for_channel_s)
        self._pictures_last = pictures_last
        self._stopped = asyncio.Event()
        self._undecoded: MediaQueue[AccessUnit] = MediaQueue(
            "undecoded", _KEPT_CAPACITY if pictures_last else _UNDECODED_CAPACITY
        )

    def stop(self) -> None:
        """Read no further; `run` returns when the pictures read so far are decoded."""
        self._stopped.set()

    async def run(self) -> None:
        """Follow the channel to its end, or until `stop`.

        Raises:
            TrickleError: it can't be read.
        """
        async with asyncio.TaskGroup() as tasks:
            if self._on_picture is not None:
                tasks.create_task(self._decode(self._on_picture))
            try:
                await self._read_until_stopped()
            finally:
                self._undecoded.close()

    async def _read_until_stopped(self) -> None:
        reading = asyncio.create_task(self._read())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            await cancel_and_wait([reading, stopped])

    async def _read(self) -> None:
        demuxer = TsDemuxer()
        with suppress(ChannelClosedError, ChannelNotFoundError):
            async with TrickleSubscriber(self.url, options=self._options) as subscriber:
                async for segment in subscriber:
                    async for data in segment:
                        self._take(demuxer.feed(data, time.monotonic()))
                    self._take(demuxer.segment_boundary(time.monotonic()))

    def _take(self, units: list[AccessUnit]) -> None:
        for unit in units:
            if unit.stream.kind is MediaKind.AUDIO:
                self._on_audio(unit.pts, unit.arrived_at)
            elif unit.stream.kind is MediaKind.VIDEO:
                self.frames.tick()
                self.damaged += unit.damaged
                self._on_frame(unit.pts, unit.arrived_at)
                if self._on_picture is not None:
                    self._undecoded.put_nowait(unit)

    async def _decode(self, on_picture: PictureCallback) -> None:
        if self._pictures_last:
            await self._undecoded.wait_closed()
        loop = asyncio.get_running_loop()
        reader = _PictureReader()
        with ThreadPoolExecutor(1, thread_name_prefix="probe") as thread, suppress(QueueClosed):
            dropped = 0
            while True:
                unit = await self._undecoded.get()
                if self._undecoded.dropped.total() != dropped and not unit.keyframe:
                    continue
                dropped = self._undecoded.dropped.total()
                for pts, reading in await loop.run_in_executor(thread, reader.read, unit):
                    on_picture(pts, reading)


class _PictureReader:
    """A decoder of the probe's own, and the barcodes of its pictures."""

    def __init__(self) -> None:
        self._decoder = av.CodecContext.create("h264", "r")
        self._decoder.thread_count = 1

    def read(self, unit: AccessUnit) -> list[tuple[int, Reading | None]]:
        packet = padded_packet(unit.data)
        packet.pts, packet.dts = unit.pts, unit.dts
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            return []
        return [(frame.pts, barcode.read(frame)) for frame in frames if frame.pts is not None]


class OutputProbe:
    """A session's input and output channel, compared.

    Args:
        input_url: the channel the relay reads.
        output_url: the channel it writes.
        read_pictures: decode both and compare the numbers drawn in them.
        pictures_last: see `ChannelProbe`.
        warm_up_s: see `FrameTally`.
    """

    def __init__(
        self,
        input_url: str,
        output_url: str,
        *,
        read_pictures: bool = True,
        pictures_last: bool = False,
        warm_up_s: float = 0.0,
    ) -> None:
        self.tally = FrameTally(warm_up_s)
        self.recent_delay = DelayMeter(window_s=5.0)
        self.audio = FrameTally(warm_up_s)
        self.input = ChannelProbe(
            input_url,
            self.tally.on_input,
            self.audio.on_input,
            self.tally.on_input_picture if read_pictures else None,
            pictures_last=pictures_last,
        )
        self.output = ChannelProbe(
            output_url,
            self._on_output,
            self.audio.on_output,
            self.tally.on_output_picture if read_pictures else None,
            pictures_last=pictures_last,
        )
        self.first_output = asyncio.Event()
        """Set once a frame of the input is on the output."""

    def stop(self) -> None:
        """Read no further; `run` returns when what was read has been compared."""
        self.input.stop()
        self.output.stop()

    async def run(self) -> None:
        """Follow both channels until both have ended, or `stop` was called.

        Raises:
            TrickleError: one can't be read.
        """
        async with asyncio.TaskGroup() as probes:
            probes.create_task(self.input.run())
            probes.create_task(self.output.run())

    def _on_output(self, pts: int, at: float) -> None:
        delay_s = self.tally.on_output(pts, at)
        if delay_s is not None:
            self.first_output.set()
            self.recent_delay.add(delay_s)
