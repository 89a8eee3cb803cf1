"""`POST {comfystream}/offer`: how a WebRTC connection to ComfyStream begins.

The answer comes only after the workflow has been loaded and run five times, so it may take
minutes; a refusal is always the same text "500 Internal Server Error", with the cause in the
server's own log alone (measured; there is no code to tell the causes apart).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from relay.errors import ProcessingError
from relay.http_body import read_body

MAX_ANSWER_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 10


async def exchange_offer(
    http: aiohttp.ClientSession,
    base_url: str,
    offer_sdp: str,
    *,
    prompts: Sequence[dict[str, Any]],
    width: int,
    height: int,
    timeout_s: float,
) -> str:
    """Send our offer, get the answer's SDP.

    Args:
        base_url: ComfyStream's, without a trailing slash; may end in ``/live``.
        prompts: API-format workflows; empty for passthrough.
        timeout_s: for the whole exchange, workflow loading included.

    Raises:
        ProcessingError: with code `comfystream_unreachable`, `comfystream_timeout`,
            `comfystream_refused` or `comfystream_bad_answer`. A time-out may have left a
            workflow loading on the server: it should not be asked again at once.
    """
    body: dict[str, Any] = {
        "prompts": list(prompts),
        "offer": {"sdp": offer_sdp, "type": "offer"},
        "resolution": {"width": width, "height": height},
    }
    url = f"{base_url}/offer"
    try:
        async with asyncio.timeout(timeout_s):
            async with http.post(
                url,
                json=body,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                text = (await read_body(response, MAX_ANSWER_BYTES)).decode("utf-8", "replace")
                if response.status == 404:
                    raise ProcessingError(
                        "POST /offer is unknown there: is comfystream_url the address of a"
                        " ComfyStream server (default port 8889)?",
                        code="comfystream_refused",
                    )
                if response.status != 200:
                    raise ProcessingError(
                        f"ComfyStream answered {response.status} to /offer: see its log for the"
                        " cause; a workflow that it can't run is the usual one",
                        code="comfystream_refused",
                    )
    except aiohttp.ConnectionTimeoutError as error:
        raise ProcessingError(
            f"can't reach ComfyStream: no connection within {CONNECT_TIMEOUT_S} s; start it, or"
            " correct comfystream_url",
            code="comfystream_unreachable",
        ) from error
    except TimeoutError:
        raise ProcessingError(
            f"ComfyStream did not answer /offer within {timeout_s:g} s: the workflow is still"
            " loading, or the server hangs and needs a restart",
            code="comfystream_timeout",
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ProcessingError(
            f"can't reach ComfyStream: {reason}; start it, or correct comfystream_url",
            code="comfystream_unreachable",
        ) from error
    return _answer_sdp(text)


def _answer_sdp(text: str) -> str:
    try:
        answer = json.loads(text)
        sdp, kind = answer["sdp"], answer["type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        sdp, kind = None, None
    if kind != "answer" or not isinstance(sdp, str) or "m=" not in sdp:
        raise ProcessingError(
            "the reply to /offer is no WebRTC answer: is comfystream_url a ComfyStream server?",
            code="comfystream_bad_answer",
        )
    return sdp
