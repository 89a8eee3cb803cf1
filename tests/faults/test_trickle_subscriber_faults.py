"""The subscriber against servers that each have one fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relay.trickle.errors import ProtocolError, RefusedError, UnavailableError
from relay.trickle.http_client import ConnectionOptions
from relay.trickle.protocol import EndReason, StartPosition
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import read_all, subscriber
from tests.peers.scripted_channel import CLOSED, receive, seq, serving
from tests.peers.waiting import until

pytestmark = pytest.mark.timeout(20, method="signal")


# -- numbers ------------------------------------------------------------------------------


async def test_without_seq_segments_are_counted_here() -> None:
    """Other clients ask for the same number for ever."""
    async with serving(b"0", b"1", b"2", with_seq=False) as server:
        assert await receive(server) == [(0, b"0"), (1, b"1"), (2, b"2")]


async def test_without_seq_and_without_next_there_is_an_error_instead_of_a_loop() -> None:
    """A symbolic start can't be followed."""

    async def respond(exchange: Exchange) -> None:
        await exchange.reply(400 if exchange.request.last == "next" else 200, {}, b"x")

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera")
        with pytest.raises(ProtocolError):
            await anext(aiter(source))
        assert source.end_reason is EndReason.BROKEN
        with pytest.raises(ProtocolError):
            await anext(aiter(source))
        await source.aclose()
        assert len(server.requests) == 2


async def test_a_seq_that_is_always_the_same_does_not_stop_the_stream() -> None:
    """The numbers are wrong, the segments are new: they are delivered."""

    def wrong(body: bytes) -> Callable[[Exchange], Awaitable[None]]:
        return lambda exchange: exchange.reply(200, seq(0), body)

    async with serving(b"0", wrong(b"1"), wrong(b"2"), b"3") as server:
        assert await receive(server) == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3")]


async def test_a_stale_segment_served_for_every_number_is_neither_delivered_nor_a_hot_loop() -> (
    None
):
    """The same bytes again and again: delivered once, asked for less than ten times a second."""

    async def respond(exchange: Exchange) -> None:
        if exchange.request.last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 4}, b"4")
        else:
            await exchange.reply(200, seq(3), b"stale")

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera")
        reading = asyncio.create_task(read_all(source))
        await asyncio.sleep(1.0)
        await source.aclose()
        assert await reading == [(3, b"stale")]
        assert len(server.of("GET")) < 12
        assert source.stats.replays_refused >= 1


async def test_latest_below_seq_means_nothing() -> None:
    """It is sampled when the request arrives, and may be old."""

    async def late(exchange: Exchange) -> None:
        await exchange.reply(200, seq(1, Lp_Trickle_Latest=0), b"1")

    async with serving(b"0", late, b"2") as server:
        assert await receive(server) == [(0, b"0"), (1, b"1"), (2, b"2")]


async def test_a_higher_seq_is_a_reported_gap() -> None:
    """The server resolved the number to a later one."""

    async def later(exchange: Exchange) -> None:
        await exchange.reply(200, seq(4), b"4")

    async with serving(b"0", later, b"", b"", b"", b"5") as server:
        source = subscriber(server.url + "camera", start=0)
        segments = [(s.seq, s.skipped_before, await s.read()) async for s in source]
        assert segments == [(0, 0, b"0"), (4, 3, b"4"), (5, 0, b"5")]
        assert source.stats.skipped_segments == 3
        await source.aclose()


@pytest.mark.parametrize("code", [400, 405, 501])
async def test_without_next_the_server_finds_the_start_and_its_reply_pins_it(code: int) -> None:
    """Older servers answer /next with one of these; from the first Seq on numbers are plain."""

    async def respond(exchange: Exchange) -> None:
        match exchange.request.last:
            case "next":
                await exchange.reply(code)
            case "-2":
                await exchange.reply(200, seq(6), b"6")
            case "7":
                await exchange.reply(200, seq(7), b"7")
            case _:
                await exchange.reply(200, CLOSED)

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera")
        assert await read_all(source) == [(6, b"6"), (7, b"7")]
        assert source.end_reason is EndReason.CLOSED
        assert len(server.of("GET", -2)) == 1
        await source.aclose()


# -- refusals -----------------------------------------------------------------------------


