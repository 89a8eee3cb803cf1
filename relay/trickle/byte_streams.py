"""Files, pipes and standard streams for the command line tools, without blocking the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator
from typing import BinaryIO, cast

from relay.errors import RelayError

READ_BYTES = 1 << 16
STANDARD_STREAM = "-"
_FLUSH_TIMEOUT_S = 2.0


class ByteSource:
    """What is published; `open_input` makes it."""

    def __init__(self, file: BinaryIO, reader: asyncio.StreamReader | None) -> None:
        self._file = file
        self._reader = reader

    @property
    def seekable(self) -> bool:
        """Whether it can be played again."""
        return self._reader is None and self._file.seekable()

    async def read(self) -> bytes:
        """The next bytes, as soon as there are some; empty at the end."""
        if self._reader is not None:
            return await self._reader.read(READ_BYTES)
        return await asyncio.to_thread(self._file.read, READ_BYTES)

    def rewind(self) -> None:
        self._file.seek(0)


class ByteSink:
    """Where a recording goes; `open_output` makes it."""

    def __init__(self, file: BinaryIO, pipe: _WritingPipe | None) -> None:
        self._file = file
        self._pipe = pipe

    async def write(self, data: bytes) -> None:
        """Write all of it; waits while whoever reads is slower.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        if self._pipe is not None:
            await self._pipe.write(data)
        else:
            await asyncio.to_thread(self._file.write, data)


@contextlib.asynccontextmanager
async def open_input(path: str) -> AsyncIterator[ByteSource]:
    """A file, or standard input for ``-``. Reading a pipe can be cancelled.

    Raises:
        RelayError: it can't be opened.
    """
    file = sys.stdin.buffer if path == STANDARD_STREAM else _open(path, "rb")
    transport: asyncio.ReadTransport | None = None
    reader: asyncio.StreamReader | None = None
    try:
        if _is_pipe(file):
            reader = asyncio.StreamReader(limit=READ_BYTES)
            protocol = asyncio.StreamReaderProtocol(reader)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(lambda: protocol, file)
        yield ByteSource(file, reader)
    finally:
        if transport is not None:
            transport.close()
        elif path != STANDARD_STREAM:
            file.close()


@contextlib.asynccontextmanager
async def open_output(path: str) -> AsyncIterator[ByteSink]:
    """A file to be written anew, or standard output for ``-``.

    Raises:
        RelayError: it can't be opened, or standard output is a terminal.
    """
    file = sys.stdout.buffer if path == STANDARD_STREAM else _open(path, "wb")
    pipe: _WritingPipe | None = None
    try:
        if path == STANDARD_STREAM and file.isatty():
            raise RelayError(
                "a recording is not text: give it a file, or send it to a player as in "
                "'python -m relay.trickle record URL - | ffplay -'",
                code="output_is_terminal",
            )
        if _is_pipe(file):
            pipe = _WritingPipe()
            await asyncio.get_running_loop().connect_write_pipe(lambda: pipe, file)
        yield ByteSink(file, pipe)
    finally:
        if pipe is not None:
            await pipe.aclose()
        elif path == STANDARD_STREAM:
            file.flush()
        else:
            file.close()


class _WritingPipe(asyncio.BaseProtocol):
    """The writing side of a pipe, with back-pressure from its reader."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed.set()
        self._may_write.set()

    async def write(self, data: bytes) -> None:
        await self._may_write.wait()
        if self._transport is None or self._closed.is_set() or self._transport.is_closing():
            raise BrokenPipeError
        self._transport.write(data)
        await self._may_write.wait()

    async def aclose(self) -> None:
        if self._transport is None:
            return
        self._transport.close()  # what is buffered still goes out
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await self._closed.wait()
        except TimeoutError:
            self._transport.abort()


def _open(path: str, mode: str) -> BinaryIO:
    try:
        return cast(BinaryIO, open(path, mode))
    except OSError as error:
        raise RelayError(f"can't open {path}: {error.strerror}", code="no_such_file") from error


def _is_pipe(file: BinaryIO) -> bool:
    mode = os.fstat(file.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
