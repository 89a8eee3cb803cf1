"""A channel whose segments are lines of the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from relay.trickle.protocol import EndReason
from tests.peers.http_wire import Exchange, PeerServer
from tests.peers.quick import read_all, subscriber

SegmentAnswer = Callable[[Exchange], Awaitable[None]]
Segments = list[tuple[int, bytes]]


def seq(number: int, **more: object) -> dict[str, object]:
    return {"Lp-Trickle-Seq": number, **{k.replace("_", "-"): v for k, v in more.items()}}


CLOSED = {"Lp-Trickle-Closed": "terminated"}


def serving(
    *segments: bytes | SegmentAnswer, with_seq: bool = True, edges: Sequence[int] = (0,)
) -> PeerServer:
    """A channel with these segments, then Closed. A callable answers for itself.

    Args:
        segments: 0, 1, 2, ...
        with_seq: whether replies are numbered.
        edges: what /next says, each time it is asked; then the last of them.
    """
    remaining = list(edges)

    async def respond(exchange: Exchange) -> None:
        last = exchange.request.last
        if last == "next":
            edge = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            await exchange.reply(200, {"Lp-Trickle-Latest": edge}, b"%d" % edge)
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
