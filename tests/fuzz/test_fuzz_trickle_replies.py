"""What a trickle server may answer: whatever it is, a subscriber and a publisher end in time,
with an error of ours or none, and do not flood it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from relay.trickle.errors import TrickleError
from tests.fuzz.examples import examples
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import publisher, subscriber

LIMIT_S = 15
MOST_REQUESTS = 200

numbers = st.one_of(
    st.integers(-3, 9).map(str),
    st.sampled_from(["", "-1", "+3", "007", "1.5", "NaN", "9" * 30, "9223372036854775807", "1, 2"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Lp-Trickle-Seq": numbers,
        "Lp-Trickle-Latest": numbers,
        "Lp-Trickle-Oldest": numbers,
        "Lp-Trickle-Size": numbers,
        "Lp-Trickle-Reset": numbers,
        "Lp-Trickle-Closed": st.sampled_from(["terminated", "", "no"]),
        "Content-Type": st.sampled_from(["video/MP2T", "text/html", "", "x" * 100]),
        "Location": st.sampled_from(["/elsewhere", "http://169.254.169.254/", "::"]),
        "Retry-After": numbers,
        "Content-Encoding": st.sampled_from(["gzip", "identity", "?"]),
    },
)


@dataclass(frozen=True)
class Answer:
    """One reply of the server."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int | None
    raw: bytes | None
    """Sent instead, as it is."""


answers = st.lists(
    st.builds(
        Answer,
        st.sampled_from([200, 200, 200, 200, 404, 409, 470, 500, 204, 302, 401, 429, 799]),
        headers,
        st.binary(max_size=40),
        st.sampled_from([None, None, None, 0, 5, 10**6]),
        st.sampled_from([None] * 6 + [b"", b"HTTP/1.1 2", b"\xff\r\n\r\n", b"HTTP/9 x\r\n\r\n"])
        | st.binary(min_size=1, max_size=30),
    ),
    max_size=8,
)


def answering(script: list[Answer]) -> PeerServer:
    """Gives these answers in turn, then says that the channel is closed."""
    remaining = list(script)

    async def respond(exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            await exchange.continue_()
        if not remaining:
            await exchange.reply(404, {"Lp-Trickle-Closed": "terminated"})
            return
        answer = remaining.pop(0)
        with contextlib.suppress(ConnectionError):
            if answer.raw is not None:
                exchange.writer.write(answer.raw)
                exchange.cut()
                return
            await exchange.reply(answer.status, answer.headers, answer.body, length=answer.length)
            if answer.length is not None:
                exchange.cut()

    return PeerServer(respond)


@examples(20)
@given(script=answers)
async def test_any_answers_to_a_subscriber(script: list[Answer]) -> None:
    """It reads what it can, and ends."""
    async with answering(script) as server:
        source = subscriber(
            f"{server.url}camera",
            retry_budget_s=0.3,
            wait_for_channel_s=0.1,
            header_timeout_s=0.5,
            body_stall_s=0.2,
        )
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(TrickleError):
                async for segment in source:
                    async for data in segment:
                        assert data
            await source.aclose()
        assert len(server.requests) < MOST_REQUESTS


@examples(20)
@given(script=answers)
async def test_any_answers_to_a_publisher(script: list[Answer]) -> None:
    """It writes what is taken, and ends."""
    async with answering(script) as server:
        sink = publisher(
            f"{server.url}camera", retry_budget_s=0.3, write_stall_s=0.5, close_timeout_s=0.5
        )
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(TrickleError):
                await sink.start()
                for _ in range(3):
                    async with await sink.next_segment() as segment:
                        await segment.write(b"x" * 100)
            await sink.aclose()
        assert len(server.requests) < MOST_REQUESTS
