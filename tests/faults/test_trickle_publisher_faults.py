"""The publisher against servers that each have one fault."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from relay.trickle.errors import (
    ChannelClosedError,
    ChannelNotFoundError,
    RefusedError,
    SegmentLostError,
    StalledError,
    UnavailableError,
)
from relay.trickle.http_client import ConnectionOptions, new_session
from relay.trickle.protocol import EndReason
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import CreatePolicy
from relay.trickle.segment_writer import SegmentWriter
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import PUBLISHER, publisher
from tests.peers.waiting import until

pytestmark = pytest.mark.timeout(20, method="signal")

Answer = Callable[[Exchange], Awaitable[None]]


class Taker:
    """A server that takes what is posted, except where a test says otherwise.

    Args:
        answers: how a POST of a number is answered, for each attempt in turn; after those, and
            for other numbers, the body is taken and answered 200.
        edge: what /next says; None is 404.
    """

    def __init__(
        self, answers: dict[int, list[Answer]] | None = None, *, edge: int | None = 0
    ) -> None:
        self.bodies: dict[int, bytes] = {}
        self.cut: set[int] = set()
        """Numbers whose body was cut by the publisher."""
        self.edge = edge
        self._answers = answers or {}
        self._attempts: defaultdict[int, int] = defaultdict(int)
        self.server = PeerServer(self._respond)

    async def _respond(self, exchange: Exchange) -> None:
        method, last = exchange.request.method, exchange.request.last
        if last == "next":
            edge = "" if self.edge is None else str(self.edge)
            await exchange.reply(200 if edge else 404, {}, edge.encode())
        elif method == "POST" and last.lstrip("-").isdigit():
            number = int(last)
            attempt = self._attempts[number]
            self._attempts[number] += 1
            answers = self._answers.get(number, [])
            if attempt < len(answers):
                await answers[attempt](exchange)
            else:
                await self.take(exchange)
        else:
            await exchange.body()
            await exchange.reply(200)

    async def take(self, exchange: Exchange) -> None:
        number = int(exchange.request.last)
        try:
            body = await exchange.body()
        except ConnectionError:
            self.cut.add(number)
            raise
        self.bodies[number] = body
        await exchange.reply(200, {"Lp-Trickle-Seq": number})


def status(code: int, headers: dict[str, object] | None = None) -> Answer:
    """An answer to the head of a POST, before any byte of its body."""
    return lambda exchange: exchange.reply(code, headers)


async def after_first_byte(exchange: Exchange, code: int, headers: dict[str, object]) -> None:
    await exchange.body_chunk()
    await exchange.reply(code, headers)


async def send(sink: object, body: bytes) -> SegmentWriter:
    segment = await sink.next_segment()  # type: ignore[attr-defined]
    await segment.write(body)
    await segment.finish()
    return segment


async def write_until_it_fails(segment: SegmentWriter) -> None:
    while True:
        await segment.write(b"more")
        await asyncio.sleep(0.001)


# -- replies that come early --------------------------------------------------------------


async def test_an_early_200_is_a_lost_segment_never_a_success() -> None:
    """The server ended the segment: the encoder is told, the next one goes on."""
    taker = Taker({0: [lambda e: after_first_byte(e, 200, {"Lp-Trickle-Seq": 0})]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        await segment.write(b"first")
        with pytest.raises(SegmentLostError, match="status 200"):
            await write_until_it_fails(segment)
        with pytest.raises(SegmentLostError):
            await segment.close()
        await (await send(sink, b"second")).close()
        assert taker.bodies[1] == b"second"
        assert (sink.stats.segments_lost, sink.stats.segments_accepted) == (1, 1)


@pytest.mark.parametrize("early", [True, False])
async def test_closed_ends_the_publication(early: bool) -> None:
    """Whether it comes in mid-segment or to the waiting preconnect, nothing goes on after it."""
    closed: dict[str, object] = {"Lp-Trickle-Closed": "terminated"}
    answers: dict[int, list[Answer]] = (
        {0: [lambda e: after_first_byte(e, 200, closed)]} if early else {1: [status(200, closed)]}
    )
    taker = Taker(answers)
    async with taker.server as server:
        sink = publisher(server.url + "camera")
        await sink.start()
        segment = await sink.next_segment()
        await segment.write(b"first")
        if early:
            with pytest.raises(ChannelClosedError):
                await write_until_it_fails(segment)
        await until(lambda: sink.end_reason)
        with pytest.raises(ChannelClosedError):
            await sink.next_segment()
        assert sink.end_reason is EndReason.CLOSED
        await sink.aclose()
        assert not server.of("DELETE")


async def test_404_to_the_preconnect_ends_the_publication() -> None:
    """The channel is gone."""
    taker = Taker({0: [status(404, {"Connection": "close"})]})
    async with taker.server as server:
        sink = publisher(server.url + "camera")
        await sink.start()
        await until(lambda: sink.end_reason)
        with pytest.raises(ChannelNotFoundError, match="any more"):
            await sink.next_segment()
        assert sink.end_reason is EndReason.GONE
        await sink.aclose()


async def test_409_moves_up() -> None:
    """Somebody else has the number: the edge is asked for, nothing is lost."""
    taker = Taker({0: [status(409, {"Lp-Trickle-Seq": 0, "Lp-Trickle-Latest": 3})]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        await server.wait_for("POST", 3)
        segment = await send(sink, b"x")
        await segment.close()
        assert segment.seq == 3
        assert taker.bodies == {3: b"x"}
        assert (sink.stats.conflicts, sink.stats.segments_lost) == (1, 0)


async def test_a_preconnect_that_is_answered_200_at_once_is_a_used_number() -> None:
    """It was evicted or deleted: the next free number is used, and not in a hot loop."""
    taker = Taker({n: [status(200, {"Lp-Trickle-Seq": n})] for n in range(3)})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        await server.wait_for("POST", 3)
        await (await send(sink, b"x")).close()
        assert taker.bodies == {3: b"x"}


# -- retries: only what the server can not have -------------------------------------------


@pytest.mark.parametrize("code", [500, 503])
async def test_a_failing_preconnect_is_opened_again_on_its_number(code: int) -> None:
    """Nothing had been sent, nothing is lost."""
    taker = Taker({0: [status(code)] * 2, 1: [status(code)]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        for number, attempts in enumerate((3, 2, 1)):
            await server.wait_for("POST", number, count=attempts)
            await (await send(sink, b"%d" % number)).close()
        assert taker.bodies == {0: b"0", 1: b"1", 2: b"2"}
        assert sink.stats.retries == 3
        assert sink.stats.segments_lost == 0


async def test_a_dropped_idle_preconnect_loses_nothing() -> None:
    """It is opened again on the same number, Reset and all."""

    async def drop(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        exchange.cut()

    taker = Taker({0: [drop, drop], 1: [drop]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        for number, attempts in enumerate((3, 2)):
            await server.wait_for("POST", number, count=attempts)
            await (await send(sink, b"%d" % number)).close()
        assert taker.bodies == {0: b"0", 1: b"1"}
        assert {r.headers.get("lp-trickle-reset") for r in server.of("POST", 0)} == {"1"}


async def test_a_taken_segment_without_a_byte_survives_the_loss_of_its_connection() -> None:
    """It had been handed out, but nothing of it was sent: the same number is opened again."""
    drop = asyncio.Event()

    async def drop_when_told(exchange: Exchange) -> None:
        await drop.wait()
        exchange.cut()

    taker = Taker({0: [drop_when_told]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        drop.set()
        await until(lambda: segment._post.done)
        await segment.write(b"x")
        await segment.close()
        assert (segment.seq, taker.bodies) == (0, {0: b"x"})
        assert sink.stats.segments_lost == 0


async def test_what_the_server_may_have_is_never_sent_twice() -> None:
    """Cut after a first byte: lost, deleted for its readers, and the next one is whole."""

    async def cut(exchange: Exchange) -> None:
        await exchange.body_chunk()
        exchange.cut(reset=True)

    taker = Taker({0: [cut]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        await segment.write(b"first")
        with pytest.raises(SegmentLostError, match="go on with the next one"):
            await write_until_it_fails(segment)
        await (await send(sink, b"second")).close()
        await server.wait_for("DELETE", 0)
        assert len(server.of("POST", 0)) == 1
        assert taker.bodies == {1: b"second"}
        assert (sink.stats.segments_lost, sink.stats.segments_accepted) == (1, 1)


async def test_the_budget_of_retries_is_time_and_its_end_is_the_end() -> None:
    """A server that fails for longer than that is unreachable, and the reason is kept."""
    taker = Taker({0: [status(503)] * 1000})
    async with taker.server as server:
        sink = publisher(server.url + "camera", retry_budget_s=0.3)
        await sink.start()
        await until(lambda: sink.end_reason)
        with pytest.raises(UnavailableError, match="status 503"):
            await sink.next_segment()
        assert sink.end_reason is EndReason.UNREACHABLE
        await sink.aclose()


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


async def test_deleting_a_channel_that_is_gone_already_is_fine() -> None:
    """400 and 404 both mean that there is nothing left to delete."""

    async def respond(exchange: Exchange) -> None:
        if exchange.request.method == "DELETE":
            await exchange.reply(400)
        else:
            await taker._respond(exchange)

    taker = Taker()
    async with PeerServer(respond) as server:
        async with publisher(server.url + "camera") as sink:
            await (await send(sink, b"x")).close()
        assert len(server.of("DELETE", "camera")) == 1


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


# -- what peers do on the way -------------------------------------------------------------


async def test_any_number_of_provisional_replies() -> None:
    """A preconnect may be kept alive for hours."""

    async def chatty(exchange: Exchange) -> None:
        for _ in range(50):
            await exchange.continue_()
        await taker.take(exchange)

    taker = Taker({0: [chatty]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        await asyncio.sleep(0.05)
        await (await send(sink, b"x")).close()
        assert taker.bodies == {0: b"x"}


async def test_one_message_for_each_number_however_quickly_they_come() -> None:
    """Others put two into one number; also from several tasks at once."""
    taker = Taker()
    async with taker.server as server, publisher(server.url + "control") as sink:
        for number in range(20):
            segment = await sink.next_segment()
            await segment.write(b"m%d" % number)

        async def one() -> int:
            async with await sink.next_segment() as segment:
                return segment.seq

        numbers = await asyncio.gather(*(one() for _ in range(10)))
        assert sorted(numbers) == list(range(20, 30))
    assert [taker.bodies[n] for n in range(20)] == [b"m%d" % n for n in range(20)]


async def test_writes_are_sent_at_once_and_in_one_request() -> None:
    """Each is in the server's hands before the next is made."""
    received: list[bytes] = []

    async def each(exchange: Exchange) -> None:
        while data := await exchange.body_chunk():
            received.append(data)
        await exchange.reply(200, {"Lp-Trickle-Seq": 0})

    async with Taker({0: [each]}).server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        for number in range(5):
            await segment.write(b"w%d" % number)
            await until(lambda number=number: len(received) == number + 1)
        assert received == [b"w0", b"w1", b"w2", b"w3", b"w4"]
        request = server.of("POST", 0)[0]
        assert request.headers["transfer-encoding"] == "chunked"
        assert "content-encoding" not in request.headers


