"""Small rolling figures for the status: rates and percentiles over the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class RateMeter:
    """Events per second over a sliding window.

    Args:
        window_s: how far back it looks.
        clock: seconds, monotonic.
    """

    def __init__(self, window_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.window_s = window_s
        self.total = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        """When the last event was, by the clock."""
        self._clock = clock
        self._times: deque[float] = deque()

    def tick(self) -> None:
        now = self._clock()
        self.total += 1
        if self.first_at is None:
            self.first_at = now
        self.last_at = now
        self._times.append(now)
        self._forget(now)

    @property
    def rate(self) -> float:
        """Events per second; 0.0 until there were two."""
        now = self._clock()
        self._forget(now)
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

    def _forget(self, now: float) -> None:
        horizon = now - self.window_s
        while self._times and self._times[0] < horizon:
            self._times.popleft()


class DelayMeter:
    """Percentiles of a duration over the last seconds.

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
        self._samples: deque[tuple[float, float]] = deque(maxlen=capacity)

    def add(self, seconds: float) -> None:
        self._samples.append((self._clock(), seconds))

    def percentiles_ms(self) -> dict[str, float] | None:
        """``{"p50", "p95", "p99"}`` in milliseconds, or None without a sample."""
        horizon = self._clock() - self.window_s
        values = sorted(value for at, value in self._samples if at >= horizon)
        if not values:
            return None
        last = len(values) - 1
        return {f"p{q}": round(values[round(last * q / 100)] * 1000, 2) for q in (50, 95, 99)}
