"""The data channels: control requests and their replies, and text on its way out."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from aiortc import RTCDataChannel

from demo.standin.faults import FaultBoard
from demo.standin.pipeline import Pipeline

logger = logging.getLogger(__name__)

TEXT_POLL_INTERVAL_S = 0.25


class ControlChannel:
    """Answers the ``control`` channel of one connection.

    Args:
        channel: the open channel.
        pipeline: the one of the process; requests act on it whoever owns the workflow.
        noop: the connection was made without prompts. It gets success for everything that
            would touch the workflow, except for ``update_prompts``, which does touch it.
    """

    def __init__(
        self, channel: RTCDataChannel, pipeline: Pipeline, board: FaultBoard, *, noop: bool
    ) -> None:
        self.requests = 0
        self._channel = channel
        self._pipeline = pipeline
        self._board = board
        self._noop = noop

    async def answer(self, message: str | bytes) -> None:
        """Act on one message and reply, or not: what is not understood is only logged."""
        self.requests += 1
        try:
            request = json.loads(message)
        except ValueError:
            logger.error("control: not JSON")
            return
        if not isinstance(request, dict):
            logger.error("control: not an object")
            return
        if self._board.current.control_silent:
            return
        reply = await self._act(request)
        if reply is None:
            return
        await asyncio.sleep(self._board.current.control_delay_s)
        if self._channel.readyState == "open":
            self._channel.send(json.dumps(reply))

    async def _act(self, request: dict[str, Any]) -> dict[str, Any] | None:
        match request.get("type"):
            case "get_nodes":
                return {"type": "nodes_info", "nodes": self._pipeline.runner.describe()}
            case "update_prompts":
                return _reply("prompts_updated", await self._update_prompts(request))
            case "update_resolution":
                return _reply("resolution_updated", self._update_resolution(request))
            case "pause_prompts":
                if not self._noop:
                    self._pipeline.pause()
                return _reply("prompts_paused", None)
            case "resume_prompts":
                return _reply("prompts_resumed", self._resume())
            case "stop_prompts":
                if not self._noop:
                    await self._pipeline.stop_prompts(cleanup=False)
                return _reply("prompts_stopped", None)
            case other:
                logger.warning("control: unsupported type %r", other)
                return None

    async def _update_prompts(self, request: dict[str, Any]) -> str | None:
        if "prompts" not in request:
            return "Missing 'prompts' in control message"
        try:
            await self._pipeline.update_prompts(request["prompts"])
        except Exception as error:
            return str(error)
        return None

    def _update_resolution(self, request: dict[str, Any]) -> str | None:
        width, height = request.get("width"), request.get("height")
        if width is None or height is None:
            return "Missing 'width' or 'height' in control message"
        if not self._noop:
            self._pipeline.width, self._pipeline.height = width, height
        return None

    def _resume(self) -> str | None:
        if self._noop:
            return None
        try:
            self._pipeline.start_streaming()
        except Exception as error:
            return str(error)
        return None


async def forward_text(channel: RTCDataChannel, pipeline: Pipeline) -> None:
    """Send every text output, looking for more each quarter of a second."""
    while channel.readyState == "open":
        text = pipeline.media.next_text()
        if text is None or not text.strip():
            await asyncio.sleep(TEXT_POLL_INTERVAL_S)
            continue
        channel.send(json.dumps({"type": "text", "data": text}))


def _reply(kind: str, error: str | None) -> dict[str, Any]:
    if error is None:
        return {"type": kind, "success": True}
    return {"type": kind, "success": False, "error": error}
