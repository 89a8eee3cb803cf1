"""A workflow slower than its input, for minutes: does the delay stay, is the time right?

For each rate a whole stack of processes runs: 30 fps in, a stand-in whose workflow takes that many
frames a second, the inverting workflow. After the time asked for the workflow is made fast, and
the time until the full rate is back is taken.

    python -m bench.pace --rates 5 10 15 --minutes 5
    python -m bench.pace --quick
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from bench.session_run import (
    FIRST_FRAME_TIMEOUT_S,
    START_TIMEOUT_S,
    RunOptions,
    SessionRun,
)
from demo.barcode import Reading
from demo.child_process import ChildError
from demo.frame_tally import percentile_ms
from demo.output_probe import ChannelProbe
from demo.relay_api import api_headers
from relay.tasks import cancel_and_wait

SOURCE_FPS = 30
WARM_UP_S = 5.0
FOLLOWS_S = 10.0
"""How long the rate is watched after the workflow has become fast."""
BACK_AT = 0.9
"""Of the source's rate."""
RATE_OVER_S = 0.5
QUEUE_EVERY_S = 1.0
CLOCK_RATE = 90_000


@dataclass(frozen=True, slots=True)
class PaceResult:
    """What one rate came to."""

    rate: float
    delays_s: list[float]
    """Of each output frame, from its last byte on the input."""
    status_delay_ms: dict[str, float]
    """The relay's own word at the end, over its last ten seconds."""
    last_delays_s: list[float]
    """Those of the same ten seconds."""
    output_fps: float
    time_ratio: float
    """Output time by wall time, between the first and the last measured frame."""
    wrong_labels: int
    largest_error_s: float
    """Between the picture's own time and its timestamp."""
    labels_read: int
    backwards: int
    """Output frames whose time is not past the one before."""
    longest_queue: int
    """Of the stand-in's labels that wait, sampled once a second."""
    dropped_inside: int
    follows_s: float | None
    """Until the source's rate was back once the workflow was fast."""


class _Watch:
    """Both channels: when each frame came and what its picture says."""

    def __init__(self, input_url: str, output_url: str) -> None:
        self.outputs: list[tuple[int, float]] = []
        self.first = asyncio.Event()
        self._inputs: dict[int, float] = {}
        self._numbers: dict[int, int] = {}
        self._shown: list[tuple[int, int]] = []
        self._input = ChannelProbe(
            input_url, self._on_input, lambda pts, at: None, self._on_input_picture
        )
        self._output = ChannelProbe(
            output_url, self._on_output, lambda pts, at: None, self._on_output_picture
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as probes:
            probes.create_task(self._input.run())
            probes.create_task(self._output.run())

    def delays_s(self, start: float, end: float) -> list[float]:
        return [
            at - self._inputs[pts]
            for pts, at in self.outputs
            if start <= at < end and pts in self._inputs
        ]

    def label_errors_s(self, first_pts: int, last_pts: int) -> list[float]:
        """By how much each picture's own time is off its timestamp."""
        times = {number: pts for pts, number in self._numbers.items()}
        return [
            abs(times[number] - pts) / CLOCK_RATE
            for pts, number in self._shown
            if first_pts <= pts <= last_pts and number in times
        ]

    def _on_input(self, pts: int, at: float) -> None:
        self._inputs[pts] = at

    def _on_output(self, pts: int, at: float) -> None:
        self.outputs.append((pts, at))
        self.first.set()

    def _on_input_picture(self, pts: int, reading: Reading | None) -> None:
        if reading is not None:
            self._numbers[pts] = reading.number

    def _on_output_picture(self, pts: int, reading: Reading | None) -> None:
        if reading is not None:
            self._shown.append((pts, reading.number))


async def measure(rate: float, seconds: float, drop_every: int | None = None) -> PaceResult:
    """Run one rate.

    Args:
        rate: frames a second that the workflow takes.
        seconds: how long, once it runs evenly.
        drop_every: every that many frames the server drops one and keeps its label.

    Raises:
        ChildError: a process did not start, or ended.
        TimeoutError: no processed frame came.
    """
    async with AsyncExitStack() as cleanup:
        logs = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="relay-pace-")))
        http = await cleanup.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), headers=api_headers())
        )
        options = RunOptions(fps=str(SOURCE_FPS), invert=True, process_ms=1000 / rate, audio=False)
        run = SessionRun(options, logs, http, cleanup)
        async with asyncio.timeout(START_TIMEOUT_S):
            stack = await run.start_stack()
        watch = _Watch(stack.input_url, stack.output_url)
        watching = asyncio.create_task(watch.run())
        cleanup.push_async_callback(cancel_and_wait, [watching])
        session = await run.start_session(stack)
        async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
            await watch.first.wait()
        await asyncio.sleep(WARM_UP_S)
        await _set_faults(http, stack.comfystream_url, drop_input_every=drop_every)
        began = time.monotonic()
        queue = 0
        while (now := time.monotonic()) - began < seconds:
            state = await _state(http, stack.comfystream_url)
            queue = max(queue, state["queues"]["video_labels"])
            await asyncio.sleep(QUEUE_EVERY_S)
        ended = now
        status = await run.status(stack.relay_url, session)
        state = await _state(http, stack.comfystream_url)
        await _set_faults(http, stack.comfystream_url, process_ms=0, drop_input_every=None)
        fast_at = time.monotonic()
        await asyncio.sleep(FOLLOWS_S)
        return _result(rate, watch, (began, ended), status, state, queue, fast_at)


