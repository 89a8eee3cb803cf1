"""The subscriber when segments break off, and when its own reader is slow, late or cancelled."""

from __future__ import annotations

import asyncio

import pytest

from relay.trickle.errors import SegmentTooLargeError
from relay.trickle.protocol import EndReason
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import read_all, subscriber
from tests.peers.scripted_channel import SegmentAnswer, receive, seq, serving

pytestmark = pytest.mark.timeout(20, method="signal")


# -- cuts in mid-segment ------------------------------------------------------------------


def cut_after(first: bytes, *, reset: bool, then: bytes | int) -> SegmentAnswer:
    """Sends `first` and cuts; asked again, replies with all of `then`, or with that status."""
    cut = False

    async def respond(exchange: Exchange) -> None:
        nonlocal cut
        number = int(exchange.request.last)
        if not cut:
            cut = True
            await exchange.start(200, seq(number))
            await exchange.chunk(first)
            await asyncio.sleep(0.01)  # a reset would overtake the bytes in the socket
            exchange.cut(reset=reset)
        elif isinstance(then, int):
            await exchange.reply(then, seq(number, Lp_Trickle_Latest=number + 2))
        else:
            await exchange.start(200, seq(number))
            for start in range(0, len(then), 7):
                await exchange.chunk(then[start : start + 7])
            await exchange.end()

    return respond


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_segment_is_resumed_where_it_broke_off(reset: bool) -> None:
    """The same number again; what was delivered is skipped, every byte comes once."""
    whole = bytes(range(100))
    async with serving(b"0", cut_after(whole[:33], reset=reset, then=whole), b"2") as server:
        source = subscriber(server.url + "camera", start=0)
        assert await read_all(source) == [(0, b"0"), (1, whole), (2, b"2")]
        assert (source.stats.resumes, source.stats.truncated_segments) == (1, 0)
        await source.aclose()


