"""Our server with some options, and what a test asks of it by hand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.peers.raw_client import RawConnection, RawReply, ask
from tests.peers.waiting import until


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[TrickleServer]:
    async with TrickleServer(options=ServerOptions(**options)) as server:
        yield server


async def post(server: TrickleServer, path: str, body: bytes = b"", **headers: str) -> RawReply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(server.url, "POST", path, fields, body)


async def get(server: TrickleServer, path: str) -> RawReply:
    return await ask(server.url, "GET", path)


async def registered(server: TrickleServer, channel: str, readers: int) -> None:
    """Until the server has seen that many GETs on the channel."""
    await until(lambda: (c := server.registry.get(channel)) and c.readers >= readers)


async def claimed(server: TrickleServer, channel: str, number: int) -> None:
    """Until the server has seen a POST of that number."""
    await until(lambda: (c := server.registry.get(channel)) and number in c._claims)


async def start_segment(connection: RawConnection, number: int, data: bytes) -> None:
    await connection.send("POST", f"/camera/{number}", chunked=True)
    if data:
        await connection.chunk(data)
