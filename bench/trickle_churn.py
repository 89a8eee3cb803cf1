"""Connect and disconnect, many times: does anything stay behind, here or in the server?

    python -m bench.trickle_churn [--cycles 500]

Each cycle is a publisher on a channel of its own that sends two segments and closes, and a
subscriber of a lasting channel that reads a little and leaves, every second one by dropping its
connection.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time

from bench.trickle_processes import (
    log_to_stderr,
    memory_mb,
    open_files,
    print_figures,
    server_process,
)
from relay.trickle.http_client import new_session
from relay.trickle.publisher import TricklePublisher
from relay.trickle.subscriber import TrickleSubscriber

WARM_UP = 50


async def keep_publishing(publisher: TricklePublisher) -> None:
    while True:
        segment = await publisher.next_segment()
        for _ in range(10):
            await segment.write(bytes(4096))
            await asyncio.sleep(0.02)


async def cycle(base: str, number: int) -> None:
    async with new_session() as session:
        subscriber = TrickleSubscriber(base + "lasting", session=session)
        segment = await anext(subscriber)
        await segment.read_chunk()
        async with TricklePublisher(f"{base}passing-{number}", session=session) as publisher:
            for _ in range(2):
                async with await publisher.next_segment() as writer:
                    await writer.write(bytes(10_000))
        if number % 2:
            await session.close()  # its connections are cut under the subscriber
        await subscriber.aclose()


def snapshot(pid: int) -> tuple[int, float, int, float, int]:
    gc.collect()
    return (
        open_files(pid),
        memory_mb(pid),
        open_files(os.getpid()),
        memory_mb(os.getpid()),
        len(asyncio.all_tasks()),
    )


async def run(cycles: int) -> None:
    async with server_process() as server:
        async with TricklePublisher(server.url + "lasting") as publisher:
            publishing = asyncio.create_task(keep_publishing(publisher))
            for number in range(WARM_UP):
                await cycle(server.url, number)
            await asyncio.sleep(1.0)
            before = snapshot(server.pid)
            begun_at = time.monotonic()
            for number in range(cycles):
                await cycle(server.url, number)
            took_s = time.monotonic() - begun_at
            await asyncio.sleep(1.0)
            after = snapshot(server.pid)
            publishing.cancel()
            await asyncio.wait({publishing})
    names = (
        "server: open files",
        "server: memory, MB",
        "clients: open files",
        "clients: memory, MB",
        "clients: tasks",
    )
    rows = [
        (name, f"{earlier:.0f} -> {later:.0f}")
        for name, earlier, later in zip(names, before, after, strict=True)
    ]
    rows.append(("one cycle", f"{took_s / cycles * 1000:.1f} ms"))
    print_figures(f"{cycles} cycles of connecting and leaving, after {WARM_UP} to warm up", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=500)
    log_to_stderr()
    asyncio.run(run(parser.parse_args().cycles))


if __name__ == "__main__":
    main()