async def test_470_just_ahead_is_waited_out_without_using_up_retries() -> None:
    """Other clients are dead after five of them."""
    refusals = 0

    async def reluctant(exchange: Exchange) -> None:
        nonlocal refusals
        refusals += 1
        if refusals < 7:
            await exchange.reply(470, seq(1, Lp_Trickle_Latest=1), b"Entry not found")
        else:
            await exchange.reply(200, seq(1), b"1")

    async with serving(b"0", reluctant) as server:
        source = subscriber(server.url + "camera", start=0, retry_budget_s=0.01)
        assert await read_all(source) == [(0, b"0"), (1, b"1")]
        assert source.stats.retries == 0
        await source.aclose()


async def test_470_without_its_headers_is_survived() -> None:
    """There is no Latest to go by: the edge is asked for."""
    refused = False

    async def bare(exchange: Exchange) -> None:
        nonlocal refused
        if refused:
            await exchange.reply(200, seq(1), b"1")
        else:
            refused = True
            await exchange.reply(470)

    async with serving(b"0", bare) as server:
        assert await receive(server) == [(0, b"0"), (1, b"1")]


async def test_behind_the_window_a_bare_470_does_not_stop_the_stream() -> None:
    """The edge that is asked for says how far to jump."""

    async def gone(exchange: Exchange) -> None:
        await exchange.reply(470)

    async with serving(b"0", gone, gone, b"3", edges=[4]) as server:
        source = subscriber(server.url + "camera", start=0)
        assert await read_all(source) == [(0, b"0"), (3, b"3")]
        assert (source.stats.jumps, source.stats.skipped_segments) == (1, 2)
        await source.aclose()


async def test_failing_servers_are_retried_with_pauses() -> None:
    """5xx, a cut before the reply, a reset: the same number is asked for again."""
    failures = iter(["500", "503", "cut", "reset", "429"])

    async def failing(exchange: Exchange) -> None:
        match next(failures, None):
            case "cut":
                exchange.cut()
            case "reset":
                exchange.cut(reset=True)
            case None:
                await exchange.reply(200, seq(0), b"0")
            case status:
                await exchange.reply(int(status), {}, b"oops")

    async with serving(failing, b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        assert await read_all(source) == [(0, b"0"), (1, b"1")]
        # aiohttp repeats a GET by itself when a kept connection turns out to be closed.
        assert 3 <= source.stats.retries <= 5
        await source.aclose()


async def test_the_retry_budget_is_time_and_its_end_is_an_error() -> None:
    """The error says for how long and why; asking again repeats it."""

    async def respond(exchange: Exchange) -> None:
        await exchange.reply(503)

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera", retry_budget_s=0.3)
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"for 0.3 s: it answers with status 503"):
                await anext(aiter(source))
        assert source.end_reason is EndReason.UNREACHABLE
        assert len(server.requests) < 10  # with pauses that grow
        await source.aclose()


async def test_a_useful_reply_renews_the_budget() -> None:
    """A server that fails now and then, for longer in all than the budget, is no dead one."""

    def failing_once(body: bytes) -> Callable[[Exchange], Awaitable[None]]:
        failed = False

        async def respond(exchange: Exchange) -> None:
            nonlocal failed
            if failed:
                await exchange.reply(200, seq(int(exchange.request.last)), body)
            else:
                failed = True
                await asyncio.sleep(0.1)
                await exchange.reply(503)

        return respond

    async with serving(*(failing_once(b"%d" % n) for n in range(5))) as server:
        source = subscriber(server.url + "camera", start=0, retry_budget_s=0.3)
        assert await read_all(source) == [(n, b"%d" % n) for n in range(5)]
        assert source.stats.retries == 5
        await source.aclose()


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up() -> None:
    """The question where to begin has its limit, and all attempts have the budget."""
    async with PeerServer(Exchange.gone) as server:
        connection = ConnectionOptions(connect_timeout_s=0.05, reply_timeout_s=0.05)
        source = subscriber(server.url + "camera", connection=connection, retry_budget_s=0.3)
        with pytest.raises(UnavailableError, match="timed out"):
            await anext(aiter(source))
        assert 2 <= len(server.of("GET", "next")) < 10
        await source.aclose()


