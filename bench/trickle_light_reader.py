"""Many subscribers that cost next to nothing, so that what is measured is the server.

    python -m bench.trickle_light_reader URL SUBSCRIBERS RECORD_BYTES

Each does on the wire what `TrickleSubscriber` does: two connections, the next segment asked for
when the headers of the current one arrive. Prints what it saw as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from urllib.parse import urlsplit

from bench.trickle_processes import RecordReader, memory_mb, percentile


class LightSubscriber:
    """Two connections that take turns.

    Args:
        path: of the channel.
        host: for the Host header.
        reader: is fed with the bodies.
    """

    def __init__(self, path: str, host: str, reader: RecordReader) -> None:
        self.reader = reader
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = f"GET {path}/%d HTTP/1.1\r\nHost: {host}\r\n\r\n"
        self._connections = [_Connection(self), _Connection(self)]
        self._turn = 0
        self._number = 0

    async def start(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        for connection in self._connections:
            await loop.create_connection(lambda c=connection: c, host, port)
        self._ask()

    def headers_arrived(self) -> None:
        self._turn = 1 - self._turn
        self._number += 1
        self._ask()

    def channel_ended(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
            for connection in self._connections:
                connection.transport.close()

    def _ask(self) -> None:
        self._connections[self._turn].ask(self._request % self._number)


class _Connection(asyncio.Protocol):
    """One connection: replies in chunks, decoded as they come."""

    transport: asyncio.Transport

    def __init__(self, owner: LightSubscriber) -> None:
        self._owner = owner
        self._buffer = b""
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: str) -> None:
        self.transport.write(request.encode())

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        owner = self._owner
        while buffer:
            end = buffer.find(b"\r\n" if self._in_body else b"\r\n\r\n")
            if end < 0:
                break
            if not self._in_body:
                if b"Lp-Trickle-Closed" in buffer[:end] or not buffer.startswith(b"HTTP/1.1 200"):
                    owner.channel_ended()
                    return
                buffer = buffer[end + 4 :]
                self._in_body = True
                owner.reader.begin_segment()
                owner.headers_arrived()
                continue
            size = int(buffer[:end], 16)
            if len(buffer) < end + 4 + size:
                break
            if size:
                owner.reader.feed(buffer[end + 2 : end + 2 + size])
            else:
                self._in_body = False
            buffer = buffer[end + 4 + size :]
        self._buffer = buffer


async def main(url: str, count: int, record_bytes: int) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    subscribers = [
        LightSubscriber(parts.path, parts.netloc, RecordReader(record_bytes)) for _ in range(count)
    ]
    for subscriber in subscribers:
        await subscriber.start(parts.hostname, parts.port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*(subscriber.done for subscriber in subscribers))
    readers = [subscriber.reader for subscriber in subscribers]
    first = [delay for reader in readers for delay in reader.first_byte_ms]
    every = [delay for reader in readers for delay in reader.record_ms]
    result = {
        "records": [len(reader.numbers) for reader in readers],
        "in_order": sum(reader.numbers == list(range(len(reader.numbers))) for reader in readers),
        "first_ms": {f"p{q}": percentile(first, q) for q in (50, 99, 100)},
        "record_ms": {f"p{q}": percentile(every, q) for q in (50, 99, 100)},
        "memory_mb": memory_mb(os.getpid()),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
