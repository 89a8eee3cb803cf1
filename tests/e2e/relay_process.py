"""The relay as the process that it is in production, for tests of signals and crashes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.stack import DEADLINE_S, INVERT

START_TIMEOUT_S = 40.0
"""The interpreter and its imports, on a machine that has much else to do."""
REPOSITORY = Path(__file__).resolve().parent.parent.parent


class RelayProcess:
    """A running relay: its API, its log, its end."""

    def __init__(self, process: asyncio.subprocess.Process, http: aiohttp.ClientSession) -> None:
        self._process = process
        self._http = http
        self._changed = asyncio.Event()
        self._ended = False
        self.records: list[dict[str, Any]] = []
        """The log so far."""
        self.url = ""

    async def read_log(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            with suppress(ValueError):
                self.records.append(json.loads(line))
            self._changed.set()
        self._ended = True
        self._changed.set()

    async def logged(
        self, event: str, *, timeout_s: float = DEADLINE_S, **fields: Any
    ) -> dict[str, Any]:
        """The first log line of that event and with these fields, waited for."""

        def found() -> dict[str, Any] | None:
            for record in self.records:
                if record["event"] == event and fields.items() <= record.items():
                    return record
            return None

        async with asyncio.timeout(timeout_s):
            while (record := found()) is None:
                assert not self._ended, f"the relay ended without {event}: {self.records}"
                self._changed.clear()
                await self._changed.wait()
        return record

    async def call(
        self, method: str, path: str, **request: Any
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        async with self._http.request(method, self.url + path, **request) as response:
            return response.status, await response.json(), dict(response.headers)

    async def start(self, channel: str, comfystream_url: str, **request: Any) -> str:
        """Start a session; its id."""
        body = {"input_stream_url": channel, "comfystream_url": comfystream_url, "prompts": INVERT}
        status, answer, _ = await self.call("POST", "/session/start", json=body | request)
        assert status == 200, answer
        return str(answer["session_id"])

    async def wait_for_status(
        self, session_id: str, condition: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                _, answer, _ = await self.call("GET", f"/session/{session_id}/status")
                if condition(answer["session"]):
                    session: dict[str, Any] = answer["session"]
                    return session
                await asyncio.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self, timeout_s: float = DEADLINE_S) -> int:
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()


@asynccontextmanager
async def relay_process(**settings: str) -> AsyncIterator[RelayProcess]:
    """Start a relay on 127.0.0.1 and a free port, with `RELAY_*` settings; kill what is left."""
    # How busy the machine of the tests is decides nothing.
    settings = {"max_load": "0", "shed": "false"} | settings
    variables = {f"RELAY_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "trickle_relay_service.py", "--host", "127.0.0.1", "--port", "0"],
        cwd=REPOSITORY,
        env={**os.environ, "RELAY_LOG_FORMAT": "json", **variables},
        stderr=asyncio.subprocess.PIPE,
    )
    async with aiohttp.ClientSession() as http:
        relay = RelayProcess(process, http)
        reading = asyncio.ensure_future(relay.read_log())
        try:
            listening = await relay.logged("relay.listening", timeout_s=START_TIMEOUT_S)
            relay.url = f"http://127.0.0.1:{listening['port']}"
            yield relay
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading
