"""A fast channel with a stalled reader beside a good one: is memory flat, the good one unharmed?

    python -m bench.trickle_stall [--mbit 40] [--seconds 60]

Four processes: the server, the publisher with the stalled reader (this one), a good subscriber,
and one whose caller takes a tenth of the stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any
from urllib.parse import urlsplit

from bench.trickle_processes import (
    Load,
    log_to_stderr,
    memory_mb,
    print_figures,
    publish,
    server_process,
)
from relay.trickle.publisher import TricklePublisher

SAMPLE_S = 1.0


async def stall(url: str) -> None:
    """GET the current segment again and again, and never read more than its head."""
    parts = urlsplit(url)
    while True:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1024)
        try:
            writer.write(f"GET {parts.path}/-2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            # The server drops it after its write deadline; only a write notices that here.
            await asyncio.sleep(15)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()


async def start_reader(url: str, load: Load, *rate: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.trickle_reader", url, "1", str(load.record_bytes), *rate),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def result_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    result: dict[str, Any] = json.loads(await process.stdout.readline())
    await process.wait()
    return result


async def run(load: Load) -> None:
    memory: list[float] = []

    async def sample(pid: int) -> None:
        while True:
            memory.append(memory_mb(pid))
            await asyncio.sleep(SAMPLE_S)

    async with server_process() as server:
        url = server.url + "camera"
        async with TricklePublisher(url) as publisher:
            good = await start_reader(url, load)
            slow = await start_reader(url, load, str(load.mbit_per_s / 10))
            await asyncio.sleep(1.0)
            tasks = [asyncio.create_task(stall(url)), asyncio.create_task(sample(server.pid))]
            records = await publish(publisher, load)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            stats = publisher.stats
        seen, lagging = await result_of(good), await result_of(slow)
    window_mb = 5 * load.segment_s * load.mbit_per_s / 8
    settled = memory[len(memory) // 4 :]
    print_figures(
        f"{load.mbit_per_s:.0f} Mbit/s for {load.seconds:g} s, a good reader, a stalled one, and "
        "one at a tenth of the rate",
        [
            ("good reader: bytes, all in order", f"{seen['records'][0]} of {records} records"),
            ("good reader: every write, p50", f"{seen['record_ms']['p50']:.1f} ms"),
            ("good reader: every write, p99", f"{seen['record_ms']['p99']:.1f} ms"),
            ("publisher: segments lost, stalls", f"{stats.segments_lost}, {stats.stalls}"),
            ("server memory at the start", f"{memory[0]:.0f} MB"),
            ("of it a full window of segments", f"{window_mb:.0f} MB"),
            ("server memory, after a quarter .. end", f"{settled[0]:.0f} .. {settled[-1]:.0f} MB"),
            ("server memory, largest", f"{max(memory):.0f} MB"),
            ("slow reader: jumps, segments skipped", f"{lagging['jumps']}, {lagging['skipped']}"),
            ("slow reader: records rising, none twice", "yes" if lagging["rising"] else "NO"),
            ("slow reader: largest memory", f"{lagging['peak_memory_mb']:.0f} MB"),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbit", type=float, default=40.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    settings = parser.parse_args()
    size = 16_384
    log_to_stderr()
    asyncio.run(run(Load(settings.mbit * 1e6 / 8 / size, size, 1.0, settings.seconds)))


if __name__ == "__main__":
    main()
