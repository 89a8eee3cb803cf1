"""What the trickle benchmarks share: a server process, a timed publisher, what a process holds.

A published stream is a run of records of one size; each begins with the time it was written, so
whoever receives it, in any process of this machine, can tell how long it took: CLOCK_MONOTONIC
is one clock for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from relay.trickle.publisher import TricklePublisher

_HEADER = struct.Struct(">QQ")
HEADER_BYTES = _HEADER.size


def log_to_stderr() -> None:
    """Warnings only, and away from the figures."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@dataclass(frozen=True, slots=True)
class ServerProcess:
    url: str
    pid: int


@contextlib.asynccontextmanager
async def server_process(*arguments: str) -> AsyncIterator[ServerProcess]:
    """`python -m relay.trickle.server` on a free port, with its own interpreter."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay.trickle.server", "--port", "0", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        url = line.split("url=")[1].split("\x1b")[0].strip()
        draining = asyncio.create_task(process.stdout.read())
        yield ServerProcess(url, process.pid)
        process.terminate()
        await draining
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass(slots=True)
class Load:
    """A stream to publish."""

    records_per_s: float
    record_bytes: int
    segment_s: float
    seconds: float

    @property
    def mbit_per_s(self) -> float:
        return self.records_per_s * self.record_bytes * 8 / 1e6

    def record(self, number: int) -> bytes:
        """Record `number`, stamped now."""
        return _HEADER.pack(time.monotonic_ns(), number) + bytes(self.record_bytes - HEADER_BYTES)


async def publish(publisher: TricklePublisher, load: Load) -> int:
    """Write the whole stream in real time; returns the number of records."""
    total = round(load.records_per_s * load.seconds)
    per_segment = round(load.records_per_s * load.segment_s)
    begun_at = time.monotonic()
    segment = None
    for number in range(total):
        delay_s = begun_at + number / load.records_per_s - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if number % per_segment == 0:
            segment = await publisher.next_segment()
        assert segment is not None
        await segment.write(load.record(number))
    return total


class RecordReader:
    """Finds the records of a segment in its chunks, and their delays."""

    def __init__(self, record_bytes: int) -> None:
        self.first_byte_ms: list[float] = []
        """Per segment: from the write of its first record to the arrival of its first bytes."""
        self.record_ms: list[float] = []
        """Per record: from its write to the arrival of its last byte."""
        self.numbers: list[int] = []
        self._record_bytes = record_bytes
        self._rest = b""
        self._first = True

    def begin_segment(self) -> None:
        self._rest = b""
        self._first = True

    def feed(self, chunk: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + chunk
        at = 0
        while len(data) - at >= self._record_bytes:
            written_at, number = _HEADER.unpack_from(data, at)
            self.record_ms.append((now - written_at) / 1e6)
            self.numbers.append(number)
            at += self._record_bytes
        if self._first and len(data) >= HEADER_BYTES:
            self._first = False
            self.first_byte_ms.append((now - _HEADER.unpack_from(data)[0]) / 1e6)
        self._rest = data[at:]


def percentile(values: Sequence[float], percent: float) -> float:
    """By rank; 0.0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def memory_mb(pid: int) -> float:
    """Resident set of a process now, in MB of 10^6 bytes (proc(5), status, VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)


def open_files(pid: int) -> int:
    """File descriptors that a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def print_figures(title: str, figures: Sequence[tuple[str, str]]) -> None:
    """A small table."""
    width = max(len(name) for name, _ in figures)
    print(f"\n{title}\n")
    for name, value in figures:
        print(f"  {name:<{width}}  {value}")
