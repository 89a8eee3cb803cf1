"""The server over real sockets: limits, rights, time, the changefeed, and its end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.trickle.errors import RefusedError
from relay.trickle.http_client import ConnectionOptions
from relay.trickle.protocol import RESET, SEQ
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.peers.quick import publisher, subscriber
from tests.peers.raw_client import ask, connect
from tests.peers.trickle_serving import get, post, registered, serving, start_segment
from tests.peers.waiting import until


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
            stalled.resume_reading()
            # Not a clean end: it has not got all of it.
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await stalled.body()


@pytest.mark.parametrize("limit", ["max_readers_per_channel", "max_readers"])
async def test_as_many_readers_and_channels_as_the_limits_say(limit: str) -> None:
    """One more is 503 with Retry-After."""
    async with serving(max_channels=1, **{limit: 1}) as server:
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
        wrong = ("", "Bearer", "Bearer wrong", "Bearer sec", "Bearer secret2", "Basic secret")
        for headers in ({}, *({"Authorization": value} for value in wrong)):
            reply = await ask(server.url, method, path, headers, b"")
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        good = await ask(server.url, "GET", "/camera/next", {"Authorization": "Bearer secret"})
        assert good.status == 200
        own = {"Authorization": "bearer own"}
        assert (await ask(server.url, "GET", "/other/next", own)).status == 200
        assert (await ask(server.url, "GET", "/camera/next", own)).status == 401


async def test_an_idle_channel_is_swept_and_a_long_segment_is_not() -> None:
    """The real sweep: waiting readers get Closed, a segment that takes bytes lives on, and so
    does a channel that is asked for again."""
    async with serving(idle_timeout_s=0.2) as server:
        await post(server, "/idle", b"")
        async with (
            connect(server.url) as waiting,
            connect(server.url) as writer,
            connect(server.url) as creator,
        ):
            await waiting.send("GET", "/idle/0")
            await start_segment(writer, 0, b"x")
            ended = asyncio.create_task(waiting.reply())
            while not ended.done():
                await writer.chunk(b"x")
                await creator.ask("POST", "/wanted", body=b"")
                await asyncio.sleep(0.01)
            assert (await ended).closed
            for _ in range(30):
                await writer.chunk(b"x")
                await creator.ask("POST", "/wanted", body=b"")
                await asyncio.sleep(0.01)
            assert sorted(server.registry.names) == ["camera", "wanted"]
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


async def test_the_changefeed_tells_that_the_server_stops() -> None:
    """A reader gets the removal of each channel, then the feed is closed too."""
    async with contextlib.AsyncExitStack() as stack:
        server = TrickleServer(options=ServerOptions(changefeed=True))
        await server.start()
        server.create_channel("camera")
        waiting = await stack.enter_async_context(connect(server.url))
        following = await stack.enter_async_context(connect(server.url))
        await waiting.send("GET", "/_changes/2")
        await following.send("GET", "/_changes/3")
        await registered(server, "_changes", readers=2)
        stopping = asyncio.create_task(server.aclose())
        told = await waiting.reply()
        assert told.body == b'{"removed": ["camera"], "channels": ["_changes"]}'
        assert (await following.reply()).closed
        await stopping


async def test_logs_hold_neither_names_nor_tokens() -> None:
    """A name is often all that protects a channel; none of it beyond its beginning is logged, by
    server, publisher or subscriber, also when things go wrong."""
    name, token = "3f9a77c1e2-very-secret", "token-of-the-channel"
    with structlog.testing.capture_logs() as logs:
        async with serving(token=token, max_channels=1, write_deadline_s=0.1) as server:
            url = server.url + name
            connection = ConnectionOptions(token=token)
            source = subscriber(url, start=0, connection=connection)
            async with publisher(url, connection=connection) as sink:
                segment = await sink.next_segment()
                await segment.write(b"x")
                await (await anext(aiter(source))).read_chunk()
                await segment.abandon()
                full = await post(server, f"/{name}-two", b"x", Authorization=f"Bearer {token}")
                assert full.status == 503
                with pytest.raises(RefusedError):
                    await publisher(url).start()
            await source.aclose()
    events = {line["event"] for line in logs}
    assert {"trickle.server.channel_created", "trickle.publisher.segment_lost"} <= events
    shown = repr(logs)
    assert name[:6] in shown
    assert not any(secret in shown for secret in (name[6:], token))


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