async def test_a_number_that_nobody_comes_to_write_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too far ahead is no failure, but has its limit: then the channel is followed where it is."""
    monkeypatch.setattr("relay.trickle.subscriber._AHEAD_LIMIT_S", 0.2)

    async def respond(exchange: Exchange) -> None:
        last = exchange.request.last
        if last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 3}, b"3")
        elif last == "100":
            await exchange.reply(470, seq(100, Lp_Trickle_Latest=3), b"Entry not found")
        elif last == "3":
            await exchange.reply(200, seq(3), b"3")
        else:
            await exchange.reply(200, CLOSED)

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera", start=100)
        assert await read_all(source) == [(3, b"3")]
        assert (source.stats.restarts, source.stats.retries) == (1, 0)
        assert 2 <= len(server.of("GET", 100)) < 8
        await source.aclose()


async def test_a_refused_connection_is_retried_until_the_server_is_there() -> None:
    """A relay may be started before its trickle server."""
    async with serving(b"0") as gone:
        url = gone.url
    source = subscriber(url + "camera", start=0)
    reading = asyncio.create_task(read_all(source))
    await asyncio.sleep(0.05)
    revived = serving(b"0")
    port = int(url.rsplit(":", 1)[1].strip("/"))
    revived._server = await asyncio.start_server(revived._accept, "127.0.0.1", port)
    assert await reading == [(0, b"0")]
    assert source.stats.retries >= 1
    await source.aclose()
    await revived.__aexit__(None, None, None)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 405])
async def test_what_asking_again_can_not_help_is_an_error_at_once(status: int) -> None:
    """A redirect too: it is not followed to an address nobody allowed."""

    async def respond(exchange: Exchange) -> None:
        await exchange.reply(status, {"Location": "http://169.254.169.254/"})

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera", start=0)
        with pytest.raises(RefusedError, match=str(status)):
            await anext(aiter(source))
        assert source.end_reason is EndReason.REFUSED
        assert len(server.requests) == 1
        await source.aclose()


# -- ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (200, {"Lp-Trickle-Closed": "terminated"}, EndReason.CLOSED),
        (200, {"Lp-Trickle-Closed": ""}, EndReason.CLOSED),
        (404, {"Lp-Trickle-Closed": "whatever"}, EndReason.CLOSED),
        (404, {}, EndReason.GONE),
    ],
)
async def test_the_end_of_a_channel_is_told_apart(
    status: int, headers: dict[str, object], reason: EndReason
) -> None:
    """Any value of Closed counts; a 404 after a segment is gone."""

    async def end(exchange: Exchange) -> None:
        await exchange.reply(status, headers)

    async with serving(b"0", end) as server:
        source = subscriber(server.url + "camera", start=0)
        assert await read_all(source) == [(0, b"0")]
        assert source.end_reason is reason
        await source.aclose()


async def test_a_channel_that_was_there_to_begin_with_is_gone() -> None:
    """It told us its edge, and then there was none: that is not one that never existed."""

    async def respond(exchange: Exchange) -> None:
        if exchange.request.last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 3}, b"3")
        else:
            await exchange.reply(404)

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera", wait_for_channel_s=60.0)
        assert await read_all(source) == []
        assert source.end_reason is EndReason.GONE
        await source.aclose()


async def test_a_closing_reply_that_still_has_bytes_is_delivered_first() -> None:
    """Then the channel ends without another request."""

    async def last(exchange: Exchange) -> None:
        await exchange.reply(200, {**seq(1), **CLOSED}, b"last")

    async with serving(b"0", last) as server:
        assert await receive(server) == [(0, b"0"), (1, b"last")]
        assert not server.of("GET", 2)


@pytest.mark.parametrize("start", [StartPosition.CURRENT, 0])
async def test_a_channel_that_does_not_exist_yet_is_waited_for_if_asked(
    start: StartPosition | int,
) -> None:
    """Without the wish it never existed; with it, the stream begins when the channel does."""
    exists = False

    async def respond(exchange: Exchange) -> None:
        if not exists:
            await exchange.reply(404)
        elif exchange.request.last == "next":
            await exchange.reply(200, {}, b"1\n")
        elif exchange.request.last == "0":
            await exchange.reply(200, seq(0), b"0")
        else:
            await exchange.reply(404)

    async with PeerServer(respond) as server:
        impatient = subscriber(server.url + "camera", start=start)
        assert await read_all(impatient) == []
        assert impatient.end_reason is EndReason.NEVER_EXISTED
        await impatient.aclose()

        patient = subscriber(server.url + "camera", start=start, wait_for_channel_s=60.0)
        reading = asyncio.create_task(read_all(patient))
        before = len(server.requests)
        await until(lambda: len(server.requests) >= before + 2)
        exists = True
        assert await reading == [(0, b"0")]
        assert patient.end_reason is EndReason.GONE
        await patient.aclose()


# -- empty and stalled --------------------------------------------------------------------


async def test_a_run_of_empty_segments_is_delivered_slowly() -> None:
    """Each is valid; together they are not a hot loop."""

    async def respond(exchange: Exchange) -> None:
        if exchange.request.last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 0}, b"0")
        else:
            await exchange.reply(200, seq(int(exchange.request.last)))

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera")
        reading = asyncio.create_task(read_all(source))
        await asyncio.sleep(1.0)
        await source.aclose()
        received = await reading
        assert received == [(number, b"") for number in range(len(received))]
        assert 3 <= len(received) < 10
        assert source.stats.empty_segments == len(received)


async def test_headers_that_never_come_are_noticed() -> None:
    """The edge has passed, the reply is missing: the request is made again."""
    asked = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal asked
        if exchange.request.last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 3}, b"3")
        elif exchange.request.last == "2":
            asked += 1
            if asked == 1:
                await exchange.gone()
            else:
                await exchange.reply(200, seq(2), b"2")
        else:
            await exchange.reply(200, {**seq(3), **CLOSED})

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera")
        assert await read_all(source) == [(2, b"2")]
        assert source.stats.stalls == 1
        await source.aclose()


async def test_a_restart_is_noticed_by_who_waits_for_the_number_that_would_have_been_next() -> None:
    """The server lets it wait for a number that is now far ahead; the edge tells."""
    restarted = False

    async def respond(exchange: Exchange) -> None:
        nonlocal restarted
        last = exchange.request.last
        if last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 2 if restarted else 6}, b"")
        elif last == "6" and not restarted:
            restarted = True
            await exchange.gone()
        elif last == "6":
            await exchange.reply(470, seq(6, Lp_Trickle_Latest=2), b"Entry not found")
        elif last == "3":
            await exchange.reply(200, CLOSED)
        else:
            body = b"new" if restarted else b"old"
            await exchange.reply(200, seq(int(last)), body)

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera")
        assert await read_all(source) == [(5, b"old"), (2, b"new")]
        assert source.stats.restarts == 1
        await source.aclose()


async def test_an_idle_long_poll_is_refreshed_under_the_same_number() -> None:
    """Never as -1, which would skip what began and ended in between; nothing counts as failed."""
    async with asyncio.TaskGroup() as group:
        begun = asyncio.Event()

        async def respond(exchange: Exchange) -> None:
            if exchange.request.last == "next":
                await exchange.reply(200, {"Lp-Trickle-Latest": 5}, b"5")
            elif exchange.request.last == "5":
                gone = group.create_task(exchange.gone())
                begin = group.create_task(begun.wait())
                await asyncio.wait({gone, begin}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                begin.cancel()
                if begun.is_set():
                    await exchange.reply(200, seq(5), b"5")
            else:
                await exchange.reply(200, CLOSED)

        async with PeerServer(respond) as server:
            source = subscriber(
                server.url + "camera",
                start=StartPosition.NEXT,
                header_timeout_s=0.05,
                long_poll_refresh_s=0.1,
            )
            reading = asyncio.create_task(read_all(source))
            await server.wait_for("GET", 5, count=3)
            begun.set()
            assert await reading == [(5, b"5")]
            assert not server.of("GET", -1)
            assert source.stats.retries == 0
            await source.aclose()


async def test_a_server_that_cuts_idle_long_polls_does_not_use_up_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Servers with a write timeout close a waiting GET: it is made again, same number, for as
    long as it takes."""
    monkeypatch.setattr("relay.trickle.subscriber._HELD_OPEN_S", 0.05)
    cuts = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal cuts
        if exchange.request.last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 0}, b"0")
        elif cuts < 6:
            cuts += 1
            await asyncio.sleep(0.1)
            exchange.cut()
        elif exchange.request.last == "0":
            await exchange.reply(200, seq(0), b"0")
        else:
            await exchange.reply(200, CLOSED)

    async with PeerServer(respond) as server:
        source = subscriber(server.url + "camera", retry_budget_s=0.3)
        assert await read_all(source) == [(0, b"0")]
        assert {request.last for request in server.requests} == {"next", "0", "1"}
        await source.aclose()
