"""A process of its own without the start of an interpreter: forked from one that has imported all.

A stand-in costs 1.5 s of CPU to start, nearly all of it imports, and the suite starts hundreds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import IO

PRELOADED = ["demo.comfystream_standin"]


class ForkedProcess:
    """As much of `asyncio.subprocess.Process` as a test needs."""

    def __init__(self, process: ForkServerProcess, stdout: asyncio.StreamReader) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self.stdout = stdout
        self._process = process

    @classmethod
    async def start(cls, main: Callable[[], int], *arguments: str, log: IO[bytes]) -> ForkedProcess:
        """Run a command line.

        Args:
            main: a function of a module; takes its arguments from `sys.argv`, returns an exit code.
            log: takes what it writes to standard error.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        reader, writer = context.Pipe(duplex=False)
        stderr = Connection(os.dup(log.fileno()), readable=False)
        with reader, writer, stderr:
            process = context.Process(
                target=_run, args=(main, arguments, writer, stderr), daemon=True
            )
            process.start()
            stdout = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(os.dup(reader.fileno()))
            )
        return cls(process, stdout)

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        """Its exit code, once it has ended and its output has been read."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        await self.stdout.read()
        assert self.returncode is not None
        return self.returncode


def _run(
    main: Callable[[], int], arguments: tuple[str, ...], stdout: Connection, stderr: Connection
) -> None:
    for taken, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
        with taken:
            os.dup2(taken.fileno(), stream.fileno())
    sys.argv = [main.__module__, *arguments]
    sys.exit(main())
