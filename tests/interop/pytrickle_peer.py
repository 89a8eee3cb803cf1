"""pytrickle's own publisher and subscriber, run as a process of their own.

    python pytrickle_peer.py WHERE publish URL COUNT SIZE
    python pytrickle_peer.py WHERE subscribe URL START

WHERE is the directory pytrickle was installed to. A package of its name without its
`__init__` stands in for the real one: that would import torch and a GPU stack, which the trickle
part does not use. Prints a JSON line for each segment.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import types
from pathlib import Path


def stub_package(where: str) -> None:
    package = types.ModuleType("pytrickle")
    package.__path__ = [str(Path(where) / "pytrickle")]
    sys.modules["pytrickle"] = package


def payload(number: int, size: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (size // 32)


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def publish(url: str, count: int, size: int) -> None:
    from pytrickle.publisher import TricklePublisher

    publisher = TricklePublisher(url, mime_type="video/mp2t")
    await publisher.start()
    for number in range(count):
        body = payload(number, size)
        async with await publisher.next() as segment:
            say(wrote=number)
            for start in range(0, len(body), 4096):
                await segment.write(body[start : start + 4096])
                await asyncio.sleep(0)
        # Its next() hands the same number out again unless the preconnect had time to happen,
        # and its close() drops what is still under way: both are waited for here.
        while publisher.next_writer is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
    await publisher.close()


async def subscribe(url: str, start: int) -> None:
    from pytrickle.subscriber import TrickleSubscriber

    subscriber = TrickleSubscriber(url, start_seq=start)
    await subscriber.start()
    while (segment := await subscriber.next()) is not None:
        digest, size = hashlib.sha256(), 0
        while chunk := await segment.read():
            digest.update(chunk)
            size += len(chunk)
        say(seq=segment.seq(), size=size, sha256=digest.hexdigest())
    say(end=True)
    await subscriber.close()


if __name__ == "__main__":
    stub_package(sys.argv[1])
    role, url, *numbers = sys.argv[2:]
    run = {"publish": publish, "subscribe": subscribe}[role]
    asyncio.run(run(url, *(int(number) for number in numbers)))
