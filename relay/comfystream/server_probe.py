"""`GET {comfystream}/streams/stats`: is the server there, and does its pipeline serve anybody?

The one question that a ComfyStream answers about its pipeline: the route lists the video of every
client with prompts, from its offer until its connection has ended. `/health` says "OK" whatever
happens (measured).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

from relay.errors import ProcessingError
from relay.http_body import read_body

MAX_ANSWER_BYTES = 1024 * 1024


class ServerAnswer(StrEnum):
    """What the server says of itself."""

    FREE = "free"
    """No client with prompts."""
    IN_USE = "in_use"
    """There is one, or one that vanished and is not missed yet."""
    UNTOLD = "untold"
    """It answers, but not this: a version, or a proxy, without the route."""
    GONE = "gone"
    """Nobody listens: the process has ended, and with it everything it held."""
    SILENT = "silent"
    """No answer, for whatever other reason."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to one question."""

    answer: ServerAnswer
    problem: str = ""
    """Why there was none, in words."""

    def error(self) -> ProcessingError | None:
        """What it means for whoever wants to use the server; None if it can be talked to."""
        if self.answer not in (ServerAnswer.GONE, ServerAnswer.SILENT):
            return None
        return ProcessingError(
            f"can't reach ComfyStream: {self.problem}; start it, or correct comfystream_url",
            code="comfystream_unreachable",
        )


async def probe_server(http: aiohttp.ClientSession, base_url: str, *, timeout_s: float) -> Probe:
    """Ask once. Never raises for the server's faults.

    Args:
        base_url: ComfyStream's, without a trailing slash; may end in ``/live``.
    """
    try:
        async with asyncio.timeout(timeout_s):
            async with http.get(
                f"{base_url}/streams/stats",
                timeout=aiohttp.ClientTimeout(total=None),
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    return Probe(ServerAnswer.UNTOLD)
                text = await read_body(response, MAX_ANSWER_BYTES)
    except TimeoutError:
        return Probe(ServerAnswer.SILENT, f"it did not answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        refused = isinstance(cause, ConnectionRefusedError)
        return Probe(ServerAnswer.GONE if refused else ServerAnswer.SILENT, _in_words(cause))
    try:
        streams = json.loads(text)
    except (ValueError, RecursionError):
        return Probe(ServerAnswer.UNTOLD)
    if not isinstance(streams, dict):
        return Probe(ServerAnswer.UNTOLD)
    return Probe(ServerAnswer.IN_USE if streams else ServerAnswer.FREE)


def _in_words(cause: Exception) -> str:
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno).lower()
    return getattr(cause, "strerror", None) or type(cause).__name__
