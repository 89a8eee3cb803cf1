"""Bodies of answers, of which nobody knows how long they are."""

from __future__ import annotations

import aiohttp


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or its first `most` bytes: no more is read.

    Reading the stream once gives what has come so far, which over a network is often not all.
    """
    body = bytearray()
    while len(body) < most and (part := await response.content.read(most - len(body))):
        body += part
    return bytes(body)
