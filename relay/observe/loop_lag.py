"""How late the event loop comes to what is due: the one figure that tells that it has too much to
do, or that something blocks it."""

from __future__ import annotations

import asyncio
from collections import deque
from statistics import fmean

from relay.stats import Histogram
from relay.tasks import cancel_and_wait

INTERVAL_S = 0.25
REMEMBERED = 40
"""Ten seconds."""
LAGGING_S = 0.5
"""Media that waits for so long is a stutter for everybody."""
LAGGING_SHARE = 0.2
"""Of the last ten seconds' timers that are so late; one alone is a hiccup."""


class LoopLag:
    """Measures the loop it runs on."""

    def __init__(self, *, interval_s: float = INTERVAL_S) -> None:
        self.histogram = Histogram()
        self._interval_s = interval_s
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it measures."""
        return self._task is not None and not self._task.done()

    @property
    def worst_s(self) -> float:
        """The largest of the last ten seconds."""
        return max(self._recent, default=0.0)

    def lately_s(self, seconds: float) -> float:
        """The mean of the last so many seconds."""
        count = max(1, round(seconds / self._interval_s))
        recent = list(self._recent)[-count:]
        return fmean(recent) if recent else 0.0

    @property
    def lagging(self) -> bool:
        """Whether the loop comes too late again and again."""
        late = sum(lag_s >= LAGGING_S for lag_s in self._recent)
        return late >= max(2, LAGGING_SHARE * len(self._recent))

    def note(self, lag_s: float) -> None:
        """A timer came so late."""
        self.histogram.add(lag_s)
        self._recent.append(lag_s)

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name="loop lag")

    async def aclose(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_at = loop.time() + self._interval_s
            await asyncio.sleep(self._interval_s)
            self.note(max(0.0, loop.time() - due_at))
