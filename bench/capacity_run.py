"""A relay that is held to one core, and ever more sessions on it.

Everything else has the other cores: sources, trickle server and viewers are the process that
measures (`bench.capacity_load`), and the ComfyStream is `bench.echo_server`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.capacity_load import CapacityLoad, LoadedChannel
from bench.looped_clip import LoopedClip
from bench.process_cost import cpu_seconds
from bench.session_run import NOT_HELD_BACK, START_TIMEOUT_S, free_port
from bench.trickle_processes import memory_mb
from demo.child_process import Child, ChildError
from demo.relay_api import api_headers
from relay.stats import percentile

FIRST_FRAME_TIMEOUT_S = 15.0
_READY_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class CapacityOptions:
    """What to measure."""

    width: int = 512
    height: int = 512
    fps: int = 30
    seconds: float = 10.0
    settle_s: float = 4.0
    """From the first frame of the session that came last to the measuring."""
    goal_ms: float = 60.0
    """The largest 99th percentile of the added delay, of all sessions together."""
    request: Mapping[str, str] = field(default_factory=dict)
    """Further fields of a start."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """RELAY_* settings of the relay."""


@dataclass(frozen=True, slots=True)
class CapacityStep:
    """What one number of sessions came to."""

    sessions: int
    delay_p50_ms: float
    delay_p99_ms: float
    worst_p99_ms: float
    """Of the session that fared worst."""
    frames: int
    lost: int
    wrong: int
    cpu_ms_per_frame: float
    cpu: float
    """Of the relay's core, 0 to 1."""
    memory_mb: float
    """Resident, of the relay."""
    load_cpu: float
    """Of one core: sources, trickle server and viewers, and the ComfyStream, together."""
    load_late_ms: float
    """The furthest that a source was behind its time."""
    goal_ms: float
    never_came: int = 0
    """Sessions without a first frame."""

    @property
    def reached(self) -> bool:
        """Whether the goal is."""
        faults = self.lost + self.wrong + self.never_came
        return self.frames > 0 and not faults and self.delay_p99_ms <= self.goal_ms


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started here runs on these cores; children inherit it of the thread that makes
    them (sched_setaffinity(2))."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def split_cores() -> tuple[set[int], set[int]]:
    """One core for the relay, and the others; the same one where there are no others."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[0]}, set(cores[1:]) or {cores[0]}


class CapacityRun:
    """Sessions on one relay, as many as are asked for."""

    def __init__(
        self,
        options: CapacityOptions,
        load: CapacityLoad,
        relay: Child,
        relay_url: str,
        echo: Child,
        echo_url: str,
        http: aiohttp.ClientSession,
    ) -> None:
        self.idle_memory_mb = memory_mb(relay.pid)
        self._options = options
        self._load = load
        self._relay = relay
        self._relay_url = relay_url
        self._echo = echo
        self._echo_url = echo_url
        self._http = http
        self._sessions: list[str] = []

    async def measure(self, sessions: int) -> CapacityStep:
        """Start or stop sessions until there are so many, let them settle, and measure.

        Raises:
            ChildError: the relay refuses a session, or is gone.
        """
        never_came = 0
        while len(self._sessions) > sessions:
            await self._stop_one()
        while len(self._sessions) < sessions:
            never_came += not await self._start_one()
        await asyncio.sleep(self._options.settle_s)
        before, began = self._cpu(), time.monotonic()
        deliveries = await self._load.measure(self._options.seconds)
        after, elapsed_s = self._cpu(), time.monotonic() - began
        relay_s, load_s = after[0] - before[0], after[1] - before[1]
        delays = sorted(delay for one in deliveries for delay in one.delays_ms)
        frames = len(delays)
        lost = sum(one.lost for one in deliveries)
        expected = sessions * self._options.fps * elapsed_s
        return CapacityStep(
            sessions=sessions,
            delay_p50_ms=round(percentile(delays, 50), 1),
            delay_p99_ms=round(percentile(delays, 99), 1),
            worst_p99_ms=round(max(one.p99_ms for one in deliveries), 1),
            frames=frames,
            lost=lost,
            wrong=sum(one.wrong for one in deliveries),
            cpu_ms_per_frame=round(relay_s * 1000 / expected, 3),
            cpu=round(relay_s / elapsed_s, 3),
            memory_mb=round(memory_mb(self._relay.pid), 1),
            load_cpu=round(load_s / elapsed_s, 3),
            load_late_ms=round(self._load.late_s * 1000, 1),
            goal_ms=self._options.goal_ms,
            never_came=never_came,
        )

    def _cpu(self) -> tuple[float, float]:
        return cpu_seconds(self._relay.pid), cpu_seconds(os.getpid()) + cpu_seconds(self._echo.pid)

    async def _start_one(self) -> bool:
        channel = self._load.add()
        body: dict[str, Any] = {
            "input_stream_url": channel.input_url,
            "output_stream_url": channel.output_url,
            "comfystream_url": self._echo_url,
            "prompts": [],
            "width": self._options.width,
            "height": self._options.height,
            # A frame that was not processed is a frame lost.
            "fallback": "none",
            **self._options.request,
        }
        async with self._http.post(f"{self._relay_url}/session/start", json=body) as response:
            answer = await response.json()
        if not answer["success"]:
            raise ChildError(f"the relay refuses a session: {answer['error']}")
        self._sessions.append(answer["session_id"])
        return await _first_frame(channel)

    async def _stop_one(self) -> None:
        async with self._http.delete(f"{self._relay_url}/session/{self._sessions.pop()}"):
            pass
        await self._load.remove()


async def _first_frame(channel: LoadedChannel) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
            await channel.first_output.wait()
    return channel.first_output.is_set()


@asynccontextmanager
async def capacity_run(options: CapacityOptions, logs: Path) -> AsyncIterator[CapacityRun]:
    """Relay, ComfyStream and load, each on its cores.

    Raises:
        ChildError: one of the processes did not start.
        TimeoutError: the relay does not answer.
    """
    relay_cores, other_cores = split_cores()
    clip = await asyncio.to_thread(LoopedClip, options.width, options.height, options.fps)
    async with AsyncExitStack() as cleanup:
        cleanup.enter_context(on_cores(other_cores))
        http = await cleanup.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), headers=api_headers())
        )
        echo = Child("ComfyStream echo", "-m", "bench.echo_server", log_directory=logs)
        port = free_port()
        relay = Child(
            "relay",
            *("trickle_relay_service.py", "--host", "127.0.0.1", "--port", str(port)),
            log_directory=logs,
            environment={
                "RELAY_LOG_LEVEL": "WARNING",
                "RELAY_REQUESTS_PER_SECOND": "0",
                **NOT_HELD_BACK,
                **options.environment,
            },
        )
        cleanup.push_async_callback(echo.stop)
        await echo.start()
        echo_url: str = (await echo.event())["url"]
        cleanup.push_async_callback(relay.stop)
        with on_cores(relay_cores):
            await relay.start()
        relay_url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(START_TIMEOUT_S):
            await _answers(http, relay, relay_url)
        load = await cleanup.enter_async_context(CapacityLoad(clip))
        yield CapacityRun(options, load, relay, relay_url, echo, echo_url, http)


async def _answers(http: aiohttp.ClientSession, relay: Child, url: str) -> None:
    """Return when the relay does."""
    ended = asyncio.ensure_future(relay.fail_when_ended())
    try:
        while not ended.done():
            with suppress(aiohttp.ClientConnectionError):
                async with http.get(f"{url}/health"):
                    return
            await asyncio.sleep(_READY_POLL_S)  # another process can only be asked again
        await ended
    finally:
        ended.cancel()
        await asyncio.wait([ended])
