"""An HTTP/1.1 server whose every reply, pause and cut is a line of the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(frozen=True)
class PeerRequest:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Keys in lower case."""
    at: float
    """Time of the event loop."""

    @property
    def last(self) -> str:
        """The last part of the path: a segment number, ``next``, or the channel's name."""
        return self.path.partition("?")[0].rpartition("/")[2]


@dataclass
class Exchange:
    """One request and the reply to it."""

    request: PeerRequest
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body_read: bool = False
    replied: bool = False
    chunked: bool = field(init=False)
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        headers = self.request.headers
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = int(headers.get("content-length", "0"))
        self.body_read = not self.chunked and not self._left

    async def body_chunk(self) -> bytes:
        """The next bytes of the request's body; empty at its end.

        Raises:
            ConnectionError: the client cut it.
        """
        if self.body_read:
            return b""
        try:
            if not self.chunked:
                data = await self.reader.read(min(self._left, 65536))
                self._left -= len(data)
                self.body_read = not self._left
                if not data:
                    raise ConnectionResetError("short body")
                return data
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("cut body") from error
        self.body_read = not data
        return data

    async def body(self) -> bytes:
        """The whole body of the request."""
        parts = []
        while data := await self.body_chunk():
            parts.append(data)
        return b"".join(parts)

    async def continue_(self) -> None:
        """A provisional reply."""
        self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self.writer.drain()

    async def reply(
        self,
        status: int,
        headers: Mapping[str, object] | None = None,
        body: bytes = b"",
        *,
        length: int | None = None,
    ) -> None:
        """A reply with a length; `length` may lie about it."""
        fields = {"Content-Length": len(body) if length is None else length, **(headers or {})}
        self._head(status, fields)
        self.writer.write(body)
        await self.writer.drain()

    async def start(self, status: int = 200, headers: Mapping[str, object] | None = None) -> None:
        """The head of a chunked reply."""
        self._head(status, {"Transfer-Encoding": "chunked", **(headers or {})})
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection, whatever the state of the exchange."""
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def gone(self) -> None:
        """Until the client closes its side (only for requests without a body)."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read(1)

    def _head(self, status: int, headers: Mapping[str, object]) -> None:
        self.replied = True
        lines = [f"HTTP/1.1 {status} status code {status}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())


Respond = Callable[[Exchange], Awaitable[None]]


class PeerServer:
    """Listens on a free port of loopback and answers with `respond`.

    Args:
        respond: called for each request, concurrently; a reply it leaves out cuts the
            connection.
    """

    def __init__(self, respond: Respond) -> None:
        self.requests: list[PeerRequest] = []
        self.connections = 0
        self.url = ""
        self._respond = respond
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> PeerServer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if error is None:
            for result in results:
                if isinstance(result, AssertionError):
                    raise result

    def of(self, method: str, last: str | int | None = None) -> list[PeerRequest]:
        """The requests so far with this method, and this last path part."""
        return [
            request
            for request in self.requests
            if request.method == method and (last is None or request.last == str(last))
        ]

    async def wait_for(self, method: str, last: str | int | None = None, count: int = 1) -> None:
        """Until that many such requests have come."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.of(method, last)) >= count)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            request = PeerRequest(method, path, headers, asyncio.get_running_loop().time())
            self.requests.append(request)
            async with self._arrived:
                self._arrived.notify_all()
            exchange = Exchange(request, reader, writer)
            await self._respond(exchange)
            if not exchange.replied or not exchange.body_read:
                return
            if headers.get("connection", "").lower() == "close":
                return
