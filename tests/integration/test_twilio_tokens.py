"""Twilio's token call, against a stand-in on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from relay.errors import ProcessingError
from relay.webrtc.ice_servers import TwilioTokens


@dataclass
class Twilio:
    """The stand-in: what it answers, and how often it was asked."""

    url: str = ""
    asked: int = 0
    status: int = 201
    text: str | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.path == "/2010-04-01/Accounts/AC1/Tokens.json"
        assert request.headers["Authorization"].startswith("Basic ")
        self.asked += 1
        number = self.asked
        self.reached.set()
        await self.may_answer.wait()
        if self.text is not None:
            return web.Response(text=self.text, status=self.status)
        servers = [{"urls": "turn:h:1", "username": f"u{number}", "credential": "c"}]
        return web.json_response({"ttl": "100", "ice_servers": servers}, status=self.status)


@asynccontextmanager
async def twilio() -> AsyncIterator[tuple[Twilio, aiohttp.ClientSession]]:
    stand_in = Twilio()
    stand_in.may_answer.set()
    app = web.Application()
    app.router.add_post("/{path:.*}", stand_in.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as http:
            yield stand_in, http
    finally:
        await runner.cleanup()


async def test_a_token_is_used_for_half_its_life() -> None:
    """A connection gets credentials that hold for a while yet; then a new token is fetched."""
    clock = [0.0]
    async with twilio() as (stand_in, http):
        tokens = TwilioTokens(http, "AC1", "s", base_url=stand_in.url, now=lambda: clock[0])
        names = []
        for clock[0] in (1000.0, 1049.0, 1050.0, 1099.0, 1100.0):
            [server] = await tokens.current()
            names.append(server["username"])
        assert names == ["u1", "u1", "u2", "u2", "u3"]
        assert stand_in.asked == 3


async def test_many_connections_at_once_ask_once() -> None:
    """Those that come meanwhile wait for the answer under way."""
    async with twilio() as (stand_in, http):
        stand_in.may_answer.clear()
        tokens = TwilioTokens(http, "AC1", "s", base_url=stand_in.url)
        waiting = [asyncio.ensure_future(tokens.current()) for _ in range(5)]
        await stand_in.reached.wait()
        stand_in.may_answer.set()
        assert len({str(servers) for servers in await asyncio.gather(*waiting)}) == 1
        assert stand_in.asked == 1


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (401, "no", "TWILIO_AUTH_TOKEN"),
        (500, "no", "answered 500"),
        (307, "no", "answered 307"),
        (201, "no", "not a token"),
        (201, "x" * 200_000, "not a token"),
    ],
)
async def test_what_goes_wrong_is_said_and_the_next_connection_asks_again(
    status: int, text: str, words: str
) -> None:
    """An error of the connection's, which is tried again; the secret is not in it."""
    async with twilio() as (stand_in, http):
        tokens = TwilioTokens(http, "AC1", "hunter2", base_url=stand_in.url)
        stand_in.status, stand_in.text = status, text
        with pytest.raises(ProcessingError, match=words) as caught:
            await tokens.current()
        assert caught.value.code == "ice_servers_unavailable"
        assert "hunter2" not in caught.value.message
        stand_in.status, stand_in.text = 201, None
        assert len(await tokens.current()) == 1


async def test_a_service_that_is_not_there_is_said_too() -> None:
    """Nothing listens: the same error."""
    async with twilio() as (stand_in, http):
        url = stand_in.url
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ProcessingError, match="can't be reached"):
            await TwilioTokens(http, "AC1", "s", base_url=url).current()
