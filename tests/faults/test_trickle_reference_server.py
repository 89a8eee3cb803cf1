"""Our clients against a model of the reference server, with the faults it has."""

from __future__ import annotations

import asyncio

import pytest

from relay.trickle.errors import ChannelClosedError, ChannelNotFoundError, SegmentLostError
from relay.trickle.protocol import EndReason, JumpPolicy, StartPosition
from relay.trickle.segment_writer import SegmentWriter
from tests.peers.quick import publisher, read_all, subscriber
from tests.peers.raw_client import ask, connect
from tests.peers.reference_server import Channel, ReferenceServer
from tests.peers.waiting import until

pytestmark = pytest.mark.timeout(20, method="signal")


async def post(server: ReferenceServer, number: int, body: bytes, **headers: str) -> None:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await ask(server.url, "POST", f"/camera/{number}", fields, body)
    assert reply.status == 200


async def write_for_ever(segment: SegmentWriter) -> None:
    while True:
        await segment.write(b"more")
        await asyncio.sleep(0)


async def test_both_of_ours_work_with_it() -> None:
    """Segments arrive whole, numbers rise by one, the end is the channel's."""
    async with ReferenceServer() as server:
        source = subscriber(server.url + "camera", start=0)
        async with publisher(server.url + "camera") as sink:
            reading = asyncio.create_task(read_all(source))
            for number in range(8):
                segment = await sink.next_segment()
                for _ in range(3):
                    await segment.write(b"%d" % number)
                await segment.close()
        # What was evicted before the reader came is counted, the rest is there.
        received = await reading
        await source.aclose()
        assert received[-1] == (7, b"777")
        assert [number for number, _ in received] == sorted({number for number, _ in received})
        assert all(body == b"%d" % number * 3 for number, body in received)
        assert source.stats.segments + source.stats.skipped_segments == 8
        assert source.end_reason is EndReason.CLOSED
        assert sink.stats.segments_accepted == 8
        assert "camera" not in server.channels


async def test_the_preconnect_is_on_the_wire_before_there_is_data() -> None:
    """Its headers reach the server without a byte of body."""
    async with ReferenceServer() as server, publisher(server.url + "camera") as sink:
        await server.wait_for("POST", 0)
        segment = await sink.next_segment()
        await server.wait_for("POST", 1)
        assert not server.channels["camera"].edge
        await segment.write(b"x")


async def test_a_restarted_publisher_resumes_and_frees_hanging_readers() -> None:
    """The first one died in mid-segment; its readers end, the numbers go on, nothing repeats."""
    async with ReferenceServer() as server:
        for number in range(3):
            await post(server, number, b"%d" % number)
        source = subscriber(server.url + "camera", start=2, body_stall_s=30.0)
        reading = asyncio.create_task(read_all(source))
        async with connect(server.url) as dying:
            await dying.send("POST", "/camera/3", chunked=True)
            await dying.chunk(b"part")
            await server.wait_for("GET", 4)
            dying.abort()
        async with publisher(server.url + "camera") as sink:
            segment = await sink.next_segment()
            assert segment.seq == 4
            await segment.write(b"4")
        assert await reading == [(2, b"2"), (3, b"part"), (4, b"4")]
        await source.aclose()
        assert server.of("POST", 4)[0].headers["lp-trickle-reset"] == "1"
        assert "lp-trickle-reset" not in server.of("POST", 5)[0].headers


@pytest.mark.parametrize("old_segments", [3, 8, 30])
async def test_a_publisher_that_restarts_at_0_is_followed_without_a_replay(
    old_segments: int,
) -> None:
    """No Reset, no /next, as several publishers do: the restart is reported once, and what the
    server still serves of the old segments under new numbers is not delivered again."""
    async with ReferenceServer() as server:
        await ask(server.url, "POST", "/camera")
        received: list[bytes] = []
        source = subscriber(server.url + "camera", start=0)

        async def receive() -> None:
            async for segment in source:
                received.append(await segment.read())  # noqa: PERF401 - watched as it grows

        reading = asyncio.create_task(receive())
        for number in range(old_segments):
            await server.wait_for("GET", number)
            await post(server, number, b"old %d" % number)
        await until(lambda: len(received) == old_segments)
        for number in range(16):
            await post(server, number, b"new %d" % number)
            await asyncio.sleep(0.12)
        await server.delete("camera")
        await reading
        await source.aclose()
    bodies = [body for body in received if body]
    assert bodies[:old_segments] == [b"old %d" % number for number in range(old_segments)]
    new = [body for body in bodies if body.startswith(b"new")]
    assert bodies == bodies[:old_segments] + new
    assert new[-1] == b"new 15"
    assert len(new) >= 8
    assert new == sorted(new, key=lambda body: int(body[4:]))
    assert source.stats.restarts == (old_segments > 5)


