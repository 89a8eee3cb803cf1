"""What a ComfyStream answers, however it comes over the network."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relay.comfystream.server_probe import ServerAnswer, probe_server
from relay.comfystream.signalling import exchange_offer
from relay.errors import ProcessingError
from tests.peers.waiting import until

SDP = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


@asynccontextmanager
async def answering(
    body: bytes, arrived: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A server that answers `/offer` and `/streams/stats` with `body`, in two parts, the second
    once the first has `arrived`; its address, and a client."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        middle = len(body) // 2
        await response.write(body[:middle])
        if arrived is not None:
            await arrived()
        await response.write(body[middle:])
        return response

    app = web.Application()
    app.router.add_post("/offer", answer)
    app.router.add_get("/streams/stats", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        yield str(server.make_url("")).rstrip("/"), http


async def offer(http: aiohttp.ClientSession, url: str) -> str:
    return await exchange_offer(http, url, "v=0", prompts=[], width=16, height=16, timeout_s=10)


async def test_an_answer_in_two_parts_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it comes from another machine: the first read gives what is there by then."""
    reads = 0
    read = aiohttp.StreamReader.read

    async def counted(self: aiohttp.StreamReader, n: int = -1) -> bytes:
        nonlocal reads
        part = await read(self, n)
        reads += 1
        return part

    monkeypatch.setattr(aiohttp.StreamReader, "read", counted)
    body = json.dumps({"sdp": SDP, "type": "answer"}).encode()
    async with answering(body, lambda: until(lambda: reads == 1)) as (url, http):
        assert await offer(http, url) == SDP
    reads = 0
    async with answering(b'{"stream": {}}', lambda: until(lambda: reads == 1)) as (url, http):
        assert (await probe_server(http, url, timeout_s=5)).answer is ServerAnswer.IN_USE


async def test_an_answer_nested_beyond_reading_is_none() -> None:
    """200 000 lists in one another."""
    async with answering(b"[" * 200_000) as (url, http):
        with pytest.raises(ProcessingError) as caught:
            await offer(http, url)
        assert caught.value.code == "comfystream_bad_answer"
        assert (await probe_server(http, url, timeout_s=5)).answer is ServerAnswer.UNTOLD


async def test_no_connection_in_time_is_no_server_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One whose queue of connections is full drops what comes, as a dead machine does."""
    monkeypatch.setattr("relay.comfystream.signalling.CONNECT_TIMEOUT_S", 0.2)
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        async with aiohttp.ClientSession() as http:
            with pytest.raises(ProcessingError) as caught:
                await offer(http, f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert caught.value.code == "comfystream_unreachable"
