"""Publisher to server to subscriber, over real sockets."""

from __future__ import annotations

import asyncio
import itertools

import aiohttp
import pytest

from relay.trickle.errors import ChannelClosedError, ChannelNotFoundError
from relay.trickle.http_client import new_session
from relay.trickle.protocol import EndReason, JumpPolicy, StartPosition
from relay.trickle.publisher import TricklePublisher
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from tests.peers.quick import publisher, read_all, subscriber
from tests.peers.raw_client import ask
from tests.peers.waiting import until


async def test_segments_arrive_whole_in_order_and_end_with_the_channel() -> None:
    """Three segments of many writes come out as they went in; then the channel is closed."""
    received: list[tuple[int, bytes]] = []
    async with TrickleServer() as server, new_session() as session:
        url = server.url + "camera"
        source = TrickleSubscriber(url, start=0, session=session)

        async def subscribe() -> None:
            received.extend([(segment.seq, await segment.read()) async for segment in source])

        async with TricklePublisher(url, session=session) as sink:
            task = asyncio.create_task(subscribe())
            await until(lambda: server.stats.readers)
            for number in range(3):
                segment = await sink.next_segment()
                assert segment.seq == number
                for part in range(40):
                    await segment.write(bytes([number, part]) * 1000)
        async with asyncio.timeout(5):
            await task
        await source.aclose()
    assert received == [(n, b"".join(bytes([n, p]) * 1000 for p in range(40))) for n in range(3)]
    assert source.end_reason is EndReason.CLOSED
    assert sink.stats.segments_accepted == 3


async def test_a_chunk_arrives_while_its_segment_is_still_open() -> None:
    """The subscriber has the first bytes before the publisher has written the last."""
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with TricklePublisher(url) as sink, TrickleSubscriber(url) as source:
            writer = await sink.next_segment()
            await writer.write(b"first")
            async with asyncio.timeout(5):
                segment = await anext(source)
                assert await anext(segment) == b"first"
                await writer.write(b"second")
                assert await anext(segment) == b"second"
                await writer.close()
                assert await segment.read() == b""


async def test_what_is_sent_at_once_comes_between_what_may_wait() -> None:
    """In the order of the calls, whatever their sizes; all of it is counted."""
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with TricklePublisher(url) as sink, TrickleSubscriber(url) as source:
            writer = await sink.next_segment()
            sent = b""
            for size in (1, 15, 16, 0, 2500, 4096, 100):
                data = bytes([size % 251]) * size
                assert writer.write_nowait(data)
                await writer.write(data)
                sent += 2 * data
            assert writer.bytes_written == sink.stats.bytes_written == len(sent)
            async with asyncio.timeout(5):
                segment = await anext(source)
                await writer.finish()
                assert not writer.write_nowait(b"late")
                await writer.close()
                assert await segment.read() == sent
            assert writer.bytes_written == len(sent)


async def test_nothing_is_sent_at_once_that_would_have_to_wait() -> None:
    """A socket is not filled beyond what it takes from everybody."""
    async with TrickleServer() as server, TricklePublisher(server.url + "camera") as sink:
        writer = await sink.next_segment()
        assert not writer.write_nowait(bytes(100_000))
        # 40 MB without a turn of the event loop are more than any socket holds.
        taken = list(
            itertools.takewhile(writer.write_nowait, itertools.repeat(bytes(2000), 20_000))
        )
        assert len(taken) < 20_000
        assert writer.bytes_written == 2000 * len(taken)
        await writer.write(b"end")
        await writer.close()
        assert sink.stats.segments_accepted == 1


async def test_two_megabytes_written_and_closed_at_once_arrive_whole() -> None:
    """aclose waits until the server has accepted the last byte."""
    payload = bytes(range(256)) * 8192
    async with TrickleServer() as server:
        url = server.url + "camera"
        source = TrickleSubscriber(url, start=0)
        sink = TricklePublisher(url)
        await sink.start()
        reading = asyncio.create_task(anext(source))
        await until(lambda: server.stats.readers)
        writer = await sink.next_segment()
        await writer.write(payload)
        closing = asyncio.create_task(sink.aclose())
        async with asyncio.timeout(10):
            assert await (await reading).read() == payload
            await closing
        await source.aclose()


