"""The publisher where it starts, where a server stalls, and where it ends."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from relay.trickle.errors import (
    ChannelNotFoundError,
    RefusedError,
    StalledError,
    UnavailableError,
)
from relay.trickle.http_client import ConnectionOptions
from relay.trickle.protocol import EndReason
from relay.trickle.publisher_options import CreatePolicy
from relay.trickle.segment_writer import SegmentWriter
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import publisher
from tests.peers.taking_server import (
    Taker,
    send,
)
from tests.peers.waiting import until

pytestmark = pytest.mark.timeout(20, method="signal")


# -- starting -----------------------------------------------------------------------------


async def test_an_existing_channel_is_not_created_again() -> None:
    """/next says where to go on; the first POST resets what an earlier publisher left."""
    taker = Taker(edge=41)
    async with taker.server as server, publisher(server.url + "camera") as sink:
        assert (await sink.next_segment()).seq == 41
        await server.wait_for("POST", 41)
        assert not server.of("POST", "camera")
        first = server.of("POST", 41)[0]
        assert first.headers["lp-trickle-reset"] == "1"
        assert first.headers["content-type"] == "video/MP2T"


async def test_a_missing_channel_is_created_with_its_type_if_that_is_wanted() -> None:
    """Expect-Content carries the type; a policy of never leaves it to others."""
    async with Taker(edge=None).server as server:
        async with publisher(server.url + "events", content_type="application/json"):
            assert server.of("POST", "events")[0].headers["expect-content"] == "application/json"
        server.requests.clear()
        sink = publisher(server.url + "events", create=CreatePolicy.NEVER)
        with pytest.raises(ChannelNotFoundError, match="told not to create it"):
            await sink.start()
        assert not server.of("POST")


async def test_a_channel_that_somebody_else_makes_can_be_waited_for() -> None:
    """As long as the option says."""
    taker = Taker(edge=None)
    async with taker.server as server:
        sink = publisher(server.url + "camera", create=CreatePolicy.NEVER, wait_for_channel_s=60.0)
        starting = asyncio.create_task(sink.start())
        await server.wait_for("GET", "next")
        taker.edge = 7
        await starting
        assert (await sink.next_segment()).seq == 7
        await sink.aclose()


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refusal_is_an_error_at_once(code: int) -> None:
    """It names the status and what to check."""

    async def respond(exchange: Exchange) -> None:
        await exchange.reply(code)

    async with PeerServer(respond) as server:
        sink = publisher(server.url + "camera")
        with pytest.raises(RefusedError, match=rf"status {code}\): check the token"):
            await sink.start()
        assert len(server.requests) == 1
        assert sink.end_reason is EndReason.REFUSED


async def test_credentials_go_with_every_request() -> None:
    """Token and further headers, on /next, create, segments and delete alike."""
    connection = ConnectionOptions(token="secret", headers={"X-Stream": "7"})
    async with Taker(edge=None).server as server:
        async with publisher(server.url + "camera", connection=connection) as sink:
            await (await send(sink, b"x")).close()
            await server.wait_for("POST", 1)
        assert len(server.requests) >= 5
        for request in server.requests:
            assert request.headers["authorization"] == "Bearer secret"
            assert request.headers["x-stream"] == "7"
    assert "secret" not in repr(connection)


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    """A refused connection is retried within the budget; then it is an error."""
    async with Taker().server as gone:
        url = gone.url
    sink = publisher(url + "camera", retry_budget_s=0.3)
    with pytest.raises(UnavailableError, match="can't connect"):
        await sink.start()
    assert sink.end_reason is EndReason.UNREACHABLE


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up() -> None:
    """Each short request has its limit, all of them the budget."""
    async with PeerServer(Exchange.gone) as server:
        connection = ConnectionOptions(connect_timeout_s=0.05, reply_timeout_s=0.05)
        sink = publisher(server.url + "camera", connection=connection, retry_budget_s=0.3)
        with pytest.raises(UnavailableError, match="timed out"):
            await sink.start()
        assert 2 <= len(server.of("GET", "next")) < 10


# -- stalls and ends ----------------------------------------------------------------------


async def test_a_server_that_stops_taking_bytes_is_noticed_and_counted() -> None:
    """write() raises after the deadline instead of blocking for ever; the stream goes on."""

    async def stall(exchange: Exchange) -> None:
        exchange.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    taker = Taker({0: [stall]})
    async with taker.server as server:
        async with publisher(server.url + "camera", write_stall_s=0.2) as sink:
            segment = await sink.next_segment()
            with pytest.raises(StalledError, match=r"0\.2 s"):
                await write_megabytes(segment)
            assert sink.stats.stalls == 1
            await (await send(sink, b"next")).close()
            assert taker.bodies == {1: b"next"}
            await server.wait_for("DELETE", 0)


async def write_megabytes(segment: SegmentWriter) -> None:
    while True:
        await segment.write(bytes(1 << 20))


async def test_a_slow_server_holds_the_encoder_back_and_gets_every_byte() -> None:
    """Back-pressure: write() waits while the connection is full."""
    received = bytearray()

    async def slow(exchange: Exchange) -> None:
        while data := await exchange.body_chunk():
            received.extend(data)
            await asyncio.sleep(0.002)
        await exchange.reply(200, {"Lp-Trickle-Seq": 0})

    async with Taker({0: [slow]}).server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        for _ in range(16):
            await segment.write(bytes(1 << 20))
            assert (segment.bytes_written - len(received)) < 8 << 20
        await segment.close()
        assert len(received) == 16 << 20


async def test_closing_waits_until_the_last_bytes_are_accepted() -> None:
    """2 MB written and closed at once arrive whole, then DELETE; the preconnect is dropped
    without becoming a segment."""

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        await taker.take(exchange)

    taker = Taker({0: [slow]})
    payload = bytes(range(256)) * 8192
    async with taker.server as server:
        sink = publisher(server.url + "camera")
        await sink.start()
        segment = await sink.next_segment()
        await server.wait_for("POST", 1)
        writing = asyncio.create_task(segment.write(payload))
        await until(lambda: writing.done())
        await sink.aclose()
        assert taker.bodies == {0: payload}
        await until(lambda: taker.cut == {1})
        assert server.requests[-1].method == "DELETE"
        assert server.requests[-1].last == "camera"
        assert sink.end_reason is EndReason.STOPPED
        await sink.aclose()


async def test_closing_takes_no_longer_than_its_limit() -> None:
    """A server that never answers the last segment does not hold us; the loss is counted."""

    async def mute(exchange: Exchange) -> None:
        await exchange.body()
        await asyncio.Event().wait()

    async with Taker({0: [mute]}).server as server:
        sink = publisher(server.url + "camera", close_timeout_s=0.2)
        await sink.start()
        await send(sink, b"x")
        async with asyncio.timeout(3):
            await sink.aclose()
        assert (sink.stats.segments_lost, sink.stats.stalls) == (1, 1)


async def test_a_missing_reply_to_a_segment_is_an_error_of_its_close() -> None:
    """close() means that the server said it has everything."""

    async def mute(exchange: Exchange) -> None:
        await exchange.body()
        await asyncio.Event().wait()

    async with Taker({0: [mute]}).server as server:
        async with publisher(server.url + "camera", close_timeout_s=0.2) as sink:
            segment = await send(sink, b"x")
            with pytest.raises(StalledError, match="not answered"):
                await segment.close()
            await (await send(sink, b"y")).close()


async def test_few_segments_are_under_way_at_once() -> None:
    """A server that answers late slows next_segment() down instead of piling them up."""
    answer = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await exchange.body()
        await answer.wait()
        await exchange.reply(200, {"Lp-Trickle-Seq": exchange.request.last})

    async with Taker({n: [late] for n in range(9)}).server as server:
        async with publisher(server.url + "camera", max_in_flight=2) as sink:
            await send(sink, b"0")
            await send(sink, b"1")
            assert sink.stats.segments_in_flight == 2
            third = asyncio.create_task(sink.next_segment())
            await asyncio.sleep(0.05)
            assert not third.done()
            answer.set()
            assert (await third).seq == 2


@pytest.mark.parametrize("code", [400, 404])
async def test_deleting_a_channel_that_is_gone_already_is_fine(code: int) -> None:
    """400 and 404 both mean that there is nothing left to delete."""

    async def respond(exchange: Exchange) -> None:
        if exchange.request.method == "DELETE":
            await exchange.reply(code)
        else:
            await taker._respond(exchange)

    taker = Taker()
    async with PeerServer(respond) as server:
        with structlog.testing.capture_logs() as logs:
            async with publisher(server.url + "camera") as sink:
                await (await send(sink, b"x")).close()
        assert len(server.of("DELETE", "camera")) == 1
        assert not [line for line in logs if line["log_level"] != "info"]


async def test_the_channel_can_be_left_for_another_publisher() -> None:
    """aclose(delete=False) publishes nothing more and deletes nothing."""
    taker = Taker()
    async with taker.server as server:
        sink = publisher(server.url + "camera")
        await sink.start()
        await send(sink, b"x")
        await sink.aclose(delete=False)
        await until(lambda: taker.cut == {1})
        assert taker.bodies == {0: b"x"}
        assert not server.of("DELETE")
