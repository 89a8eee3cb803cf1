"""A channel whose segments are lines of the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from relay.trickle.protocol import EndReason
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import read_all, subscriber

Segments = list[tuple[int, bytes]]


def seq(number: int, **more: object) -> dict[str, object]:
    return {"Lp-Trickle-Seq": number, **{k.replace("_", "-"): v for k, v in more.items()}}


CLOSED = {"Lp-Trickle-Closed": "terminated"}


def serving(
    *segments: bytes | Callable[[Exchange], Awaitable[None]], with_seq: bool = True
) -> PeerServer:
    """A channel with these segments, then Closed. A callable answers for itself."""

    async def respond(exchange: Exchange) -> None:
        last = exchange.request.last
        if last == "next":
            await exchange.reply(200, {"Lp-Trickle-Latest": 0}, b"0")
            return
        number = int(last)
        if number >= len(segments):
            await exchange.reply(200, seq(number, Lp_Trickle_Closed="terminated"))
            return
        segment = segments[number]
        if callable(segment):
            await segment(exchange)
        else:
            await exchange.reply(200, seq(number) if with_seq else {}, segment)

    return PeerServer(respond)


async def receive(server: PeerServer, **options: object) -> Segments:
    source = subscriber(server.url + "camera", start=0, **options)
    received = await read_all(source)
    await source.aclose()
    assert source.end_reason is EndReason.CLOSED
    return received
