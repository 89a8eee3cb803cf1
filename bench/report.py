"""The benchmark's figures as a table, with the goal beside each, and as plain data."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiortc
import av

from bench.session_run import RunOptions, RunResult


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    value: Callable[[RunResult], float | None]
    goal: float | None = None
    """The largest value that reaches it; product goals hold for 512x512, 30 fps, unprocessed."""
    digits: int = 1


def _delay(result: RunResult, percent: str) -> float | None:
    value: float | None = result.video["delay_ms"][percent]
    return value


def _behind(result: RunResult, percent: str) -> float | None:
    if result.players is None:
        return None
    value: float | None = result.players["behind_ms"][percent]
    return value


def _wrong_time(result: RunResult) -> int:
    return int(result.video["foreign"] + result.video["mislabelled"])


def _session_memory(result: RunResult) -> float:
    return result.peak_memory_mb - result.idle_memory_mb


FIGURES = (
    Figure("added delay p50", "ms", lambda r: _delay(r, "p50"), 12),
    Figure("added delay p95", "ms", lambda r: _delay(r, "p95")),
    Figure("added delay p99", "ms", lambda r: _delay(r, "p99"), 30),
    Figure("added delay, largest", "ms", lambda r: _delay(r, "p100")),
    Figure("of it the ComfyStream hop, p50", "ms", lambda r: (r.round_trip_ms or {}).get("p50")),
    Figure("players: output behind input, p50", "ms", lambda r: _behind(r, "p50"), 0),
    Figure("players: output behind input, p95", "ms", lambda r: _behind(r, "p95")),
    Figure("frames on the input", "", lambda r: r.video["input_frames"], digits=0),
    Figure("frames lost", "", lambda r: r.video["lost"], 0, digits=0),
    Figure("frames twice", "", lambda r: r.video["duplicated"], 0, digits=0),
    Figure("frames out of order", "", lambda r: r.video["out_of_order"], 0, digits=0),
    Figure("frames under a wrong timestamp", "", _wrong_time, 0, digits=0),
    Figure("frames verified by their picture", "", lambda r: r.video["verified"], digits=0),
    Figure("audio packets on the input", "", lambda r: r.audio["input_frames"], digits=0),
    Figure("audio packets lost", "", lambda r: r.audio["lost"], 0, digits=0),
    Figure("audio added delay p50", "ms", lambda r: r.audio["delay_ms"]["p50"]),
    Figure("first processed frame after start", "ms", lambda r: r.first_frame_ms, 400, digits=0),
    Figure("relay CPU a second of media", "s", lambda r: r.cpu_s_per_s, digits=3),
    Figure("relay CPU a frame", "ms", lambda r: r.cpu_ms_per_frame, 5, digits=2),
    Figure("for scale: decode + encode, alone", "ms", lambda r: r.codec_cpu_ms, digits=2),
    Figure("relay memory, idle", "MB", lambda r: r.idle_memory_mb, 100),
    Figure("relay memory, added by its first session", "MB", _session_memory, 20),
)


def table(results: Sequence[RunResult], *, goals: bool) -> str:
    """The figures of a setting; the median where there are several runs."""
    lines = []
    for figure in FIGURES:
        value = middle(figure, results)
        if value is None:
            continue
        line = f"  {figure.name:<44}{shown(value, figure):>10} {figure.unit:<4}"
        if goals and figure.goal is not None:
            reached = "reached" if value <= figure.goal else "missed"
            line += f"  goal <= {figure.goal:g} {figure.unit}".ljust(19) + reached
        lines.append(line.rstrip())
    return "\n".join(lines)


def comparison(before: Sequence[RunResult], after: Sequence[RunResult]) -> str:
    """Two settings side by side, and the ratio of the second to the first."""
    lines = [f"  {'':<44}{'A':>10}{'B':>10}{'B/A':>8}"]
    for figure in FIGURES:
        a, b = middle(figure, before), middle(figure, after)
        if a is None or b is None:
            continue
        ratio = f"{b / a:8.2f}" if a > 0 and b > 0 else " " * 8
        values = f"{shown(a, figure):>10}{shown(b, figure):>10}"
        lines.append(f"  {figure.name:<44}{values}{ratio}  {figure.unit}".rstrip())
    return "\n".join(lines)


def middle(figure: Figure, results: Sequence[RunResult]) -> float | None:
    """The median of a figure over several runs; None if none of them has it."""
    values = [value for result in results if (value := figure.value(result)) is not None]
    return statistics.median(values) if values else None


def shown(value: float, figure: Figure) -> str:
    """The value in the figure's digits."""
    return f"{value:.{figure.digits}f}"


def heading(options: RunOptions) -> str:
    """What is measured, in a line."""
    work = "inverting workflow" if options.invert else "frames passed through"
    if options.process_ms:
        work += f", {options.process_ms:g} ms a frame"
    for side, mode in (("ingest", options.ingest), ("egress", options.egress)):
        work += f", {side} {mode}" if mode else ""
    sound = "with audio" if options.audio else "without audio"
    return (
        f"{options.width}x{options.height}, {options.fps} fps, {sound}, one session, {work};"
        f" {options.seconds:g} s after {options.warm_up_s:g} s of warm-up"
    )


def as_json(options: RunOptions, runs: dict[str, Sequence[RunResult]]) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    return {
        "machine": machine(),
        "options": asdict(options) | {"environment": dict(options.environment)},
        "goals": {figure.name: figure.goal for figure in FIGURES if figure.goal is not None},
        "runs": {name: [asdict(result) for result in results] for name, results in runs.items()},
    }


def machine() -> dict[str, Any]:
    """What figures come from."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "aiortc": aiortc.__version__,
        "pyav": av.__version__,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
