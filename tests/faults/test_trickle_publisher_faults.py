"""The publisher against servers that each have one fault."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import aiohttp
import pytest

from relay.trickle.errors import (
    ChannelClosedError,
    ChannelNotFoundError,
    SegmentLostError,
    UnavailableError,
)
from relay.trickle.http_client import ConnectionOptions, new_session
from relay.trickle.protocol import EndReason
from relay.trickle.publisher import TricklePublisher
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import PUBLISHER, publisher
from tests.peers.taking_server import (
    Answer,
    Taker,
    after_first_byte,
    send,
    status,
    write_until_it_fails,
)
from tests.peers.waiting import until

pytestmark = pytest.mark.timeout(20, method="signal")


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


async def test_an_early_200_is_no_success_of_a_segment_that_happens_to_end_then() -> None:
    """Nothing more was to be written; but the server had not seen our end, so what it has may be
    short."""
    taker = Taker({0: [lambda e: after_first_byte(e, 200, {"Lp-Trickle-Seq": 0})]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        await segment.write(b"all of it")
        await until(lambda: segment._post.done)
        with pytest.raises(SegmentLostError, match="ended it early, with status 200"):
            await segment.close()


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


async def test_a_number_that_is_taken_away_before_the_first_byte_is_a_lost_segment() -> None:
    """It had been handed out under that number: it is not moved to another in silence."""
    take_away = asyncio.Event()

    async def refuse_when_told(exchange: Exchange) -> None:
        await take_away.wait()
        await exchange.reply(409, {"Lp-Trickle-Seq": 0, "Lp-Trickle-Latest": 1})

    taker = Taker({0: [refuse_when_told]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        take_away.set()
        await until(lambda: segment._post.done)
        with pytest.raises(SegmentLostError, match="another publisher has taken its number"):
            await segment.write(b"x")
        await (await send(sink, b"y")).close()
        assert taker.bodies == {1: b"y"}


async def test_numbers_that_are_all_used_are_no_hot_loop() -> None:
    """A server that ends every preconnect at once is asked with pauses, and given up in time."""
    taker = Taker({n: [status(200, {"Lp-Trickle-Seq": n})] for n in range(1000)})
    async with taker.server as server:
        sink = publisher(server.url + "camera", retry_budget_s=0.5)
        with contextlib.suppress(UnavailableError):
            await sink.start()
        await until(lambda: sink.end_reason)
        assert sink.end_reason is EndReason.UNREACHABLE
        assert len(server.of("POST")) < 12
        await sink.aclose()


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
        assert [r.headers.get("lp-trickle-reset") for r in server.of("POST", 0)] == ["1", "1"]


async def test_an_empty_segment_survives_the_loss_of_its_connection_too() -> None:
    """Its number would be missing otherwise, and its readers would wait."""
    drop = asyncio.Event()

    async def drop_when_told(exchange: Exchange) -> None:
        await drop.wait()
        exchange.cut()

    taker = Taker({0: [drop_when_told]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await sink.next_segment()
        drop.set()
        await until(lambda: segment._post.done)
        await segment.close()
        assert taker.bodies == {0: b""}
        assert sink.stats.segments_accepted == 1


@pytest.mark.parametrize("code", [None, 500, 503])
async def test_what_the_server_may_have_is_never_sent_twice(code: int | None) -> None:
    """Cut, or failed, after a first byte: lost, deleted for its readers (the reference leaves a
    segment open that it answered with 500), and the next one is whole."""

    async def fail(exchange: Exchange) -> None:
        await exchange.body_chunk()
        if code is None:
            exchange.cut(reset=True)
        else:
            await exchange.reply(code)

    taker = Taker({0: [fail]})
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


async def test_a_refused_end_of_a_segment_is_a_loss() -> None:
    """All of it was sent, and the server says no: close() does not report a success, and nothing
    is sent again."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(409, {"Lp-Trickle-Seq": 0, "Lp-Trickle-Latest": 1})

    taker = Taker({0: [refuse]})
    async with taker.server as server, publisher(server.url + "camera") as sink:
        segment = await send(sink, b"x")
        with pytest.raises(SegmentLostError, match="status 409"):
            await segment.close()
        await (await send(sink, b"y")).close()
        assert taker.bodies == {1: b"y"}
        assert len(server.of("POST", 0)) == 1
        assert (sink.stats.segments_lost, sink.stats.segments_accepted) == (1, 1)
        assert not server.of("DELETE", 0)