def _result(
    rate: float,
    watch: _Watch,
    measured: tuple[float, float],
    status: dict[str, Any],
    state: dict[str, Any],
    queue: int,
    fast_at: float,
) -> PaceResult:
    outputs = [(pts, at) for pts, at in watch.outputs if measured[0] <= at < measured[1]]
    (first_pts, first_at), (last_pts, last_at) = outputs[0], outputs[-1]
    errors = watch.label_errors_s(first_pts, last_pts)
    pairs = pairwise(outputs)
    return PaceResult(
        rate=rate,
        delays_s=watch.delays_s(*measured),
        status_delay_ms=status["delay_ms"],
        last_delays_s=watch.delays_s(measured[1] - 10, measured[1]),
        output_fps=(len(outputs) - 1) / (last_at - first_at),
        time_ratio=(last_pts - first_pts) / CLOCK_RATE / (last_at - first_at),
        wrong_labels=sum(error > 0.001 for error in errors),
        largest_error_s=max(errors, default=0.0),
        labels_read=len(errors),
        backwards=sum(after[0] <= before[0] for before, after in pairs),
        longest_queue=queue,
        dropped_inside=state["frames"]["replaced"],
        follows_s=_full_rate_after(watch.outputs, fast_at),
    )


def _full_rate_after(outputs: Sequence[tuple[int, float]], fast_at: float) -> float | None:
    times = [at for _, at in outputs if at >= fast_at]
    wanted = round(BACK_AT * SOURCE_FPS * RATE_OVER_S)
    for first, last in zip(times, times[wanted - 1 :], strict=False):
        if last - first <= RATE_OVER_S:
            return first - fast_at
    return None


async def _state(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(f"{url}/standin/state") as response:
        state: dict[str, Any] = await response.json()
        return state


async def _set_faults(http: aiohttp.ClientSession, url: str, **faults: float | None) -> None:
    async with http.post(f"{url}/standin/faults", json=faults) as response:
        response.raise_for_status()


def line(result: PaceResult) -> str:
    """A row of the table."""
    bound_ms = 2000 / result.rate + 100
    p50, p95, p99, most = (percentile_ms(result.delays_s, p) or 0.0 for p in (50, 95, 99, 100))
    own = result.status_delay_ms
    last = percentile_ms(result.last_delays_s, 50) or 0.0
    follows = "never" if result.follows_s is None else f"{result.follows_s:.2f} s"
    return (
        f"| {result.rate:g} | {p50:.0f}, {p95:.0f}, {p99:.0f}, {most:.0f} | {bound_ms:.0f}"
        f" | {own['p50']:.0f} / {last:.0f} | {result.output_fps:.2f} | {result.time_ratio:.4f}"
        f" | {result.wrong_labels} of {result.labels_read}, {result.largest_error_s * 1000:.0f}"
        f" | {result.backwards} | {result.longest_queue} | {result.dropped_inside} | {follows} |"
    )


HEADING = (
    "| fps of the workflow | delay p50, p95, p99, max (ms) | bound (ms)"
    " | p50 of the last 10 s: status / channels | output fps | output time / wall time"
    " | wrong labels, largest error (ms) | backwards | longest queue inside | dropped inside"
    " | full rate after |\n" + "|---" * 11 + "|"
)


async def run(arguments: argparse.Namespace) -> None:
    """Measure each rate and print a row for it."""
    print(HEADING, flush=True)
    seconds = 20.0 if arguments.quick else arguments.minutes * 60
    for rate in [10.0] if arguments.quick else arguments.rates:
        print(line(await measure(rate, seconds, arguments.drop_every)), flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pace", description="Feed workflows faster than they are."
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 10.0, 15.0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for each rate (%(default)s)")
    parser.add_argument(
        "--drop-every",
        type=int,
        metavar="FRAMES",
        help="the server drops every that many frames one, and keeps its label",
    )
    parser.add_argument("--quick", action="store_true", help="10 fps, for 20 s")
    try:
        asyncio.run(run(parser.parse_args()))
    except ChildError as error:
        print(f"pace: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
