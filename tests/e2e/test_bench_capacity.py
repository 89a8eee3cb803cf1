"""The benchmark of many sessions runs, and its figures fit together."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


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