async def test_a_segment_left_open_by_its_publisher_is_left_behind() -> None:
    """The next one has begun, this one brings nothing: it ends, counted as truncated."""
    async with ReferenceServer() as server:
        async with connect(server.url) as dying:
            await dying.send("POST", "/camera/0", chunked=True)
            await dying.chunk(b"part")
            source = subscriber(server.url + "camera", start=0)
            segments = aiter(source)
            segment = await anext(segments)
            assert await segment.read_chunk() == b"part"
            dying.abort()
        await post(server, 1, b"whole")
        assert await segment.read() == b""
        assert segment.truncated
        following = await anext(segments)
        assert (following.seq, await following.read()) == (1, b"whole")
        await source.aclose()
        assert source.stats.truncated_segments == 1
        assert source.stats.bytes == len(b"partwhole")


async def test_a_pause_of_the_publisher_is_not_a_fault() -> None:
    """Nothing newer has begun: the segment goes on where it was, every byte once."""
    async with ReferenceServer() as server, connect(server.url) as slow:
        await slow.send("POST", "/camera/0", chunked=True)
        await slow.chunk(b"one")
        source = subscriber(server.url + "camera", start=0, body_stall_s=0.05)
        segment = await anext(aiter(source))
        assert await segment.read_chunk() == b"one"
        reading = asyncio.create_task(segment.read())
        await server.wait_for("GET", 0, count=3)
        await slow.chunk(b"two")
        await slow.end()
        assert await reading == b"two"
        assert not segment.truncated
        assert source.stats.stalls >= 2
        await source.aclose()


async def test_a_reader_whose_place_was_taken_does_not_wait_for_ever() -> None:
    """Another reader's waiting GET took the slot; this one would never be woken again."""
    async with ReferenceServer() as server:
        async with connect(server.url) as live:
            await live.send("POST", "/camera/0", chunked=True)
            await live.chunk(b"0")
            source = subscriber(server.url + "camera", start=0)
            segments = aiter(source)
            segment = await anext(segments)
            await segment.read_chunk()
            # A restart elsewhere moves the edge so that a waiting GET lands on slot 0.
            server.channels["camera"].edge = 5
            async with connect(server.url) as thief:
                await thief.send("GET", "/camera/-1")
                assert await segment.read() == b""
                assert segment.truncated
                await server.delete("camera")
                with pytest.raises(StopAsyncIteration):
                    await anext(segments)
            await source.aclose()
    assert source.end_reason in (EndReason.CLOSED, EndReason.GONE)


async def test_a_long_poll_that_the_server_forgot_is_noticed() -> None:
    """Waiting for a number, its slot taken by another: the edge passes, and it asks again."""
    async with ReferenceServer() as server:
        await ask(server.url, "POST", "/camera")
        source = subscriber(server.url + "camera")
        waiting = asyncio.create_task(anext(aiter(source)))
        await server.wait_for("GET", 0)
        server.channels["camera"].slots[0] = None
        await post(server, 0, b"x")
        segment = await waiting
        assert (segment.seq, await segment.read()) == (0, b"x")
        await source.aclose()


async def test_a_deleted_segment_does_not_become_a_hot_loop() -> None:
    """The edge does not move, n is an empty 200 for ever, n + 1 is 470: fewer than ten
    requests a second, and the stream goes on when the publisher does."""
    async with ReferenceServer() as server:
        await post(server, 0, b"0")
        source = subscriber(server.url + "camera")
        reading = asyncio.create_task(read_all(source))
        await server.wait_for("GET", 1)
        assert (await ask(server.url, "DELETE", "/camera/1")).status == 200
        before = len(server.of("GET"))
        await asyncio.sleep(1.0)
        assert len(server.of("GET")) - before < 10
        await post(server, 2, b"2")
        await server.wait_for("GET", 3)
        await server.delete("camera")
        assert await reading == [(0, b"0"), (1, b""), (2, b"2")]
        await source.aclose()


async def test_an_abandoned_segment_is_closed_for_its_readers() -> None:
    """Dropping its connection would leave them hanging here: it is deleted as well."""
    async with ReferenceServer() as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        await segment.write(b"part")
        async with connect(server.url) as reader:
            await reader.send("GET", "/camera/0")
            await reader.head()
            assert await reader.body_chunk() == b"part"
            await segment.abandon()
            assert await reader.body_chunk() == b""
        following = await sink.next_segment()
        assert following.seq == 1
        assert sink.stats.segments_lost == 1


