"""Frame rates as ComfyStream's ``/streams/stats`` and ``/metrics`` give them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

INTERVAL_S = 1.0
KEPT_MEASUREMENTS = 60


class FpsMeter:
    """Frames a second, measured once a second from the first frame on."""

    def __init__(self) -> None:
        self.fps = 0.0
        self._frames = 0
        self._first_frame = asyncio.Event()
        self._started_at: float | None = None
        self._measured_at: float | None = None
        self._measurements: deque[dict[str, float]] = deque(maxlen=KEPT_MEASUREMENTS)

    def count(self) -> None:
        """One more frame left."""
        self._frames += 1
        self._first_frame.set()

    async def run(self) -> None:
        """Measure until cancelled."""
        await self._first_frame.wait()
        self._started_at = time.monotonic()
        while True:
            now = time.monotonic()
            if self._measured_at is not None:
                self.fps = self._frames / (now - self._measured_at)
                self._measurements.append({"timestamp": now - self._started_at, "fps": self.fps})
            self._measured_at = now
            self._frames = 0
            await asyncio.sleep(INTERVAL_S)

    def report(self) -> dict[str, Any]:
        """The object ``/stream/{id}/stats`` answers; times in seconds since the first frame."""
        rates = [measurement["fps"] for measurement in self._measurements]
        if self._measured_at is None or self._started_at is None:
            timestamp = 0.0
        else:
            timestamp = self._measured_at - self._started_at
        return {
            "timestamp": timestamp,
            "fps": self.fps,
            "minute_avg_fps": sum(rates) / len(rates) if rates else self.fps,
            "minute_fps_array": list(self._measurements),
        }


class StreamGauge:
    """The Prometheus gauge of ``--monitor``: streams that ended stay in it at 0."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}

    def set(self, stream_id: str, fps: float) -> None:
        self._rates[stream_id] = fps

    def exposition(self) -> str:
        """Text format 0.0.4."""
        lines = [
            "# HELP stream_fps Frames per second of the stream",
            "# TYPE stream_fps gauge",
            *(f'stream_fps{{stream_id="{key}"}} {fps}' for key, fps in self._rates.items()),
        ]
        return "\n".join(lines) + "\n"
