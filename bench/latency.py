"""The delay one session adds, what it loses and what it costs: `make bench`.

Source, trickle server, relay, ComfyStream stand-in and probe are processes of their own. The
delay is measured on the channels by one subscriber that reads both: from the last byte of a
frame on the input channel to the last byte of the same frame on the output channel.

    python -m bench.latency --json bench.json
    python -m bench.latency --compare RELAY_EARLY_DELIMITER=false
    python -m bench.latency --compare RELAY_INGEST=copy RELAY_EGRESS=copy
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from bench.report import as_json, comparison, heading, table
from bench.session_run import RunOptions, RunResult, measure
from demo.child_process import ChildError
from demo.test_pattern import picture_size


async def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    _end_on_signals()
    options = _options(arguments)
    other = replace(options, environment=_environment(arguments.compare))
    settings = {"A": options, "B": other} if arguments.compare else {"A": options}
    runs: dict[str, list[RunResult]] = {name: [] for name in settings}
    print(heading(options), flush=True)
    for round_number in range(arguments.rounds):
        for name, setting in settings.items():
            if len(settings) > 1 or arguments.rounds > 1:
                print(f"  round {round_number + 1} of {arguments.rounds}, {name} ...", flush=True)
            runs[name].append(await measure(setting))
    if arguments.compare:
        print(f"A: as it is   B: {' '.join(arguments.compare)}")
        print(comparison(runs["A"], runs["B"]))
    else:
        usual = RunOptions()
        goals = (options.width, options.height, options.fps) == (
            usual.width,
            usual.height,
            usual.fps,
        )
        print(table(runs["A"], goals=goals and not options.invert and not options.process_ms))
    if arguments.json:
        text = json.dumps(as_json(options, runs), indent=1)
        await asyncio.to_thread(arguments.json.write_text, text + "\n")


def _end_on_signals() -> None:
    """SIGINT and SIGTERM cancel, so that every child is ended."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _options(arguments: argparse.Namespace) -> RunOptions:
    width, height = arguments.size
    return RunOptions(
        seconds=arguments.seconds,
        warm_up_s=arguments.warm_up,
        width=width,
        height=height,
        fps=str(arguments.fps),
        audio=arguments.audio,
        invert=arguments.prompts == "invert",
        process_ms=arguments.process_ms,
        ingest=arguments.ingest,
        egress=arguments.egress,
        players=arguments.players,
    )


def _environment(assignments: Sequence[str]) -> dict[str, str]:
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, equals, _ in pairs:
        if not equals or not name.startswith("RELAY_"):
            raise SystemExit(f"--compare takes RELAY_NAME=value, not {name}")
    return {name: value for name, _, value in pairs}


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.latency",
        description="Measure the delay, the losses and the cost of one session.",
        epilog="RELAY_* variables in the environment go to the relay.",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=os.environ.get("BENCH_SECONDS") or "20",
        help="to measure, after the warm-up; also BENCH_SECONDS (%(default)s)",
    )
    parser.add_argument("--warm-up", type=_seconds, default=2.0, help="seconds (%(default)s)")
    parser.add_argument("--size", type=picture_size, default=(512, 512), metavar="WIDTHxHEIGHT")
    parser.add_argument("--fps", type=Fraction, default=Fraction(30))
    parser.add_argument("--prompts", choices=["noop", "invert"], default="noop")
    parser.add_argument(
        "--process-ms", type=float, default=0.0, help="time a frame of the stand-in's workflow"
    )
    for side in ("ingest", "egress"):
        parser.add_argument(
            f"--{side}", choices=["transcode", "copy", "auto"], help="by the relay's settings"
        )
    parser.add_argument("--no-audio", dest="audio", action="store_false")
    parser.add_argument("--no-players", dest="players", action="store_false")
    parser.add_argument("--rounds", type=int, default=1, help="runs; medians are shown")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=(),
        metavar="RELAY_NAME=value",
        help="measure also with these settings, in turn, and print the ratios",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    try:
        asyncio.run(run(parser.parse_args()))
    except ChildError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except TimeoutError:
        print("bench: no processed frame came in time", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
