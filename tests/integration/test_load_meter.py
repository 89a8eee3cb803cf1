"""The load is measured of this process and its threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from relay.codec_executor import CodecExecutor
from relay.observe.load_meter import Load, LoadMeter
from relay.observe.loop_lag import LoopLag


def spin(seconds: float) -> None:
    """Use CPU time, on whatever thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(1000))


class Measured:
    """Loads as they come."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self._came = asyncio.Event()

    def note(self, load: Load) -> None:
        self.loads.append(load)
        self._came.set()

    async def until(self, condition: Callable[[Load], bool]) -> Load:
        async with asyncio.timeout(10.0):
            while not any(condition(load) for load in self.loads):
                self._came.clear()
                await self._came.wait()
        return next(load for load in self.loads if condition(load))


async def test_work_and_waiting_are_told_apart() -> None:
    """A loop that works is busy and late; calls that outnumber the threads wait."""
    codecs, lag, measured = CodecExecutor(1), LoopLag(interval_s=0.02), Measured()
    meter = LoadMeter(codecs, lag, measured.note, cores=1.0, interval_s=0.2)
    lag.start()
    meter.start()
    assert meter.alive
    try:
        await asyncio.sleep(0)  # both measure now
        spin(0.15)
        await measured.until(lambda load: load.loop > 0 and load.cpu > 0 and load.loop_lag_s > 0)
        await asyncio.gather(*(codecs.run(time.sleep, 0.05) for _ in range(4)))
        waited = await measured.until(lambda load: load.codec_wait_s > 0.02)
        assert waited.strain > 0.5
    finally:
        await meter.aclose()
        await meter.aclose()
        await lag.aclose()
        codecs.close()
    assert not meter.alive


async def test_other_threads_count_as_the_process_s_and_not_the_loop_s() -> None:
    """What a codec thread works is CPU, and leaves the loop free."""
    codecs, measured = CodecExecutor(1), Measured()
    meter = LoadMeter(codecs, LoopLag(), measured.note, cores=1.0, interval_s=0.3)
    meter.start()
    with ThreadPoolExecutor(1) as thread:
        try:
            await asyncio.get_running_loop().run_in_executor(thread, spin, 0.2)
            load = await measured.until(lambda load: load.cpu > 0.1)
        finally:
            await meter.aclose()
            codecs.close()
    assert load.loop < load.cpu
    assert 0.0 < load.cpu <= 1.0
