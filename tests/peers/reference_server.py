"""A model of go-livepeer's trickle server, its measured faults included.

What is modelled: five slots by number modulo five; an edge that follows the last first byte,
also downwards; a second POST to an open number appends, to a closed one is a silent 200; a
publisher that dies leaves its segment open; a waiting GET takes a slot without closing its
occupant; DELETE of a segment does not move the edge; a channel deleted in mid-body is a plain
200; negative numbers beyond -2 crash the handler.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.peers.http_wire import Exchange, PeerServer

SLOTS = 5


@dataclass
class Segment:
    seq: int
    data: bytearray = field(default_factory=bytearray)
    closed: bool = False
    by_channel: bool = False
    """Closed because its channel was."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def append(self, data: bytes) -> None:
        async with self.changed:
            if not self.closed:
                self.data += data
            self.changed.notify_all()

    async def close(self, *, by_channel: bool = False) -> None:
        async with self.changed:
            if not self.closed:
                self.closed, self.by_channel = True, by_channel
            self.changed.notify_all()


@dataclass
class Channel:
    content_type: str = ""
    edge: int = 0
    slots: list[Segment | None] = field(default_factory=lambda: [None] * SLOTS)

    def find(self, number: int) -> Segment | None:
        segment = self.slots[number % SLOTS]
        return segment if segment is not None and segment.seq == number else None


class ReferenceServer(PeerServer):
    """The model, listening.

    Args:
        autocreate: whether a POST makes a channel.
        with_next: False for the older server that lacks /next and answers it with 400.
    """

    def __init__(self, *, autocreate: bool = True, with_next: bool = True) -> None:
        super().__init__(self._serve_request)
        self.channels: dict[str, Channel] = {}
        self._autocreate = autocreate
        self._with_next = with_next

    async def _serve_request(self, exchange: Exchange) -> None:
        parts = exchange.request.path.strip("/").split("/")
        method = exchange.request.method
        if len(parts) == 1:
            await self._on_channel(exchange, parts[0])
            return
        name, rest = parts
        channel = self.channels.get(name)
        if rest == "next" and method == "GET":
            await self._next(exchange, channel)
            return
        try:
            number = int(rest)
        except ValueError:
            await exchange.reply(400, {}, b"Invalid idx")
            return
        if method == "POST":
            await self._write(exchange, name, number)
        elif channel is None:
            await exchange.reply(404, {}, b"Stream not found")
        elif method == "GET":
            await self._read(exchange, channel, number)
        elif method == "DELETE":
            await self._delete_segment(exchange, channel, number)

    async def _on_channel(self, exchange: Exchange, name: str) -> None:
        await exchange.body()
        headers = exchange.request.headers
        match exchange.request.method:
            case "POST" if self._autocreate or name in self.channels:
                content_type = headers.get("expect-content") or headers.get("content-type", "")
                self.channels.setdefault(name, Channel(content_type))
                await exchange.reply(200)
            case "POST":
                await exchange.reply(404, {"Connection": "close"}, b"Stream not found")
            case "DELETE" if name in self.channels:
                await self.delete(name)
                await exchange.reply(200)
            case "DELETE":
                await exchange.reply(400, {}, b"Invalid stream")
            case _:
                await exchange.reply(405)

    async def delete(self, name: str) -> None:
        """As DELETE of the channel, or the idle sweep, does it."""
        for segment in self.channels.pop(name).slots:
            if segment is not None:
                await segment.close(by_channel=True)

    async def _next(self, exchange: Exchange, channel: Channel | None) -> None:
        if not self._with_next:
            await exchange.reply(400, {}, b"Invalid idx")
        elif channel is None:
            await exchange.reply(404, {}, b"Stream not found")
        else:
            edge = str(channel.edge)
            await exchange.reply(200, {"Lp-Trickle-Latest": edge}, edge.encode())

    async def _write(self, exchange: Exchange, name: str, number: int) -> None:
        channel = self.channels.get(name)
        if channel is None:
            if not self._autocreate:
                await exchange.reply(404, {"Connection": "close"}, b"Stream not found")
                return
            content_type = exchange.request.headers.get("content-type", "")
            channel = self.channels[name] = Channel(content_type)
        if number == -1:
            number = channel.edge
        if number < 0:
            return  # panics
        if exchange.request.headers.get("lp-trickle-reset"):
            for segment in channel.slots:
                if segment is not None and segment.seq < number:
                    await segment.close()
        segment = channel.find(number)
        if segment is None:
            occupant = channel.slots[number % SLOTS]
            segment = channel.slots[number % SLOTS] = Segment(number)
            if occupant is not None:
                await occupant.close()
        taking = asyncio.create_task(self._take_body(exchange, channel, segment))
        closing = asyncio.create_task(self._until_ended_by_channel(segment))
        try:
            await asyncio.wait({taking, closing}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                taking.result()
                await exchange.reply(200, {"Lp-Trickle-Seq": number})
                return
            headers = {"Lp-Trickle-Seq": number, "Connection": "close"}
            if not segment.data:
                headers["Lp-Trickle-Closed"] = "terminated"
            await exchange.reply(200, headers)
        finally:
            for task in (taking, closing):
                task.cancel()
            await asyncio.gather(taking, closing, return_exceptions=True)

    async def _take_body(self, exchange: Exchange, channel: Channel, segment: Segment) -> None:
        first = True
        while data := await exchange.body_chunk():  # a cut leaves the segment open
            if first:
                channel.edge = segment.seq + 1
                first = False
            await segment.append(data)
        if first:
            channel.edge = segment.seq + 1
        await segment.close()

    @staticmethod
    async def _until_ended_by_channel(segment: Segment) -> None:
        async with segment.changed:
            await segment.changed.wait_for(lambda: segment.by_channel)

    async def _read(self, exchange: Exchange, channel: Channel, number: int) -> None:
        if number == -1:
            number = channel.edge
        elif number == -2:
            number = max(0, channel.edge - 1)
        if number < 0:
            return  # panics
        latest = channel.edge
        segment = channel.find(number)
        if segment is None:
            if number == channel.edge or (channel.edge == 0 and number == 1):
                # Waits, and the occupant of the slot is forgotten, not closed.
                segment = channel.slots[number % SLOTS] = Segment(number)
            else:
                await exchange.reply(
                    470,
                    {"Lp-Trickle-Seq": number, "Lp-Trickle-Latest": latest},
                    b"Entry not found",
                )
                return
        async with segment.changed:
            await segment.changed.wait_for(lambda: segment.data or segment.closed)
        headers: dict[str, object] = {"Lp-Trickle-Seq": number}
        if not segment.data:
            if segment.by_channel:
                headers["Lp-Trickle-Closed"] = "terminated"
            else:
                headers["Lp-Trickle-Latest"] = channel.edge
            await exchange.reply(200, headers)
            return
        if latest != number + 1 and latest != number:
            headers["Lp-Trickle-Latest"] = latest
        headers["Content-Type"] = channel.content_type
        await exchange.start(200, headers)
        offset = 0
        while True:
            async with segment.changed:
                await segment.changed.wait_for(
                    lambda offset=offset: len(segment.data) > offset or segment.closed
                )
            data = bytes(segment.data[offset:])
            if not data:
                break
            offset += len(data)
            await exchange.chunk(data)
        await exchange.end()

    async def _delete_segment(self, exchange: Exchange, channel: Channel, number: int) -> None:
        segment = channel.find(number) if number >= 0 else None
        if segment is None:
            await exchange.reply(400, {}, b"Nonexistent segment")
            return
        await segment.close()
        await exchange.reply(200)
