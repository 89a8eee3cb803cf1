"""Many subscribers of one channel in a process of their own; prints what they saw as JSON.

    python -m bench.trickle_reader URL SUBSCRIBERS RECORD_BYTES [MBIT_PER_S]

With a rate it is one slow caller, that takes no more than that of each segment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from bench.process_cost import peak_memory_mb
from bench.trickle_processes import RecordReader, log_to_stderr, memory_mb, percentile
from relay.trickle.http_client import new_session
from relay.trickle.protocol import StartPosition
from relay.trickle.subscriber import TrickleSubscriber


async def follow(subscriber: TrickleSubscriber, reader: RecordReader, mbit_per_s: float) -> None:
    async with subscriber:
        async for segment in subscriber:
            reader.begin_segment()
            async for chunk in segment:
                reader.feed(chunk)
                if mbit_per_s:
                    await asyncio.sleep(len(chunk) * 8 / (mbit_per_s * 1e6))


async def main(url: str, count: int, record_bytes: int, mbit_per_s: float = 0.0) -> None:
    async with new_session() as session:
        readers = [RecordReader(record_bytes) for _ in range(count)]
        subscribers = [
            TrickleSubscriber(url, start=StartPosition.NEXT, session=session) for _ in range(count)
        ]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.gather(
            *(
                follow(subscriber, reader, mbit_per_s)
                for subscriber, reader in zip(subscribers, readers, strict=True)
            )
        )
    first = [delay for reader in readers for delay in reader.first_byte_ms]
    every = [delay for reader in readers for delay in reader.record_ms]
    whole = [reader.numbers == list(range(len(reader.numbers))) for reader in readers]
    result = {
        "records": [len(reader.numbers) for reader in readers],
        "in_order": sum(whole),
        "rising": sum(r.numbers == sorted(set(r.numbers)) for r in readers),
        "first_ms": {f"p{q}": percentile(first, q) for q in (50, 99, 100)},
        "record_ms": {f"p{q}": percentile(every, q) for q in (50, 99, 100)},
        "jumps": sum(subscriber.stats.jumps for subscriber in subscribers),
        "skipped": sum(subscriber.stats.skipped_segments for subscriber in subscribers),
        "memory_mb": memory_mb(os.getpid()),
        "peak_memory_mb": peak_memory_mb(os.getpid()),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    log_to_stderr()
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:])))
