"""How busy the relay is, once a second: what it uses of the CPU that it may use, and what waits.

The first says whether there is room for more, the second whether what runs still flows. Codecs run
on several threads and all else on one, the event loop's, so each has a share of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from relay.codec_executor import CodecExecutor
from relay.cores import usable_cores
from relay.observe.loop_lag import LoopLag
from relay.tasks import cancel_and_wait

INTERVAL_S = 1.0
CODEC_WAIT_LIMIT_S = 0.025
"""A frame waits for a codec thread three times; at 30 fps a session falls behind when one of these
takes longer than 33 ms, its run of some milliseconds included."""
LOOP_LAG_LIMIT_S = 0.05
"""So late, one time as the other, the event loop adds to each frame more than all else does."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the relay did in one second. 1.0 is all it can."""

    cpu: float = 0.0
    """CPU time of the process, of the cores that it may use."""
    loop: float = 0.0
    """CPU time of the event loop's thread, of one core."""
    codec_wait_s: float = 0.0
    """Mean wait of a codec call for its thread."""
    loop_lag_s: float = 0.0
    """Mean lateness of the event loop."""

    @property
    def work(self) -> float:
        """The share that is used, of whichever there is less left of."""
        return max(self.cpu, self.loop)

    @property
    def strain(self) -> float:
        """How much waits, by what may; above 1.0 frames come too late."""
        return max(self.codec_wait_s / CODEC_WAIT_LIMIT_S, self.loop_lag_s / LOOP_LAG_LIMIT_S)


class LoadMeter:
    """Measures this process, on the event loop whose thread it starts in.

    Args:
        on_load: told of each second, on the event loop.
        cores: that the process may use; found out if None.
    """

    def __init__(
        self,
        codecs: CodecExecutor,
        lag: LoopLag,
        on_load: Callable[[Load], None],
        *,
        cores: float | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.cores = cores if cores is not None else usable_cores()
        self.now = Load()
        """The last second's."""
        self._codecs = codecs
        self._lag = lag
        self._on_load = on_load
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it measures."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name="load")

    async def aclose(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])

    async def _run(self) -> None:
        before = self._counters()
        while True:
            await asyncio.sleep(self._interval_s)
            after = self._counters()
            wall_s, cpu_s, loop_s, waits, waited_s = (
                now - then for now, then in zip(after, before, strict=True)
            )
            before = after
            self.now = Load(
                cpu=min(1.0, cpu_s / wall_s / self.cores),
                loop=min(1.0, loop_s / wall_s),
                codec_wait_s=waited_s / waits if waits else 0.0,
                loop_lag_s=self._lag.lately_s(self._interval_s),
            )
            self._on_load(self.now)

    def _counters(self) -> tuple[float, float, float, float, float]:
        waits, waited_s = self._codecs.waits
        return time.monotonic(), time.process_time(), time.thread_time(), waits, waited_s
