"""A Livepeer gateway and the orchestrator beneath it, as far as a worker sees them.

Makes the channels as an orchestrator does (nobody else may), starts the stream on a worker, sends
keepalives and parameters on the control channel, and watches the events channel by the gateway's
rule: 30 s without one that can be read, and the stream is taken from the worker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import CreatePolicy, PublisherOptions
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscriber import TrickleSubscriber

SILENCE_LIMIT_S = 30.0
BASE_PATH = "/ai/trickle/"
KINDS = {
    "": "video/MP2T",
    "-out": "video/MP2T",
    "-control": "application/json",
    "-events": "application/json",
    "-data": "application/jsonl",
}
FIELDS = {
    "": "subscribe_url",
    "-out": "publish_url",
    "-control": "control_url",
    "-events": "events_url",
    "-data": "data_url",
}


def trickle_options() -> ServerOptions:
    """An orchestrator's: channels under a path, none made from outside."""
    return ServerOptions(base_path=BASE_PATH, autocreate=False)


@dataclass
class Gateway:
    """One stream on one worker.

    Args:
        worker_url: the worker's, without a trailing slash.
    """

    trickle: TrickleServer
    worker_url: str
    http: aiohttp.ClientSession
    stream_id: str = "s1"
    events: list[dict[str, Any]] = field(default_factory=list)
    """Messages, in order."""
    video_in: bool = True
    video_out: bool = True
    data: bool = True
    """What the job has (enable_video_ingress, enable_video_egress, enable_data_output)."""
    unreadable: list[bytes] = field(default_factory=list)
    heard_at: list[float] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def channel(self, suffix: str = "") -> str:
        base = self.trickle.url.rstrip("/")
        path = "" if base.endswith(BASE_PATH.rstrip("/")) else BASE_PATH.rstrip("/")
        return f"{base}{path}/{self.stream_id}{suffix}"

    def make_channels(self) -> None:
        """As an orchestrator does before it asks the worker."""
        for suffix, kind in KINDS.items():
            if suffix in self.channels:
                self.trickle.create_channel(f"{self.stream_id}{suffix}", kind)

    @property
    def channels(self) -> dict[str, str]:
        """Those that the job has: what a start calls each, by how its name ends."""
        wanted = {"": self.video_in, "-out": self.video_out, "-data": self.data}
        return {suffix: name for suffix, name in FIELDS.items() if wanted.get(suffix, True)}

    def close_channels(self) -> None:
        """The end of the stream, from above."""
        for suffix in self.channels:
            self.trickle.delete_channel(f"{self.stream_id}{suffix}")

    async def start(self, **params: Any) -> tuple[int, dict[str, Any]]:
        """`POST /stream/start`, with the channels that the job has."""
        body: dict[str, Any] = {"gateway_request_id": self.stream_id, "params": params}
        body |= {name: self.channel(suffix) for suffix, name in self.channels.items()}
        return await self._post("/stream/start", json.dumps(body).encode())

    async def stop(self, reason: str = "") -> tuple[int, dict[str, Any]]:
        """`POST /stream/stop`, with what went wrong as its body."""
        return await self._post("/stream/stop", reason.encode())

    async def update(self, **params: Any) -> tuple[int, dict[str, Any]]:
        """`POST /stream/params`, BYOC's way to change a stream."""
        return await self._post("/stream/params", json.dumps(params).encode())

    async def send_control(self, *messages: dict[str, Any]) -> None:
        """One object a segment, with the type that gateways send."""
        options = PublisherOptions(create=CreatePolicy.NEVER)
        publisher = TricklePublisher(self.channel("-control"), options=options)
        await publisher.start()
        try:
            for message in messages:
                async with await publisher.next_segment() as segment:
                    await segment.write(json.dumps(message).encode())
        finally:
            await publisher.aclose(delete=False)

    async def watch_events(self) -> None:
        """Read the events channel to its end.

        Raises:
            TimeoutError: nothing that can be read for 30 s: the gateway would leave the worker.
        """
        loop = asyncio.get_running_loop()
        async with TrickleSubscriber(self.channel("-events"), start=0) as source:
            segments = aiter(source)
            while True:
                try:
                    async with asyncio.timeout(SILENCE_LIMIT_S):
                        segment = await anext(segments)
                        body = await segment.read()
                except StopAsyncIteration:
                    return
                if body and self._take(body):
                    self.heard_at.append(loop.time())
                self.changed.set()

    async def wait_for(
        self, condition: Callable[[list[dict[str, Any]]], object], timeout_s: float = 20.0
    ) -> None:
        """Return once `condition` holds of the events so far."""
        async with asyncio.timeout(timeout_s):
            while not condition(self.events):
                self.changed.clear()
                await self.changed.wait()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The events of that type."""
        return [m["event"] for m in self.events if m["event"]["type"] == kind]

    def _take(self, body: bytes) -> bool:
        try:
            message = json.loads(body)  # one object a segment: two would not be read
            message["event"]["type"]
        except (ValueError, KeyError, TypeError):
            self.unreadable.append(body)
            return False
        self.events.append(message)
        return True

    async def _post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        async with self.http.post(
            self.worker_url + path,
            data=body,
            headers={"X-Stream-Id": self.stream_id},
            skip_auto_headers=["Content-Type"],
        ) as answer:
            return answer.status, await answer.json()
