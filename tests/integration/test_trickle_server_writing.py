"""The server over real sockets, writing: one writer for each number, resets, deaths, preconnects
(reference tests 10, 11, 17)."""

from __future__ import annotations

import asyncio

from tests.peers.raw_client import ask, connect
from tests.peers.trickle_serving import claimed, get, post, registered, serving, start_segment
from tests.peers.waiting import until


async def test_a_second_writer_of_a_number_is_refused_and_the_first_unharmed() -> None:
    """409 at once, with Seq and Latest; also for a complete segment, which keeps its bytes."""
    async with serving() as server, connect(server.url) as first, connect(server.url) as second:
        await start_segment(first, 0, b"first")
        await claimed(server, "camera", 0)
        await start_segment(second, 0, b"second")
        refused = await second.reply()
        assert (refused.status, refused.seq, refused.latest) == (409, 0, 1)
        await first.end()
        assert (await first.reply()).status == 200
        assert (await post(server, "/camera/0", b"late")).status == 409
        assert (await get(server, "/camera/0")).body == b"first"


async def test_a_number_below_the_window_is_refused_and_the_edge_stays() -> None:
    """A publisher that restarts at 0 without Reset can't move the edge back."""
    async with serving() as server:
        for number in range(8):
            await post(server, f"/camera/{number}", b"x")
        refused = await post(server, "/camera/0", b"y")
        assert (refused.status, refused.latest) == (409, 8)
        assert (await get(server, "/camera/next")).body == b"8"


async def test_two_writers_that_let_the_server_choose_get_two_numbers() -> None:
    """POST -1 twice, before either has a byte."""
    async with serving() as server, connect(server.url) as first, connect(server.url) as second:
        await start_segment(first, -1, b"")
        await claimed(server, "camera", 0)
        await start_segment(second, -1, b"")
        await claimed(server, "camera", 1)
        for connection, data in ((second, b"b"), (first, b"a")):
            await connection.chunk(data)
            await connection.end()
        assert [(await first.reply()).seq, (await second.reply()).seq] == [0, 1]
        assert [(await get(server, f"/camera/{n}")).body for n in (0, 1)] == [b"a", b"b"]


async def test_reset_frees_blocked_readers_and_refuses_the_old_writer() -> None:
    """POST -1 with Reset: the reply names 1, old bytes stay readable, new ones are at 1."""
    async with serving() as server:
        async with connect(server.url) as old, connect(server.url) as reader:
            await start_segment(old, 0, b"old")
            await reader.send("GET", "/camera/0")
            await reader.head()
            assert await reader.body_chunk() == b"old"
            fresh = await post(server, "/camera/-1", b"new", Lp_Trickle_Reset="1")
            assert (fresh.status, fresh.seq) == (200, 1)
            assert await reader.body_chunk() == b""
            refused = await old.reply()
            assert (refused.status, refused.latest) == (409, 2)
        assert [(await get(server, f"/camera/{n}")).body for n in (0, 1)] == [b"old", b"new"]


async def test_a_writer_that_is_refused_while_it_sends_still_sees_the_reply() -> None:
    """Its bytes are read and thrown away for a moment instead of resetting its connection."""
    async with serving(max_segment_bytes=100_000) as server, connect(server.url) as writer:
        await writer.send("POST", "/camera/0", chunked=True)
        for _ in range(10):
            await writer.chunk(bytes(50_000))
            await asyncio.sleep(0.02)
        reply = await writer.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert len((await get(server, "/camera/0")).body) <= 100_000


async def test_a_dead_publisher_is_noticed_and_its_segment_closed_after_the_grace() -> None:
    """Readers end instead of hanging; the segment counts as truncated."""
    async with serving(resume_grace_s=0.05) as server:
        async with connect(server.url) as writer, connect(server.url) as reader:
            await start_segment(writer, 0, b"part")
            await reader.send("GET", "/camera/0")
            await reader.head()
            writer.abort()
            assert await reader.body_chunk() == b"part"
            assert await reader.body_chunk() == b""
        assert server.stats.truncated_segments == 1


