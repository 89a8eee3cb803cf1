"""The benchmark of many sessions runs, and its figures fit together."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from statistics import median

import pytest

from bench.calibration import codec_cpu_ms
from bench.capacity_run import CapacityOptions, capacity_run

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_CODECS = 6.0
"""CPU of a relayed frame by that of decoding and encoding one alone, at 512x512: two of them is the
least, 2.5 to 3.7 were measured."""


@pytest.mark.timeout(90)
async def test_it_adds_sessions_and_says_how_many(tmp_path: Path) -> None:
    """One and two small sessions: frames came out under their times, and cost something. Whether a
    goal is reached is not this test's matter."""
    file = tmp_path / "capacity.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.capacity", "--size", "128x128", "--fps", "15"),
        *("--sessions", "1", "2", "--seconds", "1", "--settle", "0.2", "--goal-ms", "10000"),
        *("--json", str(file)),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    assert "sessions on one core" in output.decode()
    (size,) = json.loads(await asyncio.to_thread(file.read_text))["sizes"]
    steps = size["steps"]
    assert {step["sessions"] for step in steps} <= {1, 2}
    for step in steps:
        assert step["never_came"] == step["wrong"] == 0
        assert step["frames"] > 0
        assert 0 < step["delay_p50_ms"] <= step["delay_p99_ms"]
        assert step["cpu_ms_per_frame"] > 0
        assert step["memory_mb"] > 0


@pytest.mark.timeout(90)
async def test_a_frame_costs_a_few_times_what_its_codecs_do(tmp_path: Path) -> None:
    """CPU time by CPU time, taken in turn on the same machine: how busy or fast that is hardly
    matters, and what makes the relay twice as dear shows."""
    ratios, frames = [], 0
    async with capacity_run(CapacityOptions(seconds=1.0, settle_s=0.3), tmp_path) as running:
        for _ in range(3):
            codec_ms = await asyncio.to_thread(codec_cpu_ms, 512, 512)
            step = await running.measure(1)
            frames += step.frames
            ratios.append(step.cpu_ms_per_frame / codec_ms)
    assert frames > 0
    assert median(ratios) < MOST_CODECS, ratios
