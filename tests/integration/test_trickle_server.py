"""The server over real sockets: what the reference suite asks for, and where ours is stricter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.trickle.protocol import RESET, SEQ
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ChannelRequest, HookRefusal, ServerOptions
from tests.peers.raw_client import RawConnection, RawReply, ask, connect
from tests.peers.waiting import until


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[TrickleServer]:
    async with TrickleServer(options=ServerOptions(**options)) as server:
        yield server


async def post(server: TrickleServer, path: str, body: bytes = b"", **headers: str) -> RawReply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(server.url, "POST", path, fields, body)


async def get(server: TrickleServer, path: str) -> RawReply:
    return await ask(server.url, "GET", path)


async def registered(server: TrickleServer, channel: str, readers: int) -> None:
    """Until the server has seen that many GETs on the channel."""
    await until(lambda: (c := server.registry.get(channel)) and c.readers >= readers)


async def claimed(server: TrickleServer, channel: str, number: int) -> None:
    """Until the server has seen a POST of that number."""
    await until(lambda: (c := server.registry.get(channel)) and number in c._claims)


# -- addresses and verbs --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/camera/x",
        "/camera/1.5",
        "/camera/" + "9" * 30,
        "/camera/ ",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_malformed_number_is_400_and_makes_nothing(method: str, path: str) -> None:
    """Whatever the verb, no channel appears."""
    async with serving() as server:
        reply = await ask(server.url, method, path.replace(" ", "%20"))
        assert (reply.status, reply.body) == (400, b"Invalid idx")
        assert server.stats.channels == 0


@pytest.mark.parametrize(("method", "number"), [("GET", -3), ("POST", -2), ("DELETE", -1)])
async def test_negative_numbers_have_no_effect_beyond_their_meaning(
    method: str, number: int
) -> None:
    """The ones that crash or lock the reference server are plain errors, and the channel lives."""
    async with serving() as server:
        await post(server, "/camera/0", b"x")
        assert (await ask(server.url, method, f"/camera/{number}")).status == 400
        assert (await post(server, "/camera/1", b"y")).status == 200
        assert (await get(server, "/camera/next")).body == b"2"


async def test_numbers_may_have_zeros_and_signs_and_channels_a_trailing_slash() -> None:
    """What peers write is understood."""
    async with serving() as server:
        assert (await post(server, "/camera/", b"")).status == 200
        assert (await post(server, "/camera/00", b"x")).seq == 0
        assert (await get(server, "/camera/+0")).body == b"x"


async def test_a_channel_name_is_opaque_decoded_text() -> None:
    """An encoded slash, a space and other alphabets are part of the name."""
    async with serving() as server:
        await post(server, "/a%2Fb%20%C3%A9/0", b"x")
        assert server.registry.names == ["a/b é"]
        assert (await get(server, "/a%2fb%20%c3%a9/0")).body == b"x"
        assert (await get(server, "/a/b")).status == 400


@pytest.mark.parametrize("path", ["/", "//0", "/a/0/x", "//"])
async def test_paths_that_are_no_channel_are_404(path: str) -> None:
    """They are not redirected and make nothing."""
    async with serving() as server:
        assert (await post(server, path)).status == 404
        assert server.stats.channels == 0


async def test_channels_may_live_below_a_base_path() -> None:
    """Anything outside of it does not exist."""
    async with serving(base_path="ai/trickle") as server:
        assert server.url.endswith("/ai/trickle/")
        assert (await post(server, "/ai/trickle/camera/0", b"x")).status == 200
        assert (await post(server, "/camera/0", b"x")).status == 404


async def test_other_verbs_are_405_and_say_which_are_not() -> None:
    """On channels, segments and /next."""
    async with serving() as server:
        await post(server, "/camera", b"")
        for method, path, allowed in (
            ("GET", "/camera", "POST, DELETE"),
            ("PUT", "/camera", "POST, DELETE"),
            ("PUT", "/camera/0", "GET, POST, DELETE"),
            ("POST", "/camera/next", "GET"),
        ):
            reply = await ask(server.url, method, path)
            assert (reply.status, reply.headers["allow"]) == (405, allowed)


# -- creating and deleting (reference tests 1, 4-8) ------------------------------------------


async def test_without_autocreate_nothing_is_made_from_outside() -> None:
    """Neither by POST on the channel nor by a segment; code inside may."""
    async with serving(autocreate=False) as server:
        assert (await post(server, "/camera", b"")).status == 404
        assert (await post(server, "/camera/0", b"x")).status == 404
        assert server.stats.channels == 0
        server.create_channel("camera")
        assert (await post(server, "/camera", b"")).status == 200
        assert (await post(server, "/camera/0", b"x")).status == 200


async def test_creating_is_idempotent_and_fixes_the_content_type() -> None:
    """Later types are ignored; Expect-Content wins over the request's own type."""
    async with serving() as server:
        first = await post(
            server, "/camera", b"", Expect_Content="video/MP2T", Content_Type="text/plain"
        )
        assert (first.status, first.body) == (200, b"")
        assert (await post(server, "/camera", b"", Expect_Content="audio/mp2t")).status == 200
        await post(server, "/camera/0", b"x", Content_Type="application/json")
        assert (await get(server, "/camera/0")).headers["content-type"] == "video/MP2T"
        await post(server, "/other/0", b"x", Content_Type="application/json")
        assert (await get(server, "/other/0")).headers["content-type"] == "application/json"
        await post(server, "/bare/0", b"x")
        assert (await get(server, "/bare/0")).headers["content-type"] == "application/octet-stream"