async def test_a_short_body_is_a_dead_publisher() -> None:
    """Fewer bytes than Content-Length promised."""
    async with serving(resume_grace_s=0.0) as server:
        async with connect(server.url) as writer:
            await writer.send("POST", "/camera/0", {"Content-Length": 100}, b"part")
            await until(lambda: server.stats.segments)
            await writer.close()
        assert (await get(server, "/camera/0")).body == b"part"
        await until(lambda: server.stats.truncated_segments)


async def test_a_publisher_that_comes_back_in_time_goes_on_with_its_segment() -> None:
    """The reader notices nothing."""
    async with serving(resume_grace_s=60.0) as server, connect(server.url) as reader:
        async with connect(server.url) as writer:
            await start_segment(writer, 0, b"one")
            await reader.send("GET", "/camera/0")
            await reader.head()
            assert await reader.body_chunk() == b"one"
            writer.abort()
        await until(lambda: not (c := server.registry.get("camera")) or not c._claims)
        assert (await post(server, "/camera/0", b"two")).status == 200
        assert await reader.body_chunk() == b"two"
        assert await reader.body_chunk() == b""


async def test_ending_a_preconnect_on_an_empty_channel_is_an_empty_segment() -> None:
    """One zero-byte segment, and the number advances."""
    async with serving() as server, connect(server.url) as writer:
        await start_segment(writer, 0, b"")
        await writer.end()
        reply = await writer.reply()
        assert (reply.status, reply.seq) == (200, 0)
        assert (await get(server, "/camera/next")).body == b"1"


async def test_a_preconnect_is_kept_alive_by_provisional_replies() -> None:
    """100 Continue at intervals until the first byte, then no more."""
    async with serving(continue_interval_s=0.02) as server, connect(server.url) as writer:
        await start_segment(writer, 0, b"")
        for _ in range(3):
            assert await writer.provisional() == 100
        await writer.chunk(b"x")
        await until(lambda: server.stats.bytes_in)
        await asyncio.sleep(0.2)
        await writer.end()
        reply = await writer.reply()
        assert reply.status == 200
        assert reply.provisional <= 2  # those that were under way when the byte came


async def test_a_publisher_may_ask_for_leave_to_send_its_body() -> None:
    """The ordinary use of 100 Continue goes on working."""
    async with serving() as server, connect(server.url) as writer:
        await writer.send("POST", "/camera/0", {"Expect": "100-continue"}, chunked=True)
        assert await writer.provisional() == 100
        await writer.chunk(b"x")
        await writer.end()
        assert (await writer.reply()).status == 200
        assert (await get(server, "/camera/0")).body == b"x"


async def test_a_preconnect_to_no_channel_is_answered_at_once() -> None:
    """Long before its body ends, and the connection is closed: nothing can follow on it."""
    async with serving(autocreate=False) as server, connect(server.url) as writer:
        await start_segment(writer, 0, b"")
        reply = await writer.reply()
        assert (reply.status, reply.headers["connection"]) == (404, "close")


async def test_deleting_a_segment() -> None:
    """An open one ends and its writer is refused; the edge itself is skipped; others are 400."""
    async with serving() as server, connect(server.url) as writer, connect(server.url) as reader:
        await start_segment(writer, 0, b"part")
        await reader.send("GET", "/camera/0")
        await reader.head()
        assert await reader.body_chunk() == b"part"
        assert (await ask(server.url, "DELETE", "/camera/0")).status == 200
        assert await reader.body_chunk() == b""
        assert (await writer.reply()).status == 409
        await reader.send("GET", "/camera/1")
        await registered(server, "camera", readers=1)
        assert (await ask(server.url, "DELETE", "/camera/1")).status == 200
        skipped = await reader.reply()
        assert (skipped.status, skipped.seq, skipped.latest, skipped.body) == (200, 1, 2, b"")
        missing = await ask(server.url, "DELETE", "/camera/9")
        assert (missing.status, missing.body) == (400, b"Nonexistent segment")
        assert (await ask(server.url, "DELETE", "/other/0")).status == 404
