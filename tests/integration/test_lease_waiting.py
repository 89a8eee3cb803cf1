"""Waiting for a server until it can take prompts."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from relay.comfystream.leases import ServerLeases
from relay.comfystream.quarantine import QuarantineRules
from tests.peers.probed_server import probed_server
from tests.peers.waiting import until


async def test_whoever_gives_up_waiting_can_say_what_for() -> None:
    """Another client has the server: that is the reason, not that it can't be reached."""
    async with probed_server() as server, aiohttp.ClientSession() as http:
        server.streams = {"another": {}}
        leases = ServerLeases(QuarantineRules(), http, saved=None, save=lambda _: None)
        lease = leases.acquire(server.url, "session")
        waiting = asyncio.create_task(lease.wait_until_safe())
        await until(lambda: lease.waiting is not None)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert lease.waiting is not None
        assert lease.waiting.code == "comfystream_busy"
        server.streams = {}
        await lease.wait_until_safe()
        assert lease.waiting is None
        lease.release()
        await leases.aclose()
