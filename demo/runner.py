"""Starts everything the demo needs, watches it, and ends it again.

In this process: the trickle server and the probe. In processes of their own, as in the field:
the ComfyStream stand-in, the relay (its real command line), the source.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp

from demo.child_process import Child, ChildError
from demo.file_source import FileSourceError, inspect
from demo.live_view import Addresses, introduction, live_line, problem_of, summary_lines
from demo.output_probe import OutputProbe
from demo.relay_api import api_headers
from demo.settings import DemoError, DemoSettings
from demo.start_session import INVERT
from relay.tasks import cancel_and_wait
from relay.trickle.errors import TrickleError
from relay.trickle.server import TrickleServer

START_TIMEOUT_S = 30.0
"""For everything to be ready; two or three seconds on an idle machine."""
_READY_POLL_S = 0.05
_ANSWER_TIMEOUT_S = 2.0
_CHILD_STOP_S = 2.0
"""For each of them, all at once, after the session has been ended in good order."""
_OVER = ("stopped", "failed")


class Interrupted(Exception):
    """The demo was told to end before it had begun."""


class Demo:
    """One run of the demo.

    Args:
        settings: what to run.
        stop: set to end it early, at any time.
    """

    def __init__(self, settings: DemoSettings, stop: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._relay_url = f"http://127.0.0.1:{settings.relay_port}"
        self._input_url = f"http://127.0.0.1:{settings.trickle_port}/demo"
        self._output_url = f"{self._input_url}-processed"
        self._probe = OutputProbe(
            self._input_url, self._output_url, read_pictures=settings.input_file is None
        )
        self._logs = Path(tempfile.mkdtemp(prefix="trickle-relay-demo-"))
        self._children: list[Child] = []
        self._watched: list[asyncio.Task[None]] = []
        self._session_id: str | None = None
        self._http: aiohttp.ClientSession

    async def run(self) -> None:
        """Run for the time that was set or until `stop`, end everything, sum it up.

        Raises:
            DemoError: it could not start, something ended on its own, or no processed frame
                reached the output channel. The logs stay.
            Interrupted: `stop` was set before the session had started.
        """
        try:
            source = await asyncio.to_thread(_describe_source, self._settings.input_file)
            async with AsyncExitStack() as cleanup:
                await self._start(cleanup)
                print(introduction(source, self._addresses(), str(self._logs)), flush=True)
                session = await self._watch()
        except ChildError as error:
            raise DemoError(f"{error}\n(all of it in {self._logs})") from None
        except TrickleError as error:
            raise DemoError(f"{error.message} (logs in {self._logs})") from None
        self._sum_up(session)
        shutil.rmtree(self._logs, ignore_errors=True)

    async def _start(self, cleanup: AsyncExitStack) -> None:
        """Start everything, unless it is stopped meanwhile. `cleanup` ends what was started."""
        server = TrickleServer(port=self._settings.trickle_port)
        await cleanup.enter_async_context(server)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
        http = aiohttp.ClientSession(timeout=timeout, headers=api_headers())
        self._http = await cleanup.enter_async_context(http)
        cleanup.push_async_callback(self._end)
        starting = asyncio.ensure_future(self._start_parts())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait(
                {starting, stopping}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if stopping.done():
                raise Interrupted
            if not starting.done():
                raise DemoError(f"not ready after {START_TIMEOUT_S:g} s (logs in {self._logs})")
            await starting
        finally:
            await cancel_and_wait([starting, stopping])

    async def _start_parts(self) -> None:
        try:
            async with asyncio.TaskGroup() as servers:
                servers.create_task(self._start_comfystream())
                servers.create_task(self._start_relay())
        except* ChildError as errors:
            raise errors.exceptions[0] from None
        self._watch_over(self._probe.run())
        await self._start_source()
        await self._start_session()

    async def _start_comfystream(self) -> None:
        port = str(self._settings.comfystream_port)
        child = await self._start_child(
            "ComfyStream stand-in", "-m", "demo.comfystream_standin", "--port", port
        )
        await child.event()

    async def _start_relay(self) -> None:
        port = str(self._settings.relay_port)
        child = await self._start_child(
            "relay", "trickle_relay_service.py", "--host", "127.0.0.1", "--port", port
        )
        ended = asyncio.ensure_future(child.wait())
        try:
            while not await self._get("/health"):
                if ended.done():
                    await child.fail_when_ended()
                # Another process can only be asked again.
                await asyncio.sleep(_READY_POLL_S)
        finally:
            await cancel_and_wait([ended])

    async def _start_source(self) -> None:
        input_file = self._settings.input_file
        if input_file is None:
            arguments = ["demo.test_pattern", self._input_url]
        else:
            arguments = ["demo.file_source", str(input_file.resolve()), self._input_url]
        child = await self._start_child("source", "-m", *arguments)
        await child.event()

    async def _start_child(self, name: str, *arguments: str) -> Child:
        child = Child(name, *arguments, log_directory=self._logs)
        self._children.append(child)
        await child.start()
        self._watch_over(child.fail_when_ended())
        return child

    def _watch_over(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run until the end, or until the end of the demo if that is sooner."""
        self._watched.append(asyncio.ensure_future(coroutine))

    async def _start_session(self) -> None:
        request = {
            "input_stream_url": self._input_url,
            "comfystream_url": f"http://127.0.0.1:{self._settings.comfystream_port}",
            "prompts": INVERT,
        }
        async with self._http.post(f"{self._relay_url}/session/start", json=request) as response:
            answer = await response.json()
        if not answer["success"]:
            raise DemoError(f"the relay refuses the session: {answer['error']}")
        self._session_id = answer["session_id"]

    async def _watch(self) -> dict[str, Any] | None:
        """A line a second until the time is over; the session's last status.

        Raises:
            ChildError, TrickleError: something ended on its own.
            DemoError: the session did.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = began + (self._settings.seconds or float("inf"))
        stopping = asyncio.ensure_future(self._stop.wait())
        session: dict[str, Any] | None = None
        try:
            while not stopping.done() and (left := ends - loop.time()) > 0:
                second = 1 - (loop.time() - began) % 1
                done, _ = await asyncio.wait(
                    {stopping, *self._watched},
                    timeout=min(second, left),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if done - {stopping}:
                    await self._explain(done - {stopping})
                session = await self._session_status()
                if done or left < second:
                    continue
                print(self._line(loop.time() - began, session), flush=True)
                if session is not None and session["status"] in _OVER:
                    why = problem_of(session) or session.get("end_reason")
                    raise DemoError(
                        f"the session {session['status']}: {why} (logs in {self._logs})"
                    )
        finally:
            await cancel_and_wait([stopping])
        return session

    async def _explain(self, ended: set[asyncio.Future[Any]]) -> None:
        """Raise what ended on its own."""
        for task in ended:
            await task
        raise DemoError(f"a channel was closed (logs in {self._logs})")

    def _line(self, elapsed_s: float, session: dict[str, Any] | None) -> str:
        probe = self._probe
        return live_line(
            elapsed_s,
            session,
            (probe.input.frames.rate, probe.output.frames.rate),
            probe.recent_delay.percentiles_ms(),
            probe.tally.summary(),
        )

    def _sum_up(self, session: dict[str, Any] | None) -> None:
        """Print the result.

        Raises:
            DemoError: no processed frame reached the output channel.
        """
        summary = self._probe.tally.summary()
        numbered = self._settings.input_file is None
        print(summary_lines(summary, self._probe.audio.summary(), numbered=numbered), flush=True)
        if summary.delivered and (summary.inverted or not numbered):
            return
        problem = session and problem_of(session)
        reason = f": {problem}" if problem else ""
        raise DemoError(
            f"no processed frame reached the output channel{reason} (logs in {self._logs})"
        )

    async def _session_status(self) -> dict[str, Any] | None:
        answer = await self._get(f"/session/{self._session_id}/status")
        return answer and answer["session"]

    async def _get(self, path: str) -> dict[str, Any] | None:
        """What the relay answers; None if it does not."""
        try:
            async with self._http.get(self._relay_url + path) as response:
                answer: dict[str, Any] = await response.json()
                return answer if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def _end(self) -> None:
        """End the session, then everything that was started."""
        await cancel_and_wait(self._watched)
        for task in self._watched:
            if not task.cancelled():
                task.exception()  # raised already, or only a consequence
        if self._session_id is not None:
            with suppress(aiohttp.ClientError, TimeoutError):
                url = f"{self._relay_url}/session/{self._session_id}"
                async with self._http.delete(url):
                    pass
        await asyncio.gather(*(child.stop(_CHILD_STOP_S) for child in self._children))

    def _addresses(self) -> Addresses:
        assert self._session_id is not None
        return Addresses(self._input_url, self._output_url, self._relay_url, self._session_id)


def _describe_source(input_file: Path | None) -> str:
    """The source in words.

    Raises:
        DemoError: the file can't be streamed.
    """
    if input_file is None:
        return "A test pattern, 512x512 at 30 fps, with sound,"
    try:
        facts = inspect(input_file)
    except FileSourceError as error:
        raise DemoError(str(error)) from None
    how = "as it is" if facts.copy_video else f"encoded again ({facts.why_not_copied})"
    return f"{input_file}, {facts.width}x{facts.height} at {float(facts.fps):g} fps, {how},"