async def test_deleting_a_channel() -> None:
    """200, then unknown; an unknown one is 400 as in the reference."""
    async with serving() as server:
        await post(server, "/camera", b"")
        assert (await ask(server.url, "DELETE", "/camera")).status == 200
        again = await ask(server.url, "DELETE", "/camera")
        assert (again.status, again.body) == (400, b"Invalid stream")


@pytest.mark.parametrize("path", ["/camera", "/camera/0"])
@pytest.mark.parametrize("failure", [HookRefusal(403, "no"), RuntimeError("broken hook")])
async def test_the_create_hook_comes_first_and_can_refuse(path: str, failure: Exception) -> None:
    """It sees name and type before the channel exists, also when a segment would make it."""
    seen: list[ChannelRequest] = []

    async def hook(asked: ChannelRequest) -> None:
        seen.append(asked)
        raise failure

    async with serving(before_create=hook) as server:
        reply = await post(server, path, b"x", Content_Type="video/MP2T")
        assert reply.status == (403 if isinstance(failure, HookRefusal) else 500)
        assert (await get(server, "/camera/next")).status == 404
    assert [(asked.channel, asked.content_type) for asked in seen] == [("camera", "video/MP2T")]


@pytest.mark.parametrize("failure", [HookRefusal(401), RuntimeError("broken hook")])
async def test_the_delete_hook_runs_while_the_channel_exists_and_can_keep_it(
    failure: Exception,
) -> None:
    """After a refusal the channel works as before."""
    async with contextlib.AsyncExitStack() as stack:
        existing: list[bool] = []

        async def hook(asked: ChannelRequest) -> None:
            existing.append(server.registry.get(asked.channel) is not None)
            raise failure

        server = await stack.enter_async_context(serving(before_delete=hook))
        await post(server, "/camera/0", b"x")
        reply = await ask(server.url, "DELETE", "/camera")
        assert reply.status == (401 if isinstance(failure, HookRefusal) else 500)
        assert (await get(server, "/camera/0")).body == b"x"
        assert existing == [True]


async def test_a_deleted_channel_ends_for_everybody_and_stays_deleted() -> None:
    """Waiting reader, preconnect, mid-body reader and writer, and late requests: all are told."""
    async with serving() as server:
        async with contextlib.AsyncExitStack() as stack:
            writer, preconnect, reader, waiting = [
                await stack.enter_async_context(connect(server.url)) for _ in range(4)
            ]
            await writer.send("POST", "/camera/0", chunked=True)
            await writer.chunk(b"part")
            await reader.send("GET", "/camera/0")
            await reader.head()
            await reader.body_chunk()
            await preconnect.send("POST", "/camera/1", chunked=True)
            await waiting.send("GET", "/camera/-1")
            await registered(server, "camera", readers=2)
            await claimed(server, "camera", 1)
            assert (await ask(server.url, "DELETE", "/camera")).status == 200

            ended = await waiting.reply()
            assert (ended.status, ended.closed, ended.body) == (200, True, b"")
            refused = await preconnect.reply()
            assert (refused.status, refused.closed, refused.seq) == (200, True, 1)
            cut = await writer.reply()
            assert (cut.status, cut.closed, cut.seq) == (404, True, 0)
            assert await reader.body_chunk() == b""
        for method, path in (("GET", "/camera/0"), ("POST", "/camera/1"), ("GET", "/camera/next")):
            late = await ask(server.url, method, path, body=b"")
            assert (late.status, late.closed) == (404, True)
        assert server.stats.channels == 0


