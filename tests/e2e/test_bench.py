"""The benchmark measures what it says: every process its own, figures that fit together."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from bench.process_cost import cpu_seconds, peak_memory_mb

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(90)


async def bench(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the benchmark; its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.latency", *arguments),
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_it_measures_one_session(tmp_path: Path) -> None:
    """Two seconds give a table with goals, and a file in which counts and delays agree."""
    file = tmp_path / "bench.json"
    code, output, errors = await bench(
        *("--seconds", "2", "--warm-up", "1", "--no-players", "--json", str(file))
    )
    assert code == 0, errors
    assert "added delay p50" in output
    assert "goal <= 12 ms" in output
    written = json.loads(await asyncio.to_thread(file.read_text))
    (run,) = written["runs"]["A"]
    video, delay = run["video"], run["video"]["delay_ms"]
    assert video["delivered"] + video["lost"] == video["input_frames"] > 10
    assert video["verified"] > 0
    assert video["mislabelled"] == video["inverted"] == 0
    assert 0 < delay["p50"] <= delay["p95"] <= delay["p99"] <= delay["p100"]
    assert run["round_trip_ms"]["p50"] > 0
    assert 0 < run["idle_memory_mb"] <= run["peak_memory_mb"]
    assert run["cpu_s_per_s"] > 0
    assert written["options"]["fps"] == "30"


async def test_what_can_not_be_measured_is_one_clear_message() -> None:
    """A comparison with something that is no setting, and a relay that refuses to start."""
    code, _, errors = await bench("--compare", "PATH=/")
    assert code == 1
    assert errors == "--compare takes RELAY_NAME=value, not PATH\n"
    code, _, errors = await bench("--no-players", RELAY_WIDTH="odd")
    assert code == 1
    assert errors.startswith("bench: the relay ended with exit code 2:")
    assert "RELAY_WIDTH" in errors


def test_cost_is_read_of_the_right_process() -> None:
    """A process's own CPU time and memory, as the kernel counts them."""
    before = cpu_seconds(os.getpid())
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        sum(range(1000))
    assert cpu_seconds(os.getpid()) - before >= 0.08
    assert 10 < peak_memory_mb(os.getpid()) < 10_000
