"""The measurement of sound against picture measures: pairs are found, and a fault would show."""

from __future__ import annotations

import asyncio
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bench.av_sync_probe import SyncProbe
from demo.test_pattern import PatternOptions, generate
from relay.media.demuxer import TsDemuxer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(150)
async def test_sound_through_the_server_is_in_step() -> None:
    """A few seconds of the whole stack: pairs, none more than 10 ms off, no gap, exit code 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.av_sync", "--minutes", "0.12", "--audio", "process"),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, (output.decode(), errors.decode())
    result = json.loads(output)
    assert result["pairs"] >= 2
    assert result["offset_ms"]["worst_abs"] < 10
    assert (result["audio_gaps"], result["status"]["audio"]["mode"]) == (0, "process")


@pytest.mark.parametrize("late_ms", [0, 40, -25])
def test_a_shift_of_the_sound_is_measured(late_ms: int) -> None:
    """The pattern itself, its sound moved: the offset is that, to a millisecond."""
    demuxer, probe = (
        TsDemuxer(),
        SyncProbe("http://nowhere/live", 256, 256, Fraction(30), settle_s=0.5),
    )
    for chunk in generate(PatternOptions(256, 256, frames=150)):
        units = demuxer.feed(chunk.data, 0.0)
        for unit in units:
            if unit.stream.kind == "audio":
                unit.pts += late_ms * 90
        probe._take(units)
    offsets = [offset for _, offset in probe.figures.offsets]
    assert len(offsets) >= 3
    assert np.abs(np.array(offsets) - late_ms).max() < 1.0
    assert (probe.figures.audio_gaps, probe.figures.pictures_mistimed) == (0, 0)
