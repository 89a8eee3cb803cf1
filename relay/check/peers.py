"""Tries the servers that sessions would talk to, with what a session would do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp

from relay.comfystream.server_probe import ServerAnswer, probe_server
from relay.comfystream.signalling import exchange_offer
from relay.errors import ProcessingError, TrickleError
from relay.media.access_unit import CLOCK_RATE, DecodedFrame, SourceFrame
from relay.media.picture import black_picture
from relay.queues import MediaQueue
from relay.resources import PipelineResources
from relay.tasks import cancel_and_wait
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import PublisherOptions
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from relay.webrtc_client import WebRTCClient

PROBE_TIMEOUT_S = 5.0
OFFER_TIMEOUT_S = 15.0
"""Without prompts nothing is loaded."""
MEDIA_TIMEOUT_S = 10.0
FRAMES = 30
WIDTH = HEIGHT = 256
FPS = 30
TRICKLE_TIMEOUT_S = 10.0
SEGMENT = b"\x47\x1f\xff\x10" + bytes(184)
"""A null packet (ISO/IEC 13818-1, 2.4.1): players pass over it."""

Said = tuple[str, str | None, str]
"""What was tried, what is wrong with it (None: nothing), and what to do about that."""


async def check_comfystream(url: str, resources: PipelineResources) -> AsyncIterator[Said]:
    """Reachable; takes an offer without prompts; returns media. What runs there is not disturbed.

    Args:
        url: without a trailing slash.
    """
    probe = await probe_server(resources.http, url, timeout_s=PROBE_TIMEOUT_S)
    if probe.error() is not None:
        yield "is not reachable", probe.problem, "start it, or correct its address"
        return
    state = {
        ServerAnswer.FREE: "is reachable and free",
        ServerAnswer.IN_USE: "is reachable, and a client with prompts uses it",
        ServerAnswer.UNTOLD: "answers, though not to /streams/stats",
    }
    yield state.get(probe.answer, "answers"), None, ""
    client = _client(url, resources)
    frames: MediaQueue[SourceFrame] = MediaQueue("decoded_frames", 4)
    enough = asyncio.Event()
    came = 0

    def count(_unit: object) -> None:
        nonlocal came
        came += 1
        if came >= FRAMES:
            enough.set()

    feeding = asyncio.create_task(_feed(frames), name="preflight frames")
    try:
        try:
            await client.connect(frames, count)
        except ProcessingError as error:
            what, _, remedy = error.message.partition("; ")
            yield "takes no offer", what, remedy or "see its log"
            return
        yield "takes offers, and media finds its way", None, ""
        with suppress(TimeoutError):
            async with asyncio.timeout(MEDIA_TIMEOUT_S):
                await enough.wait()
        round_trip = client.ledger.round_trip.percentiles_ms()
        if came >= FRAMES and round_trip is not None:
            yield f"returns media: {came} frames, round trip {round_trip['p50']:.0f} ms", None, ""
        else:
            yield (
                "returns too little media",
                f"{came} of {FRAMES} frames in {MEDIA_TIMEOUT_S:g} s",
                "see its log; let UDP through in both directions",
            )
    finally:
        await cancel_and_wait([feeding])
        await client.aclose()


def _client(url: str, resources: PipelineResources) -> WebRTCClient:
    async def offer(sdp: str) -> str:
        return await exchange_offer(
            resources.http,
            url,
            sdp,
            prompts=[],
            width=WIDTH,
            height=HEIGHT,
            timeout_s=OFFER_TIMEOUT_S,
        )

    return WebRTCClient(
        offer,
        resources.webrtc_options,
        resources.codecs,
        resources.make_uplink_encoder,
        processing=False,
    )


async def _feed(frames: MediaQueue[SourceFrame]) -> None:
    """Black pictures, live."""
    began_at, number = time.monotonic(), 0
    while True:
        frame = DecodedFrame(black_picture(WIDTH, HEIGHT), number * CLOCK_RATE // FPS)
        frames.put_nowait(frame)
        number += 1
        await asyncio.sleep(began_at + number / FPS - time.monotonic())


async def check_trickle(url: str, http: aiohttp.ClientSession) -> AsyncIterator[Said]:
    """A channel can be made, written, read and deleted.

    Args:
        url: of the server, or of the folder that the channels are in.
    """
    base, _, query = url.partition("?")
    channel = f"{base.rstrip('/')}/relay-check-{uuid.uuid4().hex[:12]}" + f"?{query}" * bool(query)
    publisher = TricklePublisher(
        channel, session=http, options=PublisherOptions(retry_budget_s=PROBE_TIMEOUT_S)
    )
    try:
        try:
            async with asyncio.timeout(TRICKLE_TIMEOUT_S):
                await publisher.start()
                segment = await publisher.next_segment()
                await segment.write(SEGMENT)
                await segment.close()
        except TimeoutError:
            yield "takes no segments", "no answer", "start it, or correct its address"
            return
        except TrickleError as error:
            yield "takes no segments", error.message, _TRICKLE_REMEDIES.get(error.code, "its log")
            return
        yield "makes a channel and takes a segment", None, ""
        yield await _read_back(channel, http)
    finally:
        await publisher.aclose()


_TRICKLE_REMEDIES = {
    "channel_not_found": "channels have to be created where the server runs, before sessions start",
    "channel_refused": "correct the address and its credentials",
    "channel_unavailable": "start it, or correct its address",
}


async def _read_back(channel: str, http: aiohttp.ClientSession) -> Said:
    options = SubscriberOptions(wait_for_channel_s=PROBE_TIMEOUT_S, retry_budget_s=PROBE_TIMEOUT_S)
    subscriber = TrickleSubscriber(channel, start=0, session=http, options=options)
    problem = "nothing came"
    try:
        async with asyncio.timeout(TRICKLE_TIMEOUT_S):
            async with subscriber:
                async for read in subscriber:
                    if await read.read() == SEGMENT:
                        return "gives the segment back", None, ""
                    problem = "another segment came"
    except TimeoutError:
        pass
    except TrickleError as error:
        problem = error.message
    return "does not give the segment back", problem, "look at its log and what is in between"
