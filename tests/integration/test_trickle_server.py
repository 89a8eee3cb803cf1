"""The server over real sockets, addresses, channels and reading: what the reference suite asks
for, and where ours is stricter."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from relay.trickle.protocol import RESET
from relay.trickle.server_options import ChannelRequest, HookRefusal
from tests.peers.raw_client import ask, connect
from tests.peers.trickle_serving import (
    claimed,
    get,
    post,
    registered,
    serving,
    start_segment,
)
from tests.peers.waiting import until

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
        for channel in ("camera", "other"):
            assert (await ask(server.url, method, f"/{channel}/{number}")).status == 400
        assert server.registry.names == ["camera"]
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
            ("HEAD", "/camera", "POST, DELETE"),
            ("PUT", "/camera/0", "GET, HEAD, POST, DELETE"),
            ("POST", "/camera/next", "GET, HEAD"),
        ):
            async with connect(server.url) as connection:
                await connection.send(method, path)
                reply = await connection.head()
                assert (reply.status, reply.headers["allow"]) == (405, allowed)


async def test_head_is_get_without_the_body() -> None:
    """Again and again on one connection: a byte of body would be taken for the next head. The
    live segment is answered at once, and no reader is left behind."""
    async with serving() as server, connect(server.url) as writer, connect(server.url) as prober:
        await post(server, "/camera/0", b"whole", Expect_Content="video/MP2T")
        await post(server, "/camera/1", b"")
        await start_segment(writer, 2, b"live")
        await until(lambda: server.stats.segments == 3)
        expected = {
            "/camera/0": (200, 0, 3),
            "/camera/1": (200, 1, 3),
            "/camera/-2": (200, 2, None),
            "/camera/next": (200, None, 3),
            "/camera/9": (470, 9, 3),
            "/camera/x": (400, None, None),
            "/other/0": (404, None, None),
        }
        for _ in range(20):
            for path, headers in expected.items():
                await prober.send("HEAD", path)
                reply = await prober.head()
                assert (reply.status, reply.seq, reply.latest) == headers
                assert "transfer-encoding" not in reply.headers
        await until(lambda: not server.stats.readers)
        await prober.send("HEAD", "/camera/3")
        await registered(server, "camera", readers=1)
        await post(server, "/camera/3", b"begun")
        assert (await prober.head()).seq == 3


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
            assert reply.headers["cache-control"] == "no-store"  # a channel may be made anew


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


async def test_latest_is_the_edge_at_the_moment_the_headers_leave() -> None:
    """Not when the request came: what began while it waited counts."""
    async with serving() as server:
        async with (
            connect(server.url) as first,
            connect(server.url) as second,
            connect(server.url) as reader,
        ):
            await start_segment(first, 0, b"")
            await start_segment(second, 1, b"")
            await claimed(server, "camera", 0)
            await claimed(server, "camera", 1)
            await reader.send("GET", "/camera/0")
            await registered(server, "camera", readers=1)
            await second.chunk(b"1")
            await until(lambda: server.stats.segments == 1)
            await first.chunk(b"0")
            head = await reader.head()
            assert (head.seq, head.latest) == (0, 2)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "seq", "latest", "closed"),
    [
        ("POST", "/new/7", {}, 200, 7, None, False),
        ("POST", "/new/-1", {}, 200, 0, None, False),
        ("POST", "/camera/-1", {}, 200, 2, None, False),
        ("POST", "/camera/1", {}, 409, 1, 2, False),
        ("POST", "/camera/1", {RESET: "1"}, 409, 1, 2, False),
        ("POST", "/camera/3", {"Content-Length": 101}, 413, 3, None, False),
        ("GET", "/camera/0", {}, 200, 0, 2, False),
        ("GET", "/camera/1", {}, 200, 1, None, False),
        ("GET", "/camera/-2", {}, 200, 1, None, False),
        ("GET", "/camera/4", {}, 470, 4, 2, False),
        ("GET", "/camera/next", {}, 200, None, 2, False),
        ("DELETE", "/camera/1", {}, 200, 1, None, False),
        ("GET", "/gone/0", {}, 404, None, None, True),
        ("GET", "/gone/next", {}, 404, None, None, True),
        ("POST", "/gone/1", {}, 404, None, None, True),
    ],
)
async def test_the_trickle_headers_of_each_reply(
    method: str,
    path: str,
    headers: dict[str, object],
    status: int,
    seq: int | None,
    latest: int | None,
    closed: bool,
) -> None:
    """Whatever a reply is about, it says which number, where the edge is, or that it is over."""
    async with serving(max_segment_bytes=100) as server:
        for number in range(2):
            await post(server, f"/camera/{number}", b"x")
        await post(server, "/gone", b"")
        await ask(server.url, "DELETE", "/gone")
        body = None if method != "POST" else bytes(int(str(headers.get("Content-Length", 1))))
        reply = await ask(server.url, method, path, headers, body)
        assert reply.status == status
        assert (reply.seq, reply.latest, reply.closed) == (seq, latest, closed)


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