async def test_the_life_of_a_channel_as_both_roles_see_it() -> None:
    """Missing, made, written, read, deleted, deleted for new ones too (reference test 1)."""
    async with TrickleServer(options=ServerOptions(autocreate=False)) as server:
        url = server.url + "camera"
        for _ in range(2):
            with pytest.raises(ChannelNotFoundError):
                await publisher(url).start()
        missing = subscriber(url)
        assert await read_all(missing) == []
        assert missing.end_reason is EndReason.NEVER_EXISTED
        await missing.aclose()

        server.create_channel("camera")
        sink, source = publisher(url), subscriber(url, start=0)
        await sink.start()
        reading = asyncio.create_task(read_all(source))
        for body in (b"0", b"1"):
            async with await sink.next_segment() as segment:
                await segment.write(body)
        await until(lambda: source.stats.segments == 2)
        for number, latest in ((0, 2), (1, None)):
            reply = await ask(server.url, "GET", f"/camera/{number}")
            assert (reply.seq, reply.latest) == (number, latest)

        assert server.delete_channel("camera")
        assert await reading == [(0, b"0"), (1, b"1")]
        assert source.end_reason is EndReason.CLOSED
        await until(lambda: sink.end_reason)
        with pytest.raises(ChannelClosedError):
            await sink.next_segment()
        assert sink.end_reason is EndReason.CLOSED
        with pytest.raises(ChannelNotFoundError):
            await publisher(url).start()
        late = subscriber(url)
        assert await read_all(late) == []
        assert late.end_reason is EndReason.CLOSED  # its tombstone says so
        for client in (sink, source, late):
            await client.aclose()


async def test_where_a_subscriber_begins() -> None:
    """Before anything is published, in mid-stream, and by number: exact lists (reference 15)."""
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with publisher(url) as sink:
            sources = {
                "current, empty": subscriber(url, start=StartPosition.CURRENT),
                "next, empty": subscriber(url, start=StartPosition.NEXT),
            }
            reading = {name: asyncio.create_task(read_all(s)) for name, s in sources.items()}
            await until(lambda: server.stats.readers == 2)
            for number in range(3):
                segment = await sink.next_segment()
                await segment.write(b"%d" % number)
            # 2 is being written; each of these is pinned before its second half comes.
            late = {
                "current": subscriber(url, start=StartPosition.CURRENT),
                "next": subscriber(url, start=StartPosition.NEXT),
                "number": subscriber(url, start=1),
            }
            for name, source in late.items():
                reading[name] = asyncio.create_task(read_all(source))
            await until(lambda: late["current"].stats.bytes and late["number"].stats.bytes)
            channel = server.registry.get("camera")
            assert channel is not None
            await until(lambda: channel.waiting_readers == 5)
            await segment.write(b"+")
            segment = await sink.next_segment()
            await segment.write(b"3")
        received = {name: await task for name, task in reading.items()}
        everything = [(0, b"0"), (1, b"1"), (2, b"2+"), (3, b"3")]
        assert received == {
            "current, empty": everything,
            "next, empty": everything,
            "current": everything[2:],
            "next": everything[3:],
            "number": everything[1:],
        }
        for source in (*sources.values(), *late.values()):
            await source.aclose()


