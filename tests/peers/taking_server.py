"""A server that takes what a publisher sends, and the steps of a publisher in one line."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from relay.trickle.segment_writer import SegmentWriter
from tests.peers.http_wire import Exchange, PeerServer

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
