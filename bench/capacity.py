"""How many sessions one core carries: `make bench-capacity`.

One relay process is held to one core. Sessions are added until the added delay or a lost frame
leaves the goal; then the number between is looked for. A row for each number of sessions.

    python -m bench.capacity
    python -m bench.capacity --size 1280x720 --sessions 1 2 3 4
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog

from bench.capacity_run import CapacityOptions, CapacityRun, CapacityStep, capacity_run
from bench.report import machine
from demo.child_process import ChildError
from demo.test_pattern import picture_size

STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 40, 48, 56, 64)
TRIES = 2
"""A number has missed the goal when it has missed it so often: one hiccup of the machine is not
the relay's."""
BUSY_LOAD = 0.85
"""Share of their cores from which sources and echo are no longer to be trusted."""

HEADING = (
    "| sessions | added delay p50, p99 (ms) | worst session's p99 (ms) | lost or wrong, of"
    " | relay CPU a frame (ms) | of its core | memory a session (MB) | the rest's CPU | |\n"
    + "|---" * 9
    + "|"
)


async def run(arguments: argparse.Namespace) -> None:
    """Measure each size and print its table."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    measured: list[dict[str, Any]] = []
    for width, height in arguments.size or [(512, 512), (1280, 720)]:
        options = replace(_options(arguments), width=width, height=height)
        steps = await measure_size(options, arguments.sessions)
        measured.append({"options": asdict(options), "steps": [asdict(step) for step in steps]})
    if arguments.json:
        text = json.dumps({"machine": machine(), "sizes": measured}, indent=1)
        await asyncio.to_thread(arguments.json.write_text, text + "\n")


async def measure_size(options: CapacityOptions, sessions: Sequence[int]) -> list[CapacityStep]:
    """One table.

    Raises:
        ChildError: a process failed, or the relay refuses a session.
    """
    modes = ", ".join(f"{name} {value}" for name, value in options.request.items())
    print(
        f"\n{options.width}x{options.height}, {options.fps} fps, without audio"
        f"{', ' if modes else ''}{modes}; one core for the relay, {options.seconds:g} s a row\n"
    )
    print(HEADING, flush=True)
    with tempfile.TemporaryDirectory(prefix="relay-capacity-") as logs:
        async with capacity_run(options, Path(logs)) as running:
            steps = await _grow(running, sessions)
    most = max((step.sessions for step in steps if step.reached), default=0)
    missed = any(not step.reached for step in steps)
    print(
        f"\n{most} sessions on one core{'' if missed else ', or more'}:"
        f" p99 of the added delay <= {options.goal_ms:g} ms, no frame lost"
    )
    return steps


async def _grow(running: CapacityRun, sessions: Sequence[int]) -> list[CapacityStep]:
    steps: list[CapacityStep] = []

    async def reaches(number: int) -> bool:
        for _ in range(TRIES):
            step = await running.measure(number)
            steps.append(step)
            print(row(step, steps[0], running.idle_memory_mb), flush=True)
            if step.reached:
                return True
        return False

    good, bad = 0, None
    for number in sorted(sessions):
        if not await reaches(number):
            bad = number
            break
        good = number
    while bad is not None and bad - good > max(1, bad // 10):
        middle = (good + bad) // 2
        if await reaches(middle):
            good = middle
        else:
            bad = middle
    return steps


def row(step: CapacityStep, first: CapacityStep, idle_memory_mb: float) -> str:
    """A line of the table; the first session's memory holds what is loaded once."""
    if step.sessions > first.sessions:
        added_mb = (step.memory_mb - first.memory_mb) / (step.sessions - first.sessions)
    else:
        added_mb = (step.memory_mb - idle_memory_mb) / step.sessions
    verdict = "" if step.reached else "missed"
    if step.load_cpu > BUSY_LOAD:
        verdict += " (the rest is too busy to tell)"
    if step.never_came:
        verdict += f" ({step.never_came} never began)"
    return (
        f"| {step.sessions} | {step.delay_p50_ms:.1f}, {step.delay_p99_ms:.1f}"
        f" | {step.worst_p99_ms:.1f}"
        f" | {step.lost + step.wrong} of {step.frames + step.lost}"
        f" | {step.cpu_ms_per_frame:.2f} | {step.cpu:.0%} | {added_mb:.1f}"
        f" | {step.load_cpu:.0%} | {verdict.strip()} |"
    )


def _options(arguments: argparse.Namespace) -> CapacityOptions:
    modes = {"ingest": arguments.ingest, "egress": arguments.egress}
    return CapacityOptions(
        fps=arguments.fps,
        seconds=arguments.seconds,
        settle_s=arguments.settle,
        goal_ms=arguments.goal_ms,
        request={name: mode for name, mode in modes.items() if mode},
        environment=dict(_assignment(text) for text in arguments.set),
    )


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.startswith("RELAY_"):
        raise SystemExit(f"--set takes RELAY_NAME=value, not {text}")
    return name, value


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity",
        description="Add sessions to a relay on one core until it leaves the goal.",
        epilog="RELAY_* variables in the environment go to the relay, too.",
    )
    parser.add_argument(
        "--size",
        type=picture_size,
        action="append",
        metavar="WIDTHxHEIGHT",
        help="may be given several times; 512x512 and 1280x720 if not",
    )
    parser.add_argument("--fps", type=_positive, default=30)
    parser.add_argument(
        "--sessions",
        type=_positive,
        nargs="+",
        default=STEPS,
        help="how many, one after the other, until the goal is missed"
        f" ({' '.join(map(str, STEPS))})",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="a row (%(default)s)")
    parser.add_argument("--settle", type=float, default=4.0, help="seconds before (%(default)s)")
    parser.add_argument("--goal-ms", type=float, default=60.0, help="of p99 (%(default)s)")
    parser.add_argument("--ingest", help="`ingest` of the sessions' start")
    parser.add_argument("--egress", help="`egress` of the sessions' start")
    parser.add_argument(
        "--set", nargs="+", default=(), metavar="RELAY_NAME=value", help="settings of the relay"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    try:
        try:
            import uvloop
        except ImportError:
            asyncio.run(run(parser.parse_args()))
        else:
            uvloop.run(run(parser.parse_args()))
    except ChildError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except TimeoutError:
        print("bench: the relay did not answer in time", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