async def test_a_reply_with_another_number_is_noted_and_nothing_else() -> None:
    """The segment was accepted."""

    async def renumber(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(200, {"Lp-Trickle-Seq": 99})

    async with Taker({0: [renumber]}).server as server, publisher(server.url + "camera") as sink:
        await (await send(sink, b"x")).close()
        assert (await sink.next_segment()).seq == 1


async def test_an_idle_channel_is_kept_alive() -> None:
    """Servers count only first bytes: a harmless segment goes out, but not into an open one."""
    taker = Taker()
    async with taker.server as server:
        async with publisher(
            server.url + "camera", keepalive_payload=b"null", keepalive_interval_s=0.05
        ) as sink:
            await until(lambda: len(taker.bodies) >= 2)
            assert set(taker.bodies.values()) == {b"null"}
            segment = await sink.next_segment()
            await segment.write(b"a")
            count = sink.stats.keepalives
            await asyncio.sleep(0.15)
            assert sink.stats.keepalives == count
            await segment.write(b"b")
            await segment.close()
            assert taker.bodies[segment.seq] == b"ab"


async def test_a_session_with_too_few_connections_is_an_error_not_a_silence() -> None:
    """One channel needs two: with a limit of one the preconnect can't be opened."""
    async with Taker().server as server:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            options = replace(
                PUBLISHER,
                write_stall_s=0.5,
                connection=ConnectionOptions(connect_timeout_s=0.1),
            )
            sink = TricklePublisher(server.url + "camera", session=session, options=options)
            await sink.start()
            segment = await sink.next_segment()
            await segment.write(b"x")
            await asyncio.sleep(0.15)
            assert sink.stats.retries >= 1
            await sink.aclose()
            assert not session.closed


async def test_many_publishers_share_a_session() -> None:
    """Twice as many connections as channels, none left when all are closed."""
    taker = Taker()
    async with taker.server as server, new_session() as session:
        sinks = [
            TricklePublisher(f"{server.url}c{n}", session=session, options=PUBLISHER)
            for n in range(30)
        ]
        await asyncio.gather(*(sink.start() for sink in sinks))
        segments = await asyncio.gather(*(sink.next_segment() for sink in sinks))
        await asyncio.gather(*(segment.write(b"x") for segment in segments))
        await asyncio.gather(*(sink.aclose() for sink in sinks))
        assert sum(sink.stats.segments_accepted for sink in sinks) == 30
        assert not session.closed
