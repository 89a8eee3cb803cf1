"""Many live channels in this process, and what became of every frame on them.

The trickle server is here, too: a frame is stamped when it is put onto its input channel and when
its last byte has come to the output channel, by one clock and without another hop. Bytes are all
that is looked at, so that a frame costs this side a fraction of what it costs the relay.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from bench.looped_clip import PTS_MODULUS, LoopedClip
from relay.media.access_unit import MediaKind
from relay.media.demuxer import TsDemuxer
from relay.stats import percentile
from relay.tasks import cancel_and_wait
from relay.trickle.channel import Channel, ChannelEnded, NotInWindow, SegmentClaim
from relay.trickle.segment_buffer import ReadersDropped, SegmentReader
from relay.trickle.server import TrickleServer

GRACE_S = 1.0
"""A frame that has not come out so long after the measuring is lost."""
_KEPT_FRAMES = 1000
_GOLDEN = 0.6180339887
"""Multiples of it modulo 1 are spread evenly however many there are: sources that have nothing to
do with each other don't send at the same moment, nor keyframes within the same one."""


@dataclass(slots=True)
class Delivery:
    """What became of the frames of some channels."""

    delays_ms: list[float] = field(default_factory=list)
    lost: int = 0
    wrong: int = 0
    """Came twice, or under a time that no frame has."""

    @property
    def p99_ms(self) -> float:
        return percentile(sorted(self.delays_ms), 99)


class LoadedChannel:
    """One source, the channel that its session writes, and the frames between the two."""

    def __init__(self, number: int, server: TrickleServer, phase_s: float, ahead: int) -> None:
        self.name = f"live-{number}"
        self.input_url = f"{server.url}{self.name}"
        self.output_url = f"{server.url}{self.name}-processed"
        self.phase_s = phase_s
        """After the beginning of each frame's interval."""
        self.ahead = ahead
        """By how many frames of the clip the source is ahead of the first."""
        self.first_output = asyncio.Event()
        self._server = server
        self._input = server.create_channel(self.name)
        self._output = server.create_channel(f"{self.name}-processed")
        self._segment: SegmentClaim | None = None
        self._ended = False
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._delivery = Delivery()
        self._from = self._to = float("inf")
        self._reading = asyncio.create_task(self._read(self._output))

    def send(self, data: bytes, pts: int, *, starts_segment: bool) -> None:
        """Put a frame onto the input; nothing before the first segment, nor after the end."""
        if self._ended:
            return
        if starts_segment:
            if self._segment is not None:
                self._segment.finish()
            self._segment = self._input.claim(-1)
        if self._segment is None:
            return
        self._sent[pts] = time.monotonic()
        if len(self._sent) > _KEPT_FRAMES:
            self._settle(self._sent.popitem(last=False)[1])
        self._segment.append(data)

    def begin(self) -> None:
        """Measure the frames that are sent from now on."""
        self._delivery = Delivery()
        self._from, self._to = time.monotonic(), float("inf")

    def end(self) -> None:
        """No later ones."""
        self._to = time.monotonic()

    def delivery(self) -> Delivery:
        """Of those that were measured; what is not back now is lost."""
        for sent_at in self._sent.values():
            self._settle(sent_at)
        self._from = float("inf")
        return self._delivery

    async def aclose(self) -> None:
        """End both channels, and whoever reads or writes them."""
        self._ended = True
        await cancel_and_wait([self._reading])
        self._server.delete_channel(self.name)
        self._server.delete_channel(f"{self.name}-processed")

    async def _read(self, channel: Channel) -> None:
        demuxer = TsDemuxer()
        number = 0
        while True:
            try:
                buffer = await channel.segment(number)
            except NotInWindow:
                number = max(number + 1, channel.oldest)
                continue
            except ChannelEnded:
                return
            reader = SegmentReader(buffer)
            try:
                while data := await reader.read():
                    for unit in demuxer.feed(data, time.monotonic()):
                        if unit.stream.kind is MediaKind.VIDEO:
                            self._received(unit.pts % PTS_MODULUS, unit.arrived_at)
                demuxer.segment_boundary(time.monotonic())
            except ReadersDropped:
                return
            finally:
                reader.leave()
            number += 1

    def _received(self, pts: int, at: float) -> None:
        self.first_output.set()
        sent_at = self._sent.pop(pts, None)
        if sent_at is None:
            self._delivery.wrong += 1
        elif self._from <= sent_at < self._to:
            self._delivery.delays_ms.append((at - sent_at) * 1000)

    def _settle(self, sent_at: float) -> None:
        self._delivery.lost += self._from <= sent_at < self._to


class CapacityLoad:
    """Sources, trickle server and viewers. Use it as a context manager.

    Args:
        clip: what every source sends.
    """

    def __init__(self, clip: LoopedClip) -> None:
        self.channels: list[LoadedChannel] = []
        self.late_s = 0.0
        """The furthest that a source was behind its time since the measuring began."""
        self._clip = clip
        self._made = 0
        self._server = TrickleServer()
        self._feeding: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CapacityLoad:
        await self._server.start()
        self._feeding = asyncio.create_task(self._feed())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._feeding is not None:
            await cancel_and_wait([self._feeding])
        while self.channels:
            await self.remove()
        await self._server.aclose()

    def add(self) -> LoadedChannel:
        """A source more; it begins with the next second."""
        spread = self._made * _GOLDEN % 1
        ahead = int(spread * self._clip.fps)  # of a segment's second
        channel = LoadedChannel(self._made, self._server, spread / self._clip.fps, ahead)
        self._made += 1
        self.channels.append(channel)
        return channel

    async def remove(self) -> None:
        """End the source that came last."""
        await self.channels.pop().aclose()

    async def measure(self, seconds: float) -> list[Delivery]:
        """What becomes of the frames of the next seconds, a channel at a time."""
        self.late_s = 0.0
        for channel in self.channels:
            channel.begin()
        await asyncio.sleep(seconds)
        for channel in self.channels:
            channel.end()
        await asyncio.sleep(GRACE_S)
        return [channel.delivery() for channel in self.channels]

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        began_at, number = loop.time(), 0
        while True:
            interval_at = began_at + number / self._clip.fps
            for channel in sorted(self.channels, key=lambda one: one.phase_s):
                late_s = loop.time() - interval_at - channel.phase_s
                self.late_s = max(self.late_s, late_s)
                if late_s < 0:
                    await asyncio.sleep(-late_s)
                frame = self._clip.frame(number + channel.ahead)
                channel.send(frame.data, frame.pts, starts_segment=frame.starts_segment)
            number += 1
            await asyncio.sleep(began_at + number / self._clip.fps - loop.time())
