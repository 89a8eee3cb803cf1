"""ComfyStream's `control` data channel: requests, and the replies that belong to them.

The channel has no request ids. A reply is known by its type alone, so at most one request of a
type is under way at a time; the next one waits for its turn. What the server does not understand
it does not answer, so every request has a time limit (all measured).

Knows nothing of WebRTC: whoever has the channel gives `send`, and hands over what comes.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import structlog

from relay.errors import ProcessingError

log = structlog.get_logger(__name__)

REPLIES = {
    "get_nodes": "nodes_info",
    "update_prompts": "prompts_updated",
    "update_resolution": "resolution_updated",
    "pause_prompts": "prompts_paused",
    "resume_prompts": "prompts_resumed",
    "stop_prompts": "prompts_stopped",
}
"""The type of the reply to each type of request."""
TIMEOUT_S = 5.0
"""An update takes about 50 ms, as it runs the workflow once; a slow workflow takes longer."""
UNKNOWN_REPLY_S = 1.0
"""For messages of types that are not in `REPLIES`, which the version at hand does not answer."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""A description of a large workflow's nodes has some hundred KB."""


class ControlClient:
    """Requests on one connection's control channel. All methods belong to the event loop.

    ::

        control = ControlClient(channel.send)
        channel.on("open", control.opened)
        channel.on("message", control.receive)
        nodes = await control.get_nodes()

    Args:
        send: puts a text message on the channel, which is open by then.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._open = asyncio.Event()
        self._closed = False
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unclaimed: asyncio.Future[dict[str, Any]] | None = None
        self._unknown_turn = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def opened(self) -> None:
        """The channel can be sent on."""
        self._open.set()

    def close(self) -> None:
        """The channel is gone: whoever waits is told. Idempotent."""
        self._closed = True
        self._open.set()
        for waiting in (*self._waiting.values(), self._unclaimed):
            if waiting is not None and not waiting.done():
                waiting.set_exception(_gone())

    def receive(self, message: str | bytes) -> None:
        """A message came. What is no reply that is waited for is dropped."""
        if len(message) > MAX_MESSAGE_BYTES:
            log.warning("comfystream.control_ignored", problem="too long", bytes=len(message))
            return
        try:
            # A node whose input has no bound says Infinity, which is no JSON for whoever asked.
            reply = json.loads(message, parse_constant=lambda _: None, parse_float=_finite)
            kind = reply["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            log.debug("comfystream.control_ignored", problem="not a reply")
            return
        waiting = self._waiting.get(kind) if isinstance(kind, str) else None
        waiting = waiting or self._unclaimed
        if waiting is None or waiting.done():
            log.debug("comfystream.control_ignored", problem="nobody waits for it")
            return
        waiting.set_result(reply)

    async def request(
        self, kind: str, *, timeout_s: float = TIMEOUT_S, **fields: Any
    ) -> dict[str, Any]:
        """Send a request and wait for its reply.

        A cancel, like the time limit, leaves the request with the server: a reply that comes later
        may be taken for that of the next request of the type.

        Args:
            kind: one of `REPLIES`.
            timeout_s: from being sent to the reply; the turn before it has its own.
            fields: the rest of the request, JSON values.

        Raises:
            ProcessingError: `control_timeout`; `control_closed`; `control_failed`, with the
                server's own words.
        """
        reply = await self._exchange(kind, fields, timeout_s)
        if reply.get("success") is False:
            raise ProcessingError(
                f"ComfyStream refused {kind}: {str(reply.get('error'))[:500]}",
                code="control_failed",
            )
        return reply

    async def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Send any message as it is.

        Returns:
            The reply, also a refusal; None if there is none, as for what the server does not know.

        Raises:
            ProcessingError: `control_closed`; `control_timeout` for a type that is answered.
        """
        kind = message.get("type")
        if isinstance(kind, str) and kind in REPLIES:
            fields = {name: value for name, value in message.items() if name != "type"}
            return await self._exchange(kind, fields, TIMEOUT_S)
        async with self._unknown_turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._until_open()
            except TimeoutError:
                raise ProcessingError(
                    f"ComfyStream did not open its control channel within {TIMEOUT_S:g} s",
                    code="control_timeout",
                ) from None
            self._unclaimed = asyncio.get_running_loop().create_future()
            try:
                self._send(json.dumps(message))
                async with asyncio.timeout(UNKNOWN_REPLY_S):
                    return await self._unclaimed
            except TimeoutError:
                return None
            finally:
                self._unclaimed = None

    async def _exchange(
        self, kind: str, fields: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        expected = REPLIES[kind]
        async with self._turns[kind]:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._until_open()
                    waiting: asyncio.Future[dict[str, Any]] = (
                        asyncio.get_running_loop().create_future()
                    )
                    self._waiting[expected] = waiting
                    self._send(json.dumps({"type": kind, **fields}))
                    return await waiting
            except TimeoutError:
                raise ProcessingError(
                    f"ComfyStream did not answer {kind} within {timeout_s:g} s",
                    code="control_timeout",
                ) from None
            finally:
                self._waiting.pop(expected, None)

    async def _until_open(self) -> None:
        await self._open.wait()
        if self._closed:
            raise _gone()

    async def get_nodes(self, *, timeout_s: float = TIMEOUT_S) -> list[dict[str, Any]]:
        """The nodes of each workflow that the server runs, by node id; as
        ``{"class_type", "inputs": {name: {"value", "type", "min", "max", "widget"}}}`` each.

        Raises:
            ProcessingError: as `request`; `control_failed` for an answer of another shape.
        """
        reply = await self.request("get_nodes", timeout_s=timeout_s)
        nodes = reply.get("nodes")
        if not isinstance(nodes, dict) or not all(isinstance(n, dict) for n in nodes.values()):
            raise ProcessingError(
                "ComfyStream's answer to get_nodes holds no nodes", code="control_failed"
            )
        return list(nodes.values())


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _gone() -> ProcessingError:
    return ProcessingError("the connection to ComfyStream has ended", code="control_closed")
