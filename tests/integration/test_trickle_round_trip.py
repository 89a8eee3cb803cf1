"""Publisher to server to subscriber, over real sockets."""

from __future__ import annotations

import asyncio

from relay.trickle.http_client import new_session
from relay.trickle.protocol import EndReason
from relay.trickle.publisher import TricklePublisher
from relay.trickle.server import TrickleServer
from relay.trickle.subscriber import TrickleSubscriber
from tests.peers.waiting import until


async def test_segments_arrive_whole_in_order_and_end_with_the_channel() -> None:
    """Three segments of many writes come out as they went in; then the channel is closed."""
    received: list[tuple[int, bytes]] = []
    async with TrickleServer() as server, new_session() as session:
        url = server.url + "camera"
        subscriber = TrickleSubscriber(url, start=0, session=session)

        async def subscribe() -> None:
            received.extend([(segment.seq, await segment.read()) async for segment in subscriber])

        async with TricklePublisher(url, session=session) as publisher:
            task = asyncio.create_task(subscribe())
            await until(lambda: server.stats.readers)
            for number in range(3):
                segment = await publisher.next_segment()
                assert segment.seq == number
                for part in range(40):
                    await segment.write(bytes([number, part]) * 1000)
        async with asyncio.timeout(5):
            await task
        await subscriber.aclose()
    assert received == [(n, b"".join(bytes([n, p]) * 1000 for p in range(40))) for n in range(3)]
    assert subscriber.end_reason is EndReason.CLOSED
    assert publisher.stats.segments_accepted == 3


async def test_a_chunk_arrives_while_its_segment_is_still_open() -> None:
    """The subscriber has the first bytes before the publisher has written the last."""
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with TricklePublisher(url) as publisher, TrickleSubscriber(url) as subscriber:
            writer = await publisher.next_segment()
            await writer.write(b"first")
            async with asyncio.timeout(5):
                segment = await anext(subscriber)
                assert await anext(segment) == b"first"
                await writer.write(b"second")
                assert await anext(segment) == b"second"
                await writer.close()
                assert await segment.read() == b""


async def test_two_megabytes_written_and_closed_at_once_arrive_whole() -> None:
    """aclose waits until the server has accepted the last byte."""
    payload = bytes(range(256)) * 8192
    async with TrickleServer() as server:
        url = server.url + "camera"
        subscriber = TrickleSubscriber(url, start=0)
        publisher = TricklePublisher(url)
        await publisher.start()
        reading = asyncio.create_task(anext(subscriber))
        await until(lambda: server.stats.readers)
        writer = await publisher.next_segment()
        await writer.write(payload)
        closing = asyncio.create_task(publisher.aclose())
        async with asyncio.timeout(10):
            assert await (await reading).read() == payload
            await closing
        await subscriber.aclose()
