"""Events and logs of real sessions, as an operator reads them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.server import TrickleServer
from tests.e2e.relay_process import relay_process
from tests.e2e.stack import Stack, in_background, running_stack
from tests.faults.scene import scene
from tests.peers.ports import free_port
from tests.standin_process import standin_process

OPTIONS = PatternOptions(frames=1800, plain=True, audio=False)
Seen = list[tuple[str, dict[str, Any]]]


class Reader:
    """Reads a stream of server-sent events into `seen`, in the background."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self.last_id: str | None = None
        self.ended = False
        self._changed = asyncio.Event()

    async def read(self, response: aiohttp.ClientResponse) -> None:
        kind = "message"
        async for raw in response.content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                self.last_id = value
            elif name == "data":
                self.seen.append((kind, json.loads(value)))
            self._changed.set()
        self.ended = True
        self._changed.set()

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first event of a kind and with these fields, waited for."""
        async with asyncio.timeout(20.0):
            while True:
                for seen_kind, data in self.seen:
                    if seen_kind == kind and fields.items() <= data.items():
                        return data
                assert not self.ended, f"the stream ended without {kind} {fields}: {self.kinds()}"
                self._changed.clear()
                await self._changed.wait()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for seen_kind, data in self.seen if seen_kind == kind]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.seen if kind != "status"]


@asynccontextmanager
async def reading(http: aiohttp.ClientSession, url: str, **headers: str) -> AsyncIterator[Reader]:
    """A reader of the events at `url`."""
    reader = Reader()
    async with http.get(url, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async with in_background(reader.read(response)):
            yield reader


def events_of(stack: Stack, session_id: str) -> str:
    return f"{stack.relay_url}/session/{session_id}/events"


@pytest.mark.timeout(90)
async def test_a_session_tells_its_life() -> None:
    """First frames, states, a change and its answer, the end, in the order in which they happen;
    the status comes by itself, and the stream ends with the session."""
    async with running_stack() as stack:
        async with (
            in_background(publish_live(stack.channel("camera"), generate(OPTIONS))),
            reading(stack.http, f"{stack.relay_url}/events") as every,
        ):
            session = await stack.start("camera")
            async with reading(stack.http, events_of(stack, session) + "?history=true") as one:
                await one.until("first_frame", at="output")
                assert (await one.until("status"))["session"]["session_id"] == session
                answer = await stack.call("PATCH", f"/session/{session}", json={"paused": True})
                assert answer[0] == 200
                await one.until("change", result="applied")
                await stack.call("DELETE", f"/session/{session}")
                await one.until("end")
            await every.until("state", new="stopped")
    states = [(data["old"], data["new"], data["reason"]) for data in one.of("state")]
    assert states[0] == (None, "starting", "requested")
    assert states[-2:] == [
        ("active", "stopping", "requested"),
        ("stopping", "stopped", "requested"),
    ]
    assert {data["at"] for data in one.of("first_frame")} == {"input", "processed", "output"}
    assert one.of("change")[0]["fields"] == ["paused"]
    assert one.of("state")[-1]["end_reason"] == "requested"
    told = [(kind, data) for kind, data in one.seen if kind not in ("status", "end")]
    assert all(data["session_id"] == session for _, data in told)
    assert [seen for seen in every.seen if seen[0] != "status"] == told
    overviews = [entry for data in every.of("status") for entry in data["sessions"]]
    assert {entry["session_id"] for entry in overviews} == {session}


@pytest.mark.timeout(90)
async def test_a_server_that_goes_and_comes_is_told() -> None:
    """The failure with its code, the state, and that a connection stands again."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with standin_process("--port", str(port)) as server:
        async with scene(request={"comfystream_url": url}, watched=False, warm=False) as found:
            async with reading(
                found.stack.http, events_of(found.stack, found.session_id) + "?history=true"
            ) as reader:
                await reader.until("first_frame", at="processed")
                server.kill()
                await reader.until("error", code="media_timeout")
                await reader.until("state", new="reconnecting")
                await reader.until("error", code="comfystream_unreachable")
                async with standin_process("--port", str(port)):
                    await reader.until("reconnect", reconnects=1)
                    await reader.until("state", old="reconnecting", new="active")
                    await found.stack.call("DELETE", f"/session/{found.session_id}")


@pytest.mark.timeout(90)
async def test_a_workflow_that_is_too_slow_is_told_as_drops() -> None:
    """20 frames a second into a workflow of 200 ms: most are skipped, and it is said how many."""
    async with scene("--process-ms", "200", watched=False, warm=False) as found:
        async with reading(
            found.stack.http, events_of(found.stack, found.session_id) + "?history=true"
        ) as reader:
            drops = await reader.until("drops", queue="decoded_frames", reason="server_busy")
    assert drops["per_second"] > 2
    assert drops["count"] >= 2


@pytest.mark.timeout(120)
async def test_listeners_are_let_go_when_the_relay_ends_and_logs_are_there_until_then() -> None:
    """SIGTERM while somebody listens: he hears of the drain, of the session's end, then the end;
    nothing holds the process up. The session's log could be read, without its secrets."""
    async with (
        TrickleServer(host="127.0.0.1", port=0) as trickle,
        standin_process() as standin,
        aiohttp.ClientSession() as http,
    ):
        channel = f"{trickle.url.rstrip('/')}/camera"
        async with relay_process() as relay:
            async with (
                in_background(publish_live(channel, generate(OPTIONS))),
                reading(http, f"{relay.url}/events") as reader,
            ):
                session = await relay.start(f"{channel}?token=hunter2", standin.url)
                await reader.until("state", new="active")
                _, answer, _ = await relay.call("GET", f"/session/{session}/logs")
                relay.send(signal.SIGTERM)
                assert (await reader.until("relay"))["problem"] == "draining"
                assert (await reader.until("state", new="stopped"))["end_reason"] == "drained"
                await reader.until("end")
                assert await relay.exit_code() == 0
    events = [line["event"] for line in answer["lines"]]
    assert {"session.start", "session.state"} <= set(events)
    assert all(line["session_id"] == session for line in answer["lines"])
    assert "hunter2" not in json.dumps(answer)
    assert answer["lines_before"] == 0