@pytest.mark.parametrize("code", [400, 405, 501])
async def test_a_broken_segment_whose_number_only_the_server_knows_is_closed_by_a_reset(
    code: int,
) -> None:
    """Never by DELETE of -1, which locks a channel of the reference server for good."""

    async def cut(exchange: Exchange) -> None:
        await exchange.body_chunk()
        exchange.cut(reset=True)

    async def old_server(exchange: Exchange) -> None:
        if exchange.request.last == "next":
            await exchange.reply(code)
        else:
            await taker._respond(exchange)

    taker = Taker({-1: [cut]})
    async with PeerServer(old_server) as server:
        async with publisher(server.url + "camera") as sink:
            segment = await sink.next_segment()
            await segment.write(b"first")
            with pytest.raises(SegmentLostError):
                await write_until_it_fails(segment)
            await (await send(sink, b"second")).close()
        assert [request.last for request in server.of("DELETE")] == ["camera"]
        assert [r.headers.get("lp-trickle-reset") for r in server.of("POST", -1)[:2]] == ["1", "1"]
        assert taker.bodies == {-1: b"second"}


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
        assert len(server.of("POST", 0)) < 10  # with pauses that grow
        await sink.aclose()


async def test_a_preconnect_that_stood_for_a_while_renews_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy that cuts idle connections does so for ever; that is no failing server."""
    monkeypatch.setattr("relay.trickle.preconnect._STANDING_S", 0.05)

    async def drop(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)
        exchange.cut()

    taker = Taker({0: [drop] * 5})
    async with taker.server as server:
        async with publisher(server.url + "camera", retry_budget_s=0.3) as sink:
            await server.wait_for("POST", 0, count=6)
            await (await send(sink, b"x")).close()
            assert taker.bodies == {0: b"x"}


async def test_a_useful_start_renews_the_budget() -> None:
    """What failed on the way to it does not count when a preconnect fails much later."""
    failed = False

    async def respond(exchange: Exchange) -> None:
        nonlocal failed
        if exchange.request.last == "next" and not failed:
            failed = True
            await exchange.reply(503)
        else:
            await taker._respond(exchange)

    async def fail_late(exchange: Exchange) -> None:
        await asyncio.sleep(0.5)
        await exchange.reply(503)

    taker = Taker({0: [fail_late]})
    async with PeerServer(respond) as server:
        async with publisher(server.url + "camera", retry_budget_s=0.3) as sink:
            await server.wait_for("POST", 0, count=2)
            await (await send(sink, b"x")).close()
            assert taker.bodies == {0: b"x"}


async def test_an_accepted_segment_renews_the_budget() -> None:
    """A server that fails now and then, for longer in all than the budget, is no dead one."""

    async def fail(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)
        await exchange.reply(503)

    taker = Taker({number: [fail] for number in range(5)})
    async with taker.server as server:
        async with publisher(server.url + "camera", retry_budget_s=0.3) as sink:
            for number in range(5):
                await server.wait_for("POST", number, count=2)
                await (await send(sink, b"%d" % number)).close()
            assert taker.bodies == {number: b"%d" % number for number in range(5)}


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


async def test_an_exception_in_the_middle_of_a_segment_gives_it_up() -> None:
    """An encoder that failed has not made a segment: its readers get a short one, and are freed."""
    taker = Taker()
    async with taker.server as server, publisher(server.url + "camera") as sink:
        with contextlib.suppress(ZeroDivisionError):
            async with await sink.next_segment() as segment:
                await segment.write(b"part")
                raise ZeroDivisionError
        await (await send(sink, b"whole")).close()
        await server.wait_for("DELETE", 0)
        assert (taker.cut, taker.bodies) == ({0}, {1: b"whole"})
        assert (sink.stats.segments_lost, sink.stats.segments_accepted) == (1, 1)


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
            async with asyncio.timeout(5):
                while sink.stats.retries < 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
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
