"""Our server, subscriber and publisher with pytrickle 0.1.6, a client nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.interop.pytrickle_peer import payload
from tests.peers.quick import publisher, subscriber
from tests.peers.raw_client import ask

VERSION = "0.1.6"
PEER = Path(__file__).parent / "pytrickle_peer.py"
SIZE = 64_000
PATIENT = ServerOptions(window_segments=50)
"""A slow test machine must not make a reader fall out of the window."""

pytestmark = pytest.mark.timeout(60, method="signal")


@pytest.fixture(scope="session")
def pytrickle() -> str:
    """The directory pytrickle is in; installed beside the environment's packages if need be.

    Without its dependencies: they are 3 GB, and the part that speaks trickle needs aiohttp only.
    """
    where = Path(sys.prefix) / "interop" / f"pytrickle-{VERSION}"
    if not (where / "pytrickle").exists():
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run(
            [sys.executable, *install, "--target", str(where), f"pytrickle=={VERSION}"],
            check=True,
            timeout=50,
        )
    return str(where)


@contextlib.asynccontextmanager
async def peer(where: str, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PEER),
        where,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


async def test_its_publisher_to_our_subscriber(pytrickle: str) -> None:
    """Every segment whole and in order, by way of our server."""
    async with TrickleServer(options=PATIENT) as server:
        url = server.url + "camera"
        server.create_channel("camera")
        source = subscriber(url, start=0)
        received: list[tuple[int, bytes]] = []

        async def receive() -> None:
            async for segment in source:
                received.append((segment.seq, await segment.read()))  # noqa: PERF401

        reading = asyncio.create_task(receive())
        async with peer(pytrickle, "publish", url, 6, SIZE) as process:
            await process.wait()
            # Ending its preconnect on close makes one empty segment; it never deletes.
            await ask(server.url, "DELETE", "/camera")
            await reading
        await source.aclose()
    assert [(n, body) for n, body in received if body] == [(n, payload(n, SIZE)) for n in range(6)]


async def test_our_publisher_to_its_subscriber(pytrickle: str) -> None:
    """It starts at the current segment, follows, and ends with the channel."""
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with contextlib.AsyncExitStack() as stack:
            sink = await stack.enter_async_context(publisher(url))
            segment = await sink.next_segment()
            await segment.write(payload(0, SIZE))
            process = await stack.enter_async_context(peer(pytrickle, "subscribe", url, -2))
            while not server.stats.readers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for number in range(1, 6):
                segment = await sink.next_segment()
                for start in range(0, SIZE, 4000):
                    await segment.write(payload(number, SIZE)[start : start + 4000])
                await segment.close()
            for number in range(6):
                whole = hashlib.sha256(payload(number, SIZE)).hexdigest()
                assert await line(process) == {"seq": number, "size": SIZE, "sha256": whole}
            await sink.aclose()
            assert await line(process) == {"end": True}


async def test_its_publisher_starting_over_neither_rewinds_nor_replays(pytrickle: str) -> None:
    """It posts 0, 1, 2 ... again without a reset: what is complete stays as it is, its numbers
    below the window are refused, and once it has caught up with the edge the stream goes on."""
    async with TrickleServer(options=PATIENT) as server:
        url = server.url + "camera"
        server.create_channel("camera")
        source = subscriber(url, start=0, header_timeout_s=1.0)
        received: list[tuple[int, bytes]] = []

        async def receive() -> None:
            async for segment in source:
                received.append((segment.seq, await segment.read()))  # noqa: PERF401

        reading = asyncio.create_task(receive())
        for count in (4, 10):
            async with peer(pytrickle, "publish", url, count, SIZE) as process:
                await process.wait()
        await ask(server.url, "DELETE", "/camera")
        await reading
        await source.aclose()
    numbers = [number for number, _ in received]
    assert numbers == sorted(set(numbers))
    messages = [payload(number, SIZE) for number in range(10)]
    whole = [messages.index(body) for _, body in received if body]
    first_run, second_run = whole[:4], whole[4:]
    assert first_run == [0, 1, 2, 3]
    # Which of its messages land on which numbers is pytrickle's affair; each comes once.
    assert second_run == sorted(set(second_run))
    assert second_run[-1] == 9
    assert len(second_run) >= 3


async def test_our_publisher_takes_over_from_its(pytrickle: str) -> None:
    """It dies in mid-segment; ours resumes at the edge and frees the readers at once."""
    async with TrickleServer(options=PATIENT) as server:
        url = server.url + "camera"
        server.create_channel("camera")
        source = subscriber(url, start=0, body_stall_s=30.0)
        async with peer(pytrickle, "publish", url, 1000, SIZE) as process:
            segment = await anext(aiter(source))
            assert await segment.read() == payload(0, SIZE)
            process.kill()
            await process.wait()
        async with publisher(url) as sink:
            segment = await sink.next_segment()
            await segment.write(b"ours")
            await segment.close()
            received = [await anext(aiter(source)) for _ in range(1)]
            while received[-1].seq < segment.seq:
                await received[-1].read()
                received.append(await anext(aiter(source)))
            assert await received[-1].read() == b"ours"
        await source.aclose()