async def test_a_length_that_is_not_reached_is_a_cut() -> None:
    """Content-Length says 100, 40 come, then the connection ends."""
    whole = bytes(range(100))
    asked = 0

    async def short(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await exchange.reply(200, seq(0), whole[:40], length=100)
            exchange.cut()
        else:
            await exchange.reply(200, seq(0), whole)

    async with serving(short) as server:
        assert await receive(server) == [(0, whole)]


async def test_garbage_instead_of_a_chunk_is_a_cut() -> None:
    """So is a reply that is no HTTP at all: asked for again."""
    asked = 0

    async def garbled(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            exchange.writer.write(b"this is not HTTP\r\n\r\n")
        elif asked == 2:
            await exchange.start(200, seq(0))
            await exchange.chunk(b"one")
            exchange.writer.write(b"no size\r\n")
        else:
            await exchange.reply(200, seq(0), b"onetwo")

    async with serving(garbled) as server:
        assert await receive(server) == [(0, b"onetwo")]


async def test_a_cut_segment_that_is_gone_keeps_what_had_arrived() -> None:
    """Also what waited in our own buffers when the cut came; the loss is marked and counted."""
    first = bytes(100_000)
    async with serving(cut_after(first, reset=False, then=470), b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        segments = aiter(source)
        segment = await anext(segments)
        await server.wait_for("GET", 1)
        await asyncio.sleep(0.1)  # all of it is here, and so is the cut, before the first read
        assert await segment.read() == first
        assert segment.truncated
        following = await anext(segments)
        assert (following.seq, await following.read()) == (1, b"1")
        assert source.stats.truncated_segments == 1
        await source.aclose()


async def test_a_resumed_segment_with_other_bytes_is_not_mixed_in() -> None:
    """The number was used again meanwhile: the rest of the new one does not follow the old."""
    async with serving(cut_after(b"old part", reset=False, then=b"new segment"), b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        segments = aiter(source)
        segment = await anext(segments)
        assert await segment.read() == b"old part"
        assert segment.truncated
        following = await anext(segments)
        assert (following.seq, await following.read()) == (1, b"1")
        await source.aclose()


async def test_a_resumed_segment_of_another_number_is_not_mixed_in() -> None:
    """However alike they begin: what the server calls something else is something else."""
    asked = 0

    async def renumbered(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await exchange.start(200, seq(0))
            await exchange.chunk(b"same")
            await asyncio.sleep(0.01)
            exchange.cut()
        else:
            await exchange.reply(200, seq(9), b"same beginning")

    async with serving(renumbered, b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        segment = await anext(aiter(source))
        assert await segment.read() == b"same"
        assert segment.truncated
        await source.aclose()


async def test_a_message_that_broke_off_is_left_out() -> None:
    """Half a message is none; the next one is whole."""
    async with serving(cut_after(b'{"half', reset=False, then=470), b'{"a": 1}') as server:
        source = subscriber(server.url + "control", start=0)
        assert [message async for message in source.messages()] == [b'{"a": 1}']
        assert source.stats.truncated_segments == 1
        await source.aclose()


async def test_a_resumed_segment_that_is_shorter_now_ends_there() -> None:
    """Nothing is invented, and nothing hangs."""
    async with serving(cut_after(b"long part", reset=False, then=b"long"), b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        segment = await anext(aiter(source))
        assert await segment.read() == b"long part"
        assert segment.truncated
        await source.aclose()


async def test_a_resume_is_tried_again_while_the_server_fails() -> None:
    """A proxy that restarts cuts everybody and answers 503 for a moment."""
    replies = iter(["cut", "503", "cut before reply", "whole"])

    async def failing(exchange: Exchange) -> None:
        match next(replies):
            case "cut":
                await exchange.start(200, seq(0))
                await exchange.chunk(b"one")
                await asyncio.sleep(0.01)
                exchange.cut()
            case "503":
                await exchange.reply(503)
            case "cut before reply":
                exchange.cut()
            case _:
                await exchange.reply(200, seq(0), b"onetwo")

    async with serving(failing, b"1") as server:
        assert await receive(server) == [(0, b"onetwo"), (1, b"1")]


# -- stalls in mid-segment ----------------------------------------------------------------


def silent_after(first: bytes, *, times: int = 1000, then: bytes = b"") -> SegmentAnswer:
    """Sends `first` and no more, the first `times` times; then all of `then`."""
    asked = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        number = int(exchange.request.last)
        if asked <= times:
            await exchange.start(200, seq(number))
            await exchange.chunk(first)
            await exchange.gone()
        else:
            await exchange.reply(200, seq(number), then)

    return respond


async def test_a_segment_that_pauses_while_the_next_has_begun_is_not_given_up_at_once() -> None:
    """Segments may overlap: it is asked for once more, and there it goes on."""
    async with serving(silent_after(b"one", times=1, then=b"onetwo"), b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        assert await read_all(source) == [(0, b"onetwo"), (1, b"1")]
        assert (source.stats.stalls, source.stats.truncated_segments) == (1, 0)
        await source.aclose()


async def test_a_silent_segment_is_left_when_only_the_edge_tells_that_there_is_newer() -> None:
    """The request ahead was refused, a moment too early: the edge is asked for."""
    asked = 0

    async def early(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await exchange.reply(470, seq(1, Lp_Trickle_Latest=1), b"Entry not found")
        else:
            await exchange.reply(200, seq(1), b"1")

    async with serving(silent_after(b"0"), early, edges=[3]) as server:
        source = subscriber(server.url + "camera", start=0)
        assert await read_all(source) == [(0, b"0"), (1, b"1")]
        assert source.stats.truncated_segments == 1
        await source.aclose()


async def test_a_silent_segment_is_asked_for_ever_more_rarely() -> None:
    """Nothing newer has begun, so it is not given up; a long pause costs few requests."""

    async def unborn(exchange: Exchange) -> None:
        await exchange.gone()

    async with serving(silent_after(b"0"), unborn, edges=[1]) as server:
        source = subscriber(server.url + "camera", start=0, body_stall_s=0.1)
        reading = asyncio.create_task(read_all(source))
        await asyncio.sleep(1.6)
        assert 3 <= len(server.of("GET", 0)) <= 6
        await source.aclose()
        assert await reading == [(0, b"0")]
        assert source.stats.truncated_segments == 0


# -- pace and memory ----------------------------------------------------------------------


async def test_the_next_segment_is_asked_for_when_the_headers_of_this_one_are_here() -> None:
    """Before any of its bytes are read."""
    begin = asyncio.Event()

    async def open_segment(exchange: Exchange) -> None:
        await exchange.start(200, seq(0))
        await begin.wait()
        await exchange.chunk(b"0")
        await exchange.end()

    async with serving(open_segment) as server:
        source = subscriber(server.url + "camera", start=0, body_stall_s=10.0)
        segment = await anext(aiter(source))
        await server.wait_for("GET", 1)
        begin.set()
        assert await segment.read() == b"0"
        await source.aclose()


async def test_a_reader_that_does_not_read_holds_the_server_back() -> None:
    """TCP paces the peer: of a huge segment only what buffers hold is taken."""
    sent = 0

    async def huge(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.start(200, seq(0))
        while True:
            await exchange.chunk(bytes(1 << 20))
            sent += 1

    async with serving(huge) as server:
        source = subscriber(server.url + "camera", start=0)
        segment = await anext(aiter(source))
        await segment.read_chunk()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 40
        await source.aclose()


async def test_a_large_message_is_read_whole_and_a_too_large_one_refused() -> None:
    """Other readers take one 32 KB chunk of it."""
    message = b"[" + b"1," * 100_000 + b"1]"

    async def pieces(exchange: Exchange) -> None:
        await exchange.start(200, {**seq(1), "Content-Type": "video/mp2t"})
        for start in range(0, len(message), 10_000):
            await exchange.chunk(message[start : start + 10_000])
        await exchange.end()

    async with serving(b"", pieces, b"x") as server:
        source = subscriber(server.url + "control", start=0)
        assert [m async for m in source.messages()] == [message, b"x"]
        await source.aclose()
        small = subscriber(server.url + "control", start=0)
        with pytest.raises(SegmentTooLargeError):
            [m async for m in small.messages(limit=1000)]
        await small.aclose()


async def test_a_segment_that_is_left_early_does_not_disturb_the_next() -> None:
    """Asking for the next one ends the current one."""

    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, seq(0))
        while True:
            await exchange.chunk(b"x" * 100)
            await asyncio.sleep(0.01)

    async with serving(endless, b"1") as server:
        source = subscriber(server.url + "camera", start=0)
        segments = aiter(source)
        assert await (await anext(segments)).read_chunk()
        following = await anext(segments)
        assert (following.seq, await following.read()) == (1, b"1")
        await source.aclose()


async def test_a_cancelled_read_loses_nothing() -> None:
    """The next one goes on where it was."""
    go_on = asyncio.Event()

    async def paused(exchange: Exchange) -> None:
        await exchange.start(200, seq(0))
        await exchange.chunk(b"one")
        await go_on.wait()
        await exchange.chunk(b"two")
        await exchange.end()

    async with serving(paused) as server:
        source = subscriber(server.url + "camera", start=0, body_stall_s=10.0)
        segment = await anext(aiter(source))
        assert await segment.read_chunk() == b"one"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await segment.read_chunk()
        go_on.set()
        assert await segment.read() == b"two"
        await source.aclose()


async def test_a_cancelled_wait_for_a_segment_goes_on_with_the_same_request() -> None:
    """Nothing is asked for twice, nothing is left behind."""
    begin = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await begin.wait()
        await exchange.reply(200, seq(0), b"0")

    async with serving(late) as server:
        source = subscriber(server.url + "camera", start=0, header_timeout_s=30.0)
        segments = aiter(source)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await anext(segments)
        begin.set()
        assert await (await anext(segments)).read() == b"0"
        assert len(server.of("GET", 0)) == 1
        await source.aclose()


@pytest.mark.parametrize("where", ["long poll", "body", "backoff", "unborn"])
async def test_closing_ends_a_waiting_iteration_at_once(where: str) -> None:
    """Whatever it waits for; a pending long poll too, and no request is left behind."""

    async def respond(exchange: Exchange) -> None:
        if where == "backoff":
            await exchange.reply(503)
        elif where == "unborn":
            await exchange.reply(404)
        elif exchange.request.last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 0}, b"0")
        elif where == "long poll":
            await exchange.gone()
        else:
            await exchange.start(200, seq(0))
            await exchange.chunk(b"x")
            await exchange.gone()

    async with PeerServer(respond) as server:
        source = subscriber(
            server.url + "camera",
            header_timeout_s=30.0,
            body_stall_s=30.0,
            retry_budget_s=600.0,
            wait_for_channel_s=600.0,
        )
        reading = asyncio.create_task(read_all(source))
        await server.wait_for("GET", "next" if where in ("backoff", "unborn") else 0)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            await source.aclose()
            received = await reading
        assert received == ([(0, b"x")] if where == "body" else [])
        assert source.end_reason is EndReason.STOPPED
        assert (source.stats.resumes, source.stats.truncated_segments) == (0, 0)
        await source.aclose()
