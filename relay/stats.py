"""Small rolling figures for the status: rates and percentiles over the last seconds."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any


class RateMeter:
    """Events per second over a sliding window.

    Args:
        window_s: how far back it looks; also bounded by `capacity` events.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        window_s: float = 2.0,
        capacity: int = 512,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.window_s = window_s
        self.total = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        """When the last event was, by the clock."""
        self._clock = clock
        self._times: deque[float] = deque(maxlen=capacity)

    def tick(self) -> None:
        now = self.last_at = self._clock()
        if not self.total:
            self.first_at = now
        self.total += 1
        self._times.append(now)

    @property
    def rate(self) -> float:
        """Events per second; 0.0 until there were two."""
        now = self._clock()
        while self._times and self._times[0] < now - self.window_s:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        # Between the first and the last event when they flow; up to now once they have stopped.
        interval = self._times[-1] - self._times[0]
        mean_gap = interval / (len(self._times) - 1)
        silence = now - self._times[-1]
        span = interval + max(0.0, silence - mean_gap)
        return (len(self._times) - 1) / span if span > 0 else 0.0

    @property
    def age_s(self) -> float | None:
        """Seconds since the last event; None if there was none."""
        return self._clock() - self.last_at if self.last_at is not None else None

    @property
    def first_age_s(self) -> float | None:
        """Seconds since the first event; None if there was none."""
        return self._clock() - self.first_at if self.first_at is not None else None


BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds, inclusive, of a histogram's buckets; one without a bound follows."""


class Histogram:
    """Durations since the start, by size."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def add_all(self, other: Histogram) -> None:
        """Everything that `other` holds."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s


class DelayMeter:
    """Percentiles of a duration over the last seconds, and a histogram of all.

    Args:
        window_s: how far back it looks; also bounded by `capacity` samples.
    """

    def __init__(
        self,
        window_s: float = 10.0,
        capacity: int = 1200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.window_s = window_s
        self._clock = clock
        self._times: deque[float] = deque(maxlen=capacity)
        self._values: deque[float] = deque(maxlen=capacity)
        """The samples, and when each was added."""
        self.histogram = Histogram()

    def add(self, seconds: float) -> None:
        self.histogram.add(seconds)
        self._times.append(self._clock())
        self._values.append(seconds)

    def percentiles_ms(self) -> dict[str, float] | None:
        """``{"p50", "p95", "p99"}`` in milliseconds, or None without a sample."""
        horizon = self._clock() - self.window_s
        while self._times and self._times[0] < horizon:
            self._times.popleft()
            self._values.popleft()
        if not self._values:
            return None
        values = sorted(self._values)
        return {f"p{q}": round(percentile(values, q) * 1000, 2) for q in (50, 95, 99)}


class MinuteMeter:
    """Events of each second of the last minute, in the shape of ComfyStream's `/streams/stats`.

    Args:
        clock: seconds, monotonic.
    """

    SECONDS = 60

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_at: float | None = None
        self._counts: deque[tuple[int, int]] = deque(maxlen=self.SECONDS + 1)
        """Whole seconds since the first event, with their events; those without are left out, and
        so is the one that events come in now."""
        self._second = 0
        self._events = 0
        """Of that second."""

    def tick(self) -> None:
        second = self._now()
        if second != self._second:
            self._counts.append((self._second, self._events))
            self._second, self._events = second, 0
        self._events += 1

    def report(self) -> dict[str, Any]:
        """``timestamp`` (seconds since the first event), ``fps`` (of the last whole second),
        ``minute_avg_fps``, and ``minute_fps_array`` with a ``timestamp`` and ``fps`` for each
        whole second of the last minute."""
        now = self._now() if self._first_at is not None else 0
        counts = dict([*self._counts, (self._second, self._events)])
        rates = [
            {"timestamp": float(second + 1), "fps": float(counts.get(second, 0))}
            for second in range(max(0, now - self.SECONDS), now)
        ]
        fps = [rate["fps"] for rate in rates]
        return {
            "timestamp": float(now),
            "fps": fps[-1] if fps else 0.0,
            "minute_avg_fps": sum(fps) / len(fps) if fps else 0.0,
            "minute_fps_array": rates,
        }

    def _now(self) -> int:
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
        return int(now - self._first_at)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value that so many of a hundred are below; 0.0 of none.

    Args:
        ordered: the values, the smallest first.
    """
    return ordered[round((len(ordered) - 1) * percent / 100)] if ordered else 0.0