async def test_a_deleted_channel_can_be_made_again() -> None:
    """On purpose, or by a publisher that starts over; numbers begin at 0."""
    async with serving() as server:
        for again in (
            lambda: post(server, "/camera", b""),
            lambda: post(server, "/camera/0", b"z"),
        ):
            await post(server, "/camera/0", b"x")
            await post(server, "/camera/1", b"y")
            await ask(server.url, "DELETE", "/camera")
            assert (await again()).status == 200
            await post(server, "/camera/0", b"new")
            await post(server, "/camera/1", b"new")
            assert (await get(server, "/camera/next")).latest == 2
            await ask(server.url, "DELETE", "/camera")
            await post(server, "/camera", b"")


# -- reading (reference tests 9, 12, 14-19) ---------------------------------------------------


async def test_next_tells_the_edge() -> None:
    """In the header and in the body; 404 without a channel."""
    async with serving() as server:
        assert (await get(server, "/camera/next")).status == 404
        await post(server, "/camera", b"")
        for number in range(3):
            reply = await get(server, "/camera/next")
            assert (reply.status, reply.body) == (200, str(number).encode())
            assert reply.latest == number
            await post(server, f"/camera/{number}", b"x")


async def test_each_number_can_be_read_forward_and_back() -> None:
    """As long as it is in the window; Latest is sent unless the segment is the newest."""
    async with serving() as server:
        for number in range(4):
            await post(server, f"/camera/{number}", b"%d" % number)
        for number in (0, 1, 2, 3, 2, 1, 0):
            reply = await get(server, f"/camera/{number}")
            assert (reply.body, reply.seq) == (b"%d" % number, number)
            assert reply.latest == (None if number == 3 else 4)


async def test_an_overrun_reader_is_told_where_the_edge_is() -> None:
    """470 with Seq and Latest, from which -2 and -1 recover."""
    async with serving() as server:
        for number in range(6):
            await post(server, f"/camera/{number}", b"%d" % number)
        for number in (0, 8):
            reply = await get(server, f"/camera/{number}")
            assert (reply.status, reply.reason) == (470, "status code 470")
            assert (reply.body, reply.seq, reply.latest) == (b"Entry not found", number, 6)
            assert reply.headers["lp-trickle-oldest"] == "1"
        assert (await get(server, "/camera/-2")).seq == 5
        async with connect(server.url) as waiting:
            await waiting.send("GET", "/camera/-1")
            await registered(server, "camera", readers=1)
            await post(server, "/camera/6", b"6")
            assert (await waiting.reply()).body == b"6"


async def test_symbolic_positions_mean_a_number_from_their_arrival_on() -> None:
    """-1 sent before anything is published is segment 0, as is -2."""
    async with serving() as server:
        await post(server, "/camera", b"")
        async with connect(server.url) as first, connect(server.url) as second:
            await first.send("GET", "/camera/-1")
            await second.send("GET", "/camera/-2")
            await registered(server, "camera", readers=2)
            for number in range(3):
                await post(server, f"/camera/{number}", b"%d" % number)
            assert (await first.reply()).body == b"0"
            assert (await second.reply()).body == b"0"


async def test_a_late_reader_replays_the_segment_and_then_follows_it_live() -> None:
    """From byte 0; Size says how much there was, headers come with the first byte."""
    async with serving() as server:
        async with connect(server.url) as writer, connect(server.url) as reader:
            await writer.send("POST", "/camera/0", chunked=True)
            await writer.chunk(b"one")
            async with connect(server.url) as early:
                await early.send("GET", "/camera/0")
                await early.head()
                assert await early.body_chunk() == b"one"
            await reader.send("GET", "/camera/0")
            head = await reader.head()
            assert (head.headers["lp-trickle-size"], head.latest) == ("3", None)
            assert await reader.body_chunk() == b"one"
            await writer.chunk(b"two")
            assert await reader.body_chunk() == b"two"
            await writer.end()
            assert await reader.body_chunk() == b""
            assert (await writer.reply()).status == 200


async def test_a_waiting_reader_gets_no_header_before_the_first_byte() -> None:
    """Nothing is sent while the segment has not begun; Size is 0 for whoever was there first."""
    async with serving() as server:
        async with connect(server.url) as writer, connect(server.url) as reader:
            await writer.send("POST", "/camera/0", chunked=True)
            await claimed(server, "camera", 0)
            await reader.send("GET", "/camera/0")
            await registered(server, "camera", readers=1)
            head = asyncio.create_task(reader.head())
            done, _ = await asyncio.wait({head}, timeout=0.05)
            assert not done
            await writer.chunk(b"x")
            assert (await head).headers["lp-trickle-size"] == "0"


