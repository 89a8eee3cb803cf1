"""Sound against picture on a channel of the test pattern, as a viewer gets it.

The pattern flashes and beeps together on every whole second. Both are decoded here: the flash is
the pts of the first bright picture, the beep that of the first sample that is heard.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo import barcode
from demo.picture import TestCard
from demo.test_pattern import PatternOptions
from relay.media.access_unit import CLOCK_RATE, AccessUnit, DecodedFrame, MediaKind
from relay.media.audio_decoder import AudioDecoder
from relay.media.decoder import VideoDecoder
from relay.media.demuxer import TsDemuxer
from relay.trickle.errors import ChannelClosedError, ChannelNotFoundError
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

HEARD = 0.05
"""Of full scale; the beep has 0.3, and rises to it within 2 ms."""
QUIET_S = 0.2
PAIRED_WITHIN_S = 0.5


@dataclass
class SyncFigures:
    """What was seen and heard."""

    offsets: list[tuple[int, float]] = field(default_factory=list)
    """Pts of each flash, and how much later its beep is, in ms."""
    flashes_cut: int = 0
    """Flashes whose first picture, or the one before, did not come through, or not in time."""
    pictures_mistimed: int = 0
    """Pictures whose number says another time than their pts (ComfyStream dropped some inside and
    kept their labels, until the relay found out)."""
    flashes: int = 0
    beeps: int = 0
    pictures: int = 0
    audio_units: int = 0
    audio_gaps: int = 0
    """Units that do not follow the one before to the tick."""
    lags_ms: list[float] = field(default_factory=list)
    """How far sound lies behind the newest picture in the channel, unit by unit."""

    def summary(self) -> dict[str, Any]:
        """Plain values, in ms."""
        values = [offset for _, offset in self.offsets]
        tenth = max(1, len(values) // 10)
        spread = {}
        if values:
            ordered = sorted(abs(v) for v in values)
            spread = {
                "median": round(statistics.median(values), 3),
                "least": round(min(values), 3),
                "most": round(max(values), 3),
                "worst_abs": round(ordered[-1], 3),
                "first_tenth": round(statistics.median(values[:tenth]), 3),
                "last_tenth": round(statistics.median(values[-tenth:]), 3),
                "drift": round(
                    statistics.median(values[-tenth:]) - statistics.median(values[:tenth]), 3
                ),
            }
        lags = sorted(self.lags_ms)
        return {
            "pairs": len(values),
            "offset_ms": spread,
            "flashes": self.flashes,
            "flashes_cut": self.flashes_cut,
            "pictures_mistimed": self.pictures_mistimed,
            "beeps": self.beeps,
            "pictures": self.pictures,
            "audio_units": self.audio_units,
            "audio_gaps": self.audio_gaps,
            "sound_behind_picture_ms": {
                f"p{q}": round(lags[round((len(lags) - 1) * q / 100)], 1) for q in (50, 99, 100)
            }
            if lags
            else {},
        }


class SyncProbe:
    """Reads a channel to its end, or until it is cancelled.

    Args:
        width, height, fps: of its pictures.
        settle_s: media time from the first picture on that is not looked at.
    """

    def __init__(
        self, url: str, width: int, height: int, fps: Fraction, settle_s: float = 3.0
    ) -> None:
        self.figures = SyncFigures()
        self.first_picture = asyncio.Event()
        self._url = url
        self._settle_ticks = round(settle_s * CLOCK_RATE)
        self._flash_area = _flash_area(width, height)
        self._source = PatternOptions(width, height, fps)
        self._video = VideoDecoder()
        self._audio = AudioDecoder()
        self._from_pts: int | None = None
        self._last_picture: tuple[int, bool] | None = None
        self._interval = CLOCK_RATE
        self._last_unit: tuple[int, int] | None = None
        self._quiet_since: float | None = None
        self._newest_picture: int | None = None
        self._flashes: deque[int] = deque(maxlen=16)
        self._beeps: deque[float] = deque(maxlen=16)

    async def run(self) -> None:
        """Follow the channel."""
        demuxer = TsDemuxer()
        loop = asyncio.get_running_loop()
        options = SubscriberOptions(wait_for_channel_s=60.0)
        with ThreadPoolExecutor(1, "av-sync") as thread:
            with suppress(ChannelClosedError, ChannelNotFoundError):
                async with TrickleSubscriber(self._url, options=options) as subscriber:
                    async for segment in subscriber:
                        async for data in segment:
                            units = demuxer.feed(data, time.monotonic())
                            await loop.run_in_executor(thread, self._take, units)
                            if self._from_pts is not None:
                                self.first_picture.set()
                        units = demuxer.segment_boundary(time.monotonic())
                        await loop.run_in_executor(thread, self._take, units)

    def _take(self, units: list[AccessUnit]) -> None:
        for unit in units:
            if unit.stream.kind is MediaKind.VIDEO:
                self._newest_picture = unit.pts
                for picture in self._video.decode(unit):
                    self._look_at(picture)
            elif unit.stream.kind is MediaKind.AUDIO and self._from_pts is not None:
                self._hear(unit)

    def _look_at(self, picture: DecodedFrame) -> None:
        luma = barcode.luma_view(picture.frame.planes[0])[:, : picture.frame.width]
        rows, columns = self._flash_area
        reading = barcode.read(picture.frame)
        inverted = bool(reading and reading.inverted)
        bright = (float(luma[rows, columns].mean()) > 128) != inverted
        in_time = reading is None or picture.pts == self._source.pts(reading.number)
        self._see(picture.pts, bright, in_time)

    def _see(self, pts: int, bright: bool, in_time: bool) -> None:
        figures, last = self.figures, self._last_picture
        self._last_picture = (pts, bright)
        if self._from_pts is None:
            self._from_pts = pts + self._settle_ticks
        if last is None or pts < self._from_pts:
            return
        figures.pictures += 1
        figures.pictures_mistimed += not in_time
        step = pts - last[0]
        self._interval = min(self._interval, step) if step > 0 else self._interval
        if bright and not last[1]:
            figures.flashes += 1
            if step > 1.5 * self._interval or not in_time:
                figures.flashes_cut += 1
            else:
                self._flashes.append(pts)
                self._pair()

    def _hear(self, unit: AccessUnit) -> None:
        assert self._from_pts is not None
        figures = self.figures
        for pcm in self._audio.decode(unit):
            length = round(pcm.frame.samples * CLOCK_RATE / pcm.frame.sample_rate)
            if self._last_unit is not None and pcm.pts >= self._from_pts:
                figures.audio_units += 1
                figures.audio_gaps += abs(pcm.pts - sum(self._last_unit)) > 1
                if self._newest_picture is not None:
                    figures.lags_ms.append((self._newest_picture - pcm.pts) / 90)
            self._last_unit = (pcm.pts, length)
            self._find_beep(pcm.pts, _left_channel(pcm.frame), pcm.frame.sample_rate)

    def _find_beep(self, pts: int, samples: NDArray[np.float64], rate: int) -> None:
        loud = np.flatnonzero(np.abs(samples) > HEARD)
        if self._quiet_since is None:
            self._quiet_since = pts
        if not len(loud):
            return
        assert self._from_pts is not None
        begins = pts + float(loud[0]) * CLOCK_RATE / rate
        if begins - self._quiet_since > QUIET_S * CLOCK_RATE and begins >= self._from_pts:
            self.figures.beeps += 1
            self._beeps.append(begins)
            self._pair()
        self._quiet_since = pts + float(loud[-1]) * CLOCK_RATE / rate

    def _pair(self) -> None:
        for flash in list(self._flashes):
            for beep in list(self._beeps):
                if abs(beep - flash) < PAIRED_WITHIN_S * CLOCK_RATE:
                    self.figures.offsets.append((flash, (beep - flash) / 90))
                    self._flashes.remove(flash)
                    self._beeps.remove(beep)
                    break


def _flash_area(width: int, height: int) -> tuple[slice, slice]:
    """Where the two pictures differ that have the flash and have it not; the middle of it."""
    card, now = TestCard(width, height), datetime(2024, 1, 1)
    with_flash, without = (
        np.array(barcode.luma_view(card.draw(0, 0.0, now, flash=flash).planes[0])[:, :width])
        for flash in (True, False)
    )
    rows, columns = np.nonzero(with_flash != without)
    return _middle(rows), _middle(columns)


def _middle(indices: NDArray[np.intp]) -> slice:
    low, high = int(indices.min()), int(indices.max()) + 1
    quarter = (high - low) // 4
    return slice(low + quarter, high - quarter)


def _left_channel(frame: Any) -> NDArray[np.float64]:
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    scale = 32768.0 if array.dtype == np.int16 else 1.0
    return np.asarray(array[0], np.float64) / scale
