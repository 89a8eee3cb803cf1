"""The way between relay and ComfyStream goes wrong: packets are lost, all of them or some, or a
server takes connections and says nothing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.faults.scene import FPS, FREEZE_S, NOTICE_S, scene
from tests.peers.lossy_udp import lossy_udp
from tests.standin_process import standin_process

pytestmark = pytest.mark.timeout(60)


async def test_packets_that_just_stop_are_noticed_and_the_server_is_not_hung() -> None:
    """UDP goes nowhere for a while: noticed by the media, no goodbye gets through, so no prompts
    go to the server before it has missed its client; then all goes on."""
    with lossy_udp() as way:
        consent = ("--consent-interval", "0.8", "--consent-failures", "3")
        async with scene(*consent, quarantine_s=4.0) as found:
            lost_at = time.monotonic()
            way.loss = 1.0
            await found.wait_status(lambda s: s["status"] == "reconnecting")
            assert time.monotonic() - lost_at < NOTICE_S
            await found.wait_unprocessed()
            way.loss = 0.0
            await found.wait_processing(lambda p: p["error_code"] == "comfystream_quarantined")
            await found.wait_processed()
            await found.assert_unharmed(lost_at)
            state = await found.stack.comfystream.state()
            assert (state["hazards"], state["ended"][0]["lost"]) == ([], True)


async def test_media_that_can_not_get_through_from_the_start_is_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP works and UDP does not: webrtc_failed, with what to look at; the source is seen."""
    monkeypatch.setattr("relay.webrtc_client.CONNECT_TIMEOUT_S", 0.5)
    with lossy_udp() as way:
        way.loss = 1.0
        async with scene(warm=False) as found:
            status = await found.wait_status(
                lambda s: s["processing"]["error_code"] == "webrtc_failed"
            )
            assert "UDP" in status["processing"]["error"]
            assert status["status"] == "starting"
            await found.wait_unprocessed()
            await found.assert_unharmed()


@pytest.mark.parametrize(("loss", "most_missing"), [(0.01, 0.5), (0.05, 0.7)])
async def test_lost_packets_do_not_freeze_the_picture(loss: float, most_missing: float) -> None:
    """One and five of a hundred, both ways: no connection is given up, no freeze is long, and time
    rises; what is missing is a fraction."""
    with lossy_udp() as way:
        async with scene(media_timeout_s=8.0) as found:
            way.loss = loss
            began = time.monotonic()
            before = await found.skipped()
            first = found.viewer.frames[-1].number or 0
            await found.viewer.wait_for(lambda v: (v.frames[-1].number or 0) >= first + 3 * FPS)
            freeze_s = found.longest_freeze_s(began)
            numbers = [frame.number or 0 for frame in found.frames_since(began)]
            skipped = await found.skipped() - before
            way.loss = 0.0
            assert way.lost > 0
            missing = numbers[-1] - first - len(numbers)
            assert missing <= most_missing * 3 * FPS + skipped, skipped
            assert len(numbers) > 0.1 * 3 * FPS
            assert freeze_s < FREEZE_S
            await found.assert_time_rises()
            assert (await found.status())["processing"]["reconnects"] == 0


@asynccontextmanager
async def mute_server() -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """Takes connections, reads, and never says a word."""
    writers: list[asyncio.StreamWriter] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", writers
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


async def test_a_server_that_takes_connections_and_says_nothing_is_given_no_offer() -> None:
    """Half-open: found by a question that costs nothing, and asked again no faster than the
    backoff allows."""
    async with mute_server() as (url, connections):
        async with scene(
            request={"comfystream_url": url}, warm=False, reconnect_first_wait_s=0.4
        ) as found:
            status = await found.wait_status(lambda s: s["processing"]["error_code"])
            assert status["processing"]["error_code"] == "comfystream_unreachable"
            assert "did not answer" in status["processing"]["error"]
            await found.wait_unprocessed()
            assert 1 <= len(connections) <= 12


@asynccontextmanager
async def rewriting_server(upstream: str, address: str) -> AsyncIterator[str]:
    """A ComfyStream whose answers name `address` for all media."""

    async def pass_on(request: web.Request) -> web.Response:
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method, upstream + request.path, data=await request.read()
            ) as response,
        ):
            text = await response.text()
            if request.path == "/offer":
                text = re.sub(r"(candidate:\S+ \S+ udp \S+) \S+", rf"\1 {address}", text)
            return web.Response(
                text=text, status=response.status, content_type=response.content_type
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_an_answer_that_leads_elsewhere_is_not_followed() -> None:
    """Addresses that RELAY_ALLOWED_HOSTS does not name get no packet: the attempt ends at once,
    says so, and the source is seen. Those of the server itself work under the same rules."""
    rules = ("127.0.0.1",)
    async with standin_process() as server:
        async with rewriting_server(server.url, "127.0.0.2") as url:
            async with scene(
                request={"comfystream_url": url}, warm=False, allowed_hosts=rules
            ) as found:
                began = time.monotonic()
                status = await found.wait_status(lambda s: s["processing"]["error_code"])
                assert time.monotonic() - began < NOTICE_S
                assert status["processing"]["error_code"] == "host_not_allowed"
                assert "127.0.0.2" in status["processing"]["error"]
                assert status["status"] == "starting"
                await found.wait_unprocessed()
        assert (await server.state())["frames"]["received"] == 0
    async with scene(allowed_hosts=rules) as found:
        await found.wait_processed()
