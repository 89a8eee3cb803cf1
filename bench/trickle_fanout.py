"""Many subscribers on one channel: does each get every byte, how soon, and at what cost?

    python -m bench.trickle_fanout [--subscribers 200] [--seconds 20]

Three processes: the server, the publisher (this one), all subscribers. Figures of delay are
from the publisher's write to the subscriber's hands, through the server. The subscribers are as
light as can be, because 200 of them in one Python process are themselves the bottleneck; with
--ours they are `TrickleSubscriber`s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from bench.process_cost import cpu_seconds
from bench.trickle_processes import (
    Load,
    log_to_stderr,
    memory_mb,
    print_figures,
    publish,
    server_process,
)
from relay.trickle.publisher import TricklePublisher


async def run(subscribers: int, load: Load, reader: str) -> None:
    async with server_process() as server:
        url = server.url + "camera"
        async with TricklePublisher(url) as publisher:
            readers = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", reader),
                *(url, str(subscribers), str(load.record_bytes)),
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 24,
            )
            assert readers.stdout is not None
            await readers.stdout.readline()
            await asyncio.sleep(2.0)  # all of them wait for the first segment
            before = [cpu_seconds(pid) for pid in (server.pid, readers.pid, os.getpid())]
            records = await publish(publisher, load)
            after = [cpu_seconds(pid) for pid in (server.pid, readers.pid, os.getpid())]
            memory = memory_mb(server.pid)
        seen = json.loads(await readers.stdout.readline())
        await readers.wait()
    cpu = [100 * (b - a) / load.seconds for a, b in zip(before, after, strict=True)]
    complete = sum(count == records for count in seen["records"])
    print_figures(
        f"{subscribers} subscribers, {load.mbit_per_s:.1f} Mbit/s in "
        f"{load.records_per_s:g} writes/s, segments of {load.segment_s:g} s, {load.seconds:g} s",
        [
            ("subscribers with every byte, in order", f"{complete} of {subscribers}"),
            ("first byte of a segment, p50", f"{seen['first_ms']['p50']:.1f} ms"),
            ("first byte of a segment, p99", f"{seen['first_ms']['p99']:.1f} ms"),
            ("every write, p50", f"{seen['record_ms']['p50']:.1f} ms"),
            ("every write, p99", f"{seen['record_ms']['p99']:.1f} ms"),
            ("server CPU, of one core", f"{cpu[0]:.0f} %"),
            ("all subscribers' CPU, of one core", f"{cpu[1]:.0f} %"),
            ("publisher CPU, of one core", f"{cpu[2]:.1f} %"),
            ("server memory", f"{memory:.0f} MB"),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--writes", type=float, default=30.0, help="a second")
    parser.add_argument("--bytes", type=int, default=4096, help="of each write")
    parser.add_argument(
        "--ours", action="store_true", help="TrickleSubscribers, all in one process"
    )
    settings = parser.parse_args()
    reader = "bench.trickle_reader" if settings.ours else "bench.trickle_light_reader"
    load = Load(settings.writes, settings.bytes, 1.0, settings.seconds)
    log_to_stderr()
    asyncio.run(run(settings.subscribers, load, reader))


if __name__ == "__main__":
    main()