async def test_a_segment_abandoned_before_its_first_byte_is_ended_empty() -> None:
    """Its readers would wait for ever for a number that nobody writes."""
    async with ReferenceServer() as server, publisher(server.url + "camera") as sink:
        async with connect(server.url) as reader:
            await reader.send("GET", "/camera/0")
            await server.wait_for("GET", 0)
            await (await sink.next_segment()).abandon()
            reply = await reader.reply()
            assert (reply.status, reply.body) == (200, b"")


async def test_a_lagging_reader_jumps_and_counts() -> None:
    """470 with a higher edge: the policy says where to, the gap is reported on the segment."""
    for policy, target in ((JumpPolicy.LATEST, 11), (JumpPolicy.NEXT, 12), (JumpPolicy.OLDEST, 7)):
        async with ReferenceServer() as server:
            await post(server, 0, b"0")
            source = subscriber(server.url + "camera", start=0, jump=policy)
            segments = aiter(source)
            first = await anext(segments)
            await first.read()
            await server.wait_for("GET", 1)
            source._requests._ahead, ahead = (
                None,
                source._requests._ahead,
            )  # as if the preconnect had been lost
            assert ahead is not None
            await ahead.aclose()
            for number in range(1, 12):
                await post(server, number, b"%d" % number)
            waiting = asyncio.create_task(anext(segments))
            if policy is JumpPolicy.NEXT:
                await server.wait_for("GET", 12)
                await post(server, 12, b"12")
            segment = await waiting
            assert (segment.seq, segment.skipped_before) == (target, target - 1)
            assert (source.stats.jumps, source.stats.skipped_segments) == (1, target - 1)
            await source.aclose()


async def test_a_channel_deleted_in_mid_body_ends_plainly_and_is_gone() -> None:
    """Nobody says that the segment is incomplete; the next request finds no channel."""
    async with ReferenceServer() as server, connect(server.url) as live:
        await live.send("POST", "/camera/0", chunked=True)
        await live.chunk(b"part")
        source = subscriber(server.url + "camera", start=0)
        segments = aiter(source)
        segment = await anext(segments)
        assert await segment.read_chunk() == b"part"
        source._requests._ahead, ahead = None, source._requests._ahead
        assert ahead is not None
        await ahead.aclose()
        await server.delete("camera")
        assert await segment.read() == b""
        with pytest.raises(StopAsyncIteration):
            await anext(segments)
        assert source.end_reason is EndReason.GONE
        await source.aclose()


async def test_publishing_to_a_channel_that_was_deleted_is_an_error_not_a_success() -> None:
    """In mid-segment the server answers 200 as if all were well."""
    async with ReferenceServer(autocreate=False) as server:
        server.channels["camera"] = Channel()
        sink = publisher(server.url + "camera")
        await sink.start()
        segment = await sink.next_segment()
        await segment.write(b"part")
        await server.wait_for("POST", 1)
        await server.delete("camera")
        with pytest.raises((SegmentLostError, ChannelClosedError, ChannelNotFoundError)):
            await write_for_ever(segment)
        with pytest.raises((ChannelClosedError, ChannelNotFoundError)):
            await sink.next_segment()
        assert sink.end_reason in (EndReason.CLOSED, EndReason.GONE)
        await sink.aclose()
        assert not server.of("DELETE")


async def test_without_autocreate_a_missing_channel_is_an_error_that_says_so() -> None:
    """It is not created, nor waited for unless that was asked."""
    async with ReferenceServer(autocreate=False) as server:
        sink = publisher(server.url + "camera")
        with pytest.raises(ChannelNotFoundError, match="does not create"):
            await sink.start()
        assert sink.end_reason is EndReason.GONE
        source = subscriber(server.url + "camera")
        assert await read_all(source) == []
        assert source.end_reason is EndReason.NEVER_EXISTED
        await source.aclose()


async def test_a_server_without_next_is_published_to_and_read() -> None:
    """The server chooses the first number, its reply tells it, and counting goes on from there."""
    async with ReferenceServer(with_next=False) as server:
        await post(server, 6, b"6")
        source = subscriber(server.url + "camera", start=StartPosition.CURRENT)
        reading = asyncio.create_task(read_all(source))
        await server.wait_for("GET", 7)
        async with publisher(server.url + "camera") as sink:
            numbers = []
            for _ in range(3):
                segment = await sink.next_segment()
                await segment.write(b"x")
                await segment.close()
                numbers.append(segment.seq)
        assert numbers == [7, 8, 9]
        assert await reading == [(6, b"6"), (7, b"x"), (8, b"x"), (9, b"x")]
        await source.aclose()
