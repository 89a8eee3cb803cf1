"""A TCP proxy whose connections a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType


class CuttingProxy:
    """Forwards connections on a free port of loopback to another port.

    Args:
        port: where to; may be changed while it runs.
    """

    def __init__(self, port: int) -> None:
        self.target_port = port
        self.refusing = False
        """Whether new connections are closed at once."""
        self.url = ""
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self, *, every: int = 1) -> None:
        """Reset every n-th connection that stands."""
        for writer in tuple(self._writers)[::every]:
            writer.transport.abort()

    async def __aenter__(self) -> CuttingProxy:
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
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers[writer] = None
        upstream = None
        try:
            if self.refusing:
                return
            onward, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
            there = asyncio.create_task(self._forward(reader, upstream))
            back = asyncio.create_task(self._forward(onward, writer))
            try:
                # Either side's end is the end: HTTP peers here do not half-close.
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for side in (there, back):
                    side.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            self._writers.pop(writer, None)
            for side in (writer, upstream):
                if side is not None:
                    side.close()
                    with contextlib.suppress(OSError):
                        await side.wait_closed()

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
