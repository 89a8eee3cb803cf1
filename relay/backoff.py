"""When to ask again: jittered backoff, a time budget, a limit on fruitless requests.

Pure: clocks and randomness come from outside, nothing here waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator


def backoff_delays(
    initial_s: float = 0.1,
    maximum_s: float = 3.0,
    factor: float = 2.0,
    random_source: Callable[[], float] = random.random,
) -> Iterator[float]:
    """Endless waiting times in seconds, growing from `initial_s` to `maximum_s`.

    Each is shortened by up to half at random, so that many clients of one failed server don't
    return in step.
    """
    delay_s = initial_s
    while True:
        yield delay_s * (1.0 - random_source() / 2)
        delay_s = min(delay_s * factor, maximum_s)


class RetryBudget:
    """How long failures may go on before they are an error.

    Time is what a live stream has, so the budget is seconds since the first failure in a row,
    not a number of attempts.

    Args:
        budget_s: how long failures in a row are retried.
        delays: makes the waiting times of one row of failures.
    """

    def __init__(
        self, budget_s: float, delays: Callable[[], Iterator[float]] = backoff_delays
    ) -> None:
        self.budget_s = budget_s
        self._make_delays = delays
        self._delays: Iterator[float] | None = None
        self._failing_since: float | None = None

    def failed(self, now: float) -> float | None:
        """Note a failure at `now` (monotonic seconds).

        Returns:
            Seconds to wait before the next attempt, or None if the budget is used up.
        """
        if self._delays is None or self._failing_since is None:
            self._delays = self._make_delays()
            self._failing_since = now
        remaining_s = self._failing_since + self.budget_s - now
        if remaining_s <= 0:
            return None
        return min(next(self._delays), remaining_s)

    def succeeded(self) -> None:
        """A useful answer: the next failure begins a new row."""
        self._delays = None
        self._failing_since = None


class FruitlessPacer:
    """Keeps requests that bring nothing from becoming a hot loop.

    Empty segments, segments we already had and refusals come back at once, so a subscriber that
    simply went on would spin. A few in a row are free, after that they are spaced.

    Args:
        free: requests in a row that may follow one another at once.
        interval_s: the least time between two requests after that.
    """

    def __init__(self, free: int = 3, interval_s: float = 0.15) -> None:
        self.free = free
        self.interval_s = interval_s
        self._in_a_row = 0
        self._last_at = 0.0

    def delay(self, now: float) -> float:
        """Seconds to wait, at `now`, before the next request may be sent."""
        if self._in_a_row < self.free:
            return 0.0
        return max(0.0, self._last_at + self.interval_s - now)

    def sent(self, now: float) -> None:
        """A request goes out at `now`."""
        self._in_a_row += 1
        self._last_at = now

    def fruitful(self) -> None:
        """A request brought bytes nobody had seen."""
        self._in_a_row = 0
