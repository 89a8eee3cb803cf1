"""A program the demo or the benchmark starts, watches, and ends by its process id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
_LAST_LINES = 5


class ChildError(Exception):
    """A child did not start, or ended on its own; the message shows its last words."""


class Child:
    """One Python program in a process of its own, its output in a log file.

    Children are in sessions of their own, so Ctrl-C in the terminal reaches only the parent, which
    ends them in good order.

    Args:
        name: how messages call it, e.g. ``relay``.
        arguments: for the Python interpreter: a script or ``-m`` and a module, and its own.
        log_directory: where its log goes, as ``name.log``.
        environment: variables to add to the parent's.
    """

    def __init__(
        self,
        name: str,
        *arguments: str,
        log_directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_directory / f"{name.replace(' ', '-')}.log"
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process; it may need some time until it is ready."""
        with self.log_path.open("w") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                cwd=REPOSITORY,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    async def event(self) -> dict[str, Any]:
        """The next line of its standard output, which has to be a JSON object.

        Raises:
            ChildError: it ended instead.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise await self._ended()
        event: dict[str, Any] = json.loads(line)
        return event

    async def wait(self) -> int:
        """Wait until it has ended; its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    async def fail_when_ended(self) -> None:
        """Wait until it has ended.

        Raises:
            ChildError: always, then.
        """
        raise await self._ended()

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    async def stop(self, timeout_s: float = 2.0) -> None:
        """SIGTERM, and SIGKILL if that has not ended it in time. Idempotent."""
        process = self._process
        if process is None:
            return
        self.ask_to_end()
        if process.returncode is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # Not Popen.send_signal: it reaps a process that has just ended, and asyncio, which
        # wants to do that itself, then reports the exit code as unknown.
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def _ended(self) -> ChildError:
        code = await self.wait()
        said = self.log_path.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
        words = "".join(f"\n  {line}" for line in said)
        return ChildError(
            f"the {self.name} ended with exit code {code}{':' if words else ''}{words}"
        )