@pytest.mark.parametrize(
    ("policy", "target"), [(JumpPolicy.LATEST, 19), (JumpPolicy.NEXT, 20), (JumpPolicy.OLDEST, 12)]
)
async def test_a_reader_that_is_too_slow_leaves_segments_out_and_says_how_many(
    policy: JumpPolicy, target: int
) -> None:
    """It reads one segment while the window moves on: nothing piles up for it on either side.
    What had been asked for ahead still comes, then the policy decides."""
    async with TrickleServer(options=ServerOptions(window_segments=8)) as server:
        url = server.url + "camera"
        async with publisher(url) as sink, subscriber(url, start=0, jump=policy) as source:
            for number in range(2):
                await (await sink.next_segment()).write(b"%d" % number)
            segment = await anext(source)
            assert await segment.read_chunk() == b"0"
            await until(lambda: server.stats.bytes_out == 2)
            for number in range(2, 20):
                await (await sink.next_segment()).write(b"%d" % number)
            await until(lambda: server.stats.segments == 20)
            ahead = await anext(source)
            assert (ahead.seq, ahead.skipped_before, await ahead.read()) == (1, 0, b"1")
            jumping = asyncio.create_task(anext(source))
            if policy is JumpPolicy.NEXT:
                await until(lambda: source.stats.jumps)
                await (await sink.next_segment()).write(b"20")
            landed = await jumping
            assert (landed.seq, landed.skipped_before) == (target, target - 2)
            assert await landed.read_chunk() == b"%d" % target
            assert (source.stats.jumps, source.stats.skipped_segments) == (1, target - 2)


async def test_a_limit_on_lag_jumps_although_the_segment_is_there() -> None:
    """For viewers to whom late is as bad as lost; what was left out is counted."""
    async with TrickleServer(options=ServerOptions(window_segments=20)) as server:
        url = server.url + "camera"
        async with publisher(url) as sink:
            for number in range(10):
                await (await sink.next_segment()).write(b"%d" % number)
            await until(lambda: server.stats.segments == 10)
            async with subscriber(url, start=0, max_lag_segments=2) as source:
                segment = await anext(source)
                assert (segment.seq, segment.skipped_before) == (9, 9)
                assert (source.stats.jumps, source.stats.segments_behind) == (1, 0)
            async with subscriber(url, start=6, max_lag_segments=3) as source:
                segment = await anext(source)
                assert (segment.seq, segment.joined_late) == (6, True)
                assert (source.stats.jumps, source.stats.segments_behind) == (0, 3)


async def test_who_was_there_first_has_not_joined_late() -> None:
    """Whether the first picture is a whole segment old is known from the server."""
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with publisher(url) as sink, subscriber(url) as source:
            waiting = asyncio.create_task(anext(source))
            await until(lambda: server.stats.readers)
            await (await sink.next_segment()).write(b"x")
            assert (await waiting).joined_late is False


async def test_a_session_with_timeouts_of_its_own_ends_neither_role() -> None:
    """A long poll, a pause in a segment and a segment may each last longer than they allow; what
    is aiohttp's default of 300 s is 0.2 s here."""
    timeout = aiohttp.ClientTimeout(total=0.2, sock_read=0.2)
    async with (
        TrickleServer() as server,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        url = server.url + "camera"
        patient = SubscriberOptions(header_timeout_s=30.0, body_stall_s=30.0)
        async with (
            TricklePublisher(url, session=session) as sink,
            TrickleSubscriber(url, start=0, session=session, options=patient) as source,
        ):
            waiting = asyncio.create_task(anext(source))
            await asyncio.sleep(0.4)
            segment = await sink.next_segment()
            await segment.write(b"one")
            received = await waiting
            assert await received.read_chunk() == b"one"
            await asyncio.sleep(0.4)
            await segment.write(b"two")
            await segment.close()
            assert await received.read() == b"two"
            assert (source.stats.retries, source.stats.resumes, source.stats.stalls) == (0, 0, 0)
            assert (sink.stats.retries, sink.stats.segments_lost) == (0, 0)


async def test_connections_are_kept_and_used_again() -> None:
    """Two for each role, however many segments go by: one streams, one stands ahead."""
    made = 0

    async def count(*_: object) -> None:
        nonlocal made
        made += 1

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(count)
    async with TrickleServer() as server:
        url = server.url + "camera"
        async with aiohttp.ClientSession(trace_configs=[tracing]) as session:
            async with (
                TricklePublisher(url, session=session) as sink,
                TrickleSubscriber(url, start=0, session=session) as source,
            ):
                for number in range(30):
                    async with await sink.next_segment() as segment:
                        await segment.write(b"%d" % number)
                    received = await anext(source)
                    assert (received.seq, await received.read()) == (number, b"%d" % number)
            assert made <= 5
