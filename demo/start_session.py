"""Starts one session over the HTTP API and waits until it is active; for the compose demo.

python -m demo.start_session --relay http://relay:8890 --input http://trickle:3389/demo
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import aiohttp

from demo.relay_api import api_headers

START_TIMEOUT_S = 60.0
RETRY_S = 1.0
INVERT: list[dict[str, Any]] = [
    {
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
    }
]


async def start(relay: str, request: dict[str, Any]) -> str:
    """Start a session, asking again while the relay is not up; returns its id.

    Raises:
        SystemExit: the relay refuses, or is not up within a minute.
    """
    async with aiohttp.ClientSession(headers=api_headers()) as http:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    try:
                        async with http.post(f"{relay}/session/start", json=request) as response:
                            answer = await response.json(content_type=None)
                    except aiohttp.ClientError:
                        await asyncio.sleep(RETRY_S)
                        continue
                    if not answer.get("success"):
                        raise SystemExit(f"the relay refuses: {answer.get('error', answer)}")
                    return str(answer["session_id"])
        except TimeoutError:
            raise SystemExit(f"no relay at {relay} within {START_TIMEOUT_S:g} s") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relay", default="http://127.0.0.1:8890", help="the relay's address")
    parser.add_argument("--input", required=True, help="trickle channel to read")
    parser.add_argument("--output", help="channel to write; default: the input with -processed")
    parser.add_argument("--comfystream", help="ComfyStream's address; default: the relay's own")
    arguments = parser.parse_args()
    request: dict[str, Any] = {"input_stream_url": arguments.input, "prompts": INVERT}
    if arguments.output:
        request["output_stream_url"] = arguments.output
    if arguments.comfystream:
        request["comfystream_url"] = arguments.comfystream
    session_id = asyncio.run(start(arguments.relay.rstrip("/"), request))
    print(json.dumps({"session_id": session_id}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