async def test_an_empty_segment() -> None:
    """200, its number, Latest, no type, no byte, and the channel goes on."""
    async with serving() as server:
        posted = await post(server, "/camera/0", b"")
        assert (posted.status, posted.seq, posted.closed) == (200, 0, False)
        reply = await get(server, "/camera/0")
        assert (reply.status, reply.seq, reply.latest, reply.closed) == (200, 0, 1, False)
        assert (reply.headers["content-length"], reply.body) == ("0", b"")
        assert "content-type" not in reply.headers
        assert (await get(server, "/camera/next")).body == b"1"


async def test_many_subscribers_get_every_byte() -> None:
    """Readers at different places of one segment all see the same bytes."""
    payload = [bytes([part]) * 5000 for part in range(40)]
    async with serving() as server, contextlib.AsyncExitStack() as stack:
        writer = await stack.enter_async_context(connect(server.url))
        await writer.send("POST", "/camera/0", chunked=True)
        readers = []
        for part in payload:
            await writer.chunk(part)
            reader = await stack.enter_async_context(connect(server.url))
            await reader.send("GET", "/camera/0")
            readers.append(asyncio.create_task(reader.reply()))
        await writer.end()
        assert {reply.body for reply in await asyncio.gather(*readers)} == {b"".join(payload)}


async def test_a_vanished_reader_is_noticed_at_once_even_while_it_waits() -> None:
    """Whether it waits for a segment to begin or for its next byte."""
    async with serving() as server:
        await post(server, "/camera", b"")
        async with connect(server.url) as writer:
            await writer.send("POST", "/camera/0", chunked=True)
            await writer.chunk(b"x")
            async with connect(server.url) as waiting, connect(server.url) as reading:
                await reading.send("GET", "/camera/0")
                await reading.head()
                await waiting.send("GET", "/camera/1")
                await registered(server, "camera", readers=2)
                waiting.abort()
                reading.abort()
                await until(lambda: not server.stats.readers)


async def test_a_connection_serves_many_requests() -> None:
    """Keep-alive across 470, 404, segments and empty ones; nothing is compressed."""
    async with serving() as server, connect(server.url) as connection:
        for number in range(3):
            assert (await connection.ask("POST", f"/camera/{number}", body=b"x" * 50)).status == 200
            reply = await connection.ask(
                "GET", f"/camera/{number}", {"Accept-Encoding": "gzip, deflate"}
            )
            assert (len(reply.body), reply.headers.get("content-encoding")) == (50, None)
        assert (await connection.ask("GET", "/camera/99")).status == 470
        assert (await connection.ask("GET", "/other/0")).status == 404
        assert (await connection.ask("POST", "/camera/3", body=b"")).status == 200
        assert (await connection.ask("GET", "/camera/3")).body == b""


# -- writing (reference tests 10, 11, 17) -----------------------------------------------------


async def start_segment(connection: RawConnection, number: int, data: bytes) -> None:
    await connection.send("POST", f"/camera/{number}", chunked=True)
    if data:
        await connection.chunk(data)


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
        await asyncio.sleep(0.1)
        await writer.chunk(b"x")
        await writer.end()
        reply = await writer.reply()
        assert reply.status == 200
        assert reply.provisional >= 3


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


# -- limits, rights, time -----------------------------------------------------------------------


async def test_a_stalled_reader_is_dropped_and_hurts_nobody() -> None:
    """It is cut after the write deadline and counted; a good reader gets every byte."""
    async with serving(write_deadline_s=1.0) as server:
        async with connect(server.url) as writer, connect(server.url) as stalled:
            await start_segment(writer, 0, b"x")
            await stalled.send("GET", "/camera/0")
            await stalled.head()
            stalled.pause_reading()
            async with connect(server.url) as good:
                await good.send("GET", "/camera/0")
                whole = asyncio.create_task(good.reply())
                for _ in range(200):
                    await writer.chunk(bytes(100_000))
                await until(lambda: server.stats.readers_dropped)
                await writer.end()
                assert len((await whole).body) == 1 + 200 * 100_000


