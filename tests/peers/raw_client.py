"""A client that sends exactly what a test says, and sees exactly what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class RawReply:
    """A reply's head, and its body if it was read."""

    status: int
    reason: str
    headers: Mapping[str, str] = field(repr=False)
    """Keys in lower case."""
    body: bytes = b""
    provisional: int = 0
    """How many 100s came before it."""

    @property
    def seq(self) -> int | None:
        return int(self.headers["lp-trickle-seq"]) if "lp-trickle-seq" in self.headers else None

    @property
    def latest(self) -> int | None:
        value = self.headers.get("lp-trickle-latest")
        return None if value is None else int(value)

    @property
    def closed(self) -> bool:
        return "lp-trickle-closed" in self.headers


class RawConnection:
    """One TCP connection to a server. Made by `connect`."""

    def __init__(
        self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self._provisional = 0
        self._chunked = False
        self._left = 0

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, object] | None = None,
        body: bytes | None = None,
        *,
        chunked: bool = False,
    ) -> None:
        """A request; with `chunked`, its body follows by `chunk` and `end`."""
        fields: dict[str, object] = {"Host": self._host, **(headers or {})}
        if chunked:
            fields["Transfer-Encoding"] = "chunked"
        elif body is not None:
            fields.setdefault("Content-Length", len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b""))
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def head(self) -> RawReply:
        """The head of the final reply, and how many provisional ones came before."""
        while True:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            _, status, reason = head[0].split(" ", 2)
            if status != "100":
                break
            self._provisional += 1
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._chunked = headers.get("transfer-encoding") == "chunked"
        self._left = int(headers.get("content-length", "0"))
        provisional, self._provisional = self._provisional, 0
        return RawReply(int(status), reason, headers, provisional=provisional)

    async def provisional(self) -> int:
        """The status of the next reply, which has to be a provisional one."""
        line = (await self._reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
        assert line[1].startswith(b"1"), line
        return int(line[1])

    async def body_chunk(self) -> bytes:
        """The next bytes of the reply's body; empty at its end."""
        if not self._chunked:
            data = await self._reader.read(self._left) if self._left else b""
            self._left -= len(data)
            return data
        size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        """What is left of the reply's body."""
        parts = []
        while data := await self.body_chunk():
            parts.append(data)
        return b"".join(parts)

    async def reply(self) -> RawReply:
        """The whole reply."""
        head = await self.head()
        body = await self.body()
        return RawReply(head.status, head.reason, head.headers, body, head.provisional)

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, object] | None = None,
        body: bytes | None = None,
    ) -> RawReply:
        """A whole exchange."""
        await self.send(method, path, headers, body)
        return await self.reply()

    async def at_eof(self) -> bool:
        """Wait for the server to close; whether it did so without another byte."""
        return not await self._reader.read(1)

    def pause_reading(self) -> None:
        """Take no more bytes from the socket: a stalled peer."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connect(url: str) -> AsyncIterator[RawConnection]:
    """A connection to the server of `url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    connection = RawConnection(parts.netloc, reader, writer)
    try:
        yield connection
    finally:
        await connection.close()


async def ask(
    url: str,
    method: str,
    path: str,
    headers: Mapping[str, object] | None = None,
    body: bytes | None = None,
) -> RawReply:
    """One exchange on a connection of its own."""
    async with connect(url) as connection:
        return await connection.ask(method, path, headers, body)