async def test_as_many_readers_and_channels_as_the_limits_say() -> None:
    """One more is 503 with Retry-After."""
    async with serving(max_readers_per_channel=1, max_channels=1) as server:
        await post(server, "/camera", b"")
        async with connect(server.url) as reader:
            await reader.send("GET", "/camera/0")
            await registered(server, "camera", readers=1)
            full = await get(server, "/camera/0")
            assert (full.status, full.headers["retry-after"]) == (503, "1")
        full = await post(server, "/other/0", b"x")
        assert (full.status, full.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/camera", "/camera/0", "/camera/next"])
async def test_a_token_is_asked_for_on_every_verb(method: str, path: str) -> None:
    """A wrong or missing one is 401; a channel may have its own."""
    async with serving(token="secret", channel_tokens={"other": "own"}) as server:
        server.create_channel("camera")
        server.create_channel("other")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            reply = await ask(server.url, method, path, headers, b"")
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        good = await ask(server.url, "GET", "/camera/next", {"Authorization": "Bearer secret"})
        assert good.status == 200
        own = {"Authorization": "bearer own"}
        assert (await ask(server.url, "GET", "/other/next", own)).status == 200
        assert (await ask(server.url, "GET", "/camera/next", own)).status == 401


async def test_an_idle_channel_is_swept_and_a_long_segment_is_not() -> None:
    """The real sweep: waiting readers get Closed, a segment that takes bytes lives on."""
    async with serving(idle_timeout_s=0.2) as server:
        await post(server, "/idle", b"")
        async with connect(server.url) as waiting, connect(server.url) as writer:
            await waiting.send("GET", "/idle/0")
            await start_segment(writer, 0, b"x")
            ended = asyncio.create_task(waiting.reply())
            while not ended.done():
                await writer.chunk(b"x")
                await asyncio.sleep(0.01)
            assert (await ended).closed
            for _ in range(30):
                await writer.chunk(b"x")
                await asyncio.sleep(0.01)
            assert server.registry.names == ["camera"]
            assert server.stats.channels_swept == 1


async def test_the_changefeed_can_be_read_but_not_written() -> None:
    """A POST to its next number, which stops the reference's feed for good, changes nothing."""
    async with serving(changefeed=True) as server:
        for method, path in (
            ("POST", "/_changes"),
            ("POST", "/_changes/1"),
            ("POST", "/_changes/-1"),
            ("DELETE", "/_changes/0"),
            ("DELETE", "/_changes"),
        ):
            assert (await ask(server.url, method, path, body=b"x")).status == 403
        await post(server, "/camera", b"")
        reply = await get(server, "/_changes/-2")
        assert reply.headers["content-type"] == "application/json"
        assert reply.body == b'{"added": ["camera"], "channels": ["_changes", "camera"]}'


async def test_stopping_the_server_ends_every_channel_and_takes_no_time() -> None:
    """Waiting readers and writers are answered before the connections close."""
    async with contextlib.AsyncExitStack() as stack:
        server = TrickleServer()
        await server.start()
        waiting = await stack.enter_async_context(connect(server.url))
        writer = await stack.enter_async_context(connect(server.url))
        await start_segment(writer, 0, b"")
        await waiting.send("GET", "/camera/0")
        await registered(server, "camera", readers=1)
        stopping = asyncio.create_task(server.aclose())
        assert (await waiting.reply()).closed
        assert (await writer.reply()).closed
        await writer.close()
        await stopping
        await server.aclose()


printable = st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f")
parts = st.one_of(
    st.sampled_from(["camera", "next", "_changes", "0", "-1", "-2", "%2F", "%00", "%ff%fe", ""]),
    st.text(printable, max_size=20),
)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "PATCH"]),
            st.lists(parts, max_size=3).map("/".join),
            st.dictionaries(
                st.sampled_from(["Content-Type", "Expect-Content", "Authorization", RESET, SEQ]),
                st.text(printable, max_size=12),
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_nothing_that_is_asked_is_a_server_error(
    requests: list[tuple[str, str, dict[str, str]]],
) -> None:
    """Whatever the verb, the path and the headers; and the server goes on."""

    async def talk() -> None:
        async with serving(changefeed=True, token="t") as server:
            for method, path, headers in requests:
                for token in ({}, {"Authorization": "Bearer t"}):
                    async with connect(server.url) as connection:
                        await connection.send(method, "/" + path, {**headers, **token}, b"")
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(0.05):  # it may rightly wait
                                assert (await connection.head()).status < 500
            alive = await ask(server.url, "POST", "/alive/0", {"Authorization": "Bearer t"}, b"x")
            assert alive.status == 200

    asyncio.run(talk())
