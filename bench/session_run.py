"""One measured session, every part of it a process of its own."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.calibration import codec_cpu_ms
from bench.process_cost import cpu_seconds, peak_memory_mb
from demo.child_process import Child, ChildError
from demo.relay_api import api_headers
from demo.start_session import INVERT
from relay.tasks import cancel_and_wait

START_TIMEOUT_S = 30.0
FIRST_FRAME_TIMEOUT_S = 30.0
PLAYERS_S = 12.0
"""For the players to open, settle and be compared."""
NOT_HELD_BACK: Mapping[str, str] = {"RELAY_MAX_LOAD": "0", "RELAY_SHED": "false"}
"""Settings of a relay that is measured: it shows what too much to do costs, instead of keeping it
away."""
_READY_POLL_S = 0.02
_SETTLE_S = 1.0
"""Between a source that flows and the start of the session: the channel is live, not new."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to measure."""

    seconds: float = 20.0
    warm_up_s: float = 2.0
    width: int = 512
    height: int = 512
    fps: str = "30"
    audio: bool = True
    invert: bool = False
    """Run the inverting workflow; otherwise frames are passed through."""
    process_ms: float = 0.0
    """Time a frame that the stand-in's workflow takes."""
    ingest: str | None = None
    egress: str | None = None
    """`transcode`, `copy` or `auto`; None leaves it to the relay's settings."""
    players: bool = True
    """Compare libav players of the two channels."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For the relay: RELAY_* settings to try."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What was measured in one run."""

    video: dict[str, Any]
    audio: dict[str, Any]
    players: dict[str, Any] | None
    cpu_s_per_s: float
    """CPU seconds of the relay process for a second of media."""
    cpu_ms_per_frame: float
    idle_memory_mb: float
    peak_memory_mb: float
    first_frame_ms: float
    """From POST /session/start to the last byte of the first processed frame."""
    round_trip_ms: dict[str, float] | None
    """The ComfyStream hop alone, as the relay counts it."""
    copying: dict[str, Any]
    """What it passed on as it was at the end, and why not."""
    frames_dropped: dict[str, Any]
    """By the relay, from the session's start, by queue and reason."""
    codec_cpu_ms: float
    """Decoding and encoding one picture, alone, on this machine just now."""


async def measure(options: RunOptions) -> RunResult:
    """Start everything, measure, end everything.

    Raises:
        ChildError: a process did not start or ended on its own; its log is quoted.
        TimeoutError: no processed frame came.
    """
    async with AsyncExitStack() as cleanup:
        logs = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
        timeout = aiohttp.ClientTimeout(total=10)
        http = await cleanup.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, headers=api_headers())
        )
        return await SessionRun(options, logs, http, cleanup).measure()


@dataclass(frozen=True, slots=True)
class RunningStack:
    """Every process but the probe, and the two channels."""

    relay: Child
    relay_url: str
    comfystream_url: str
    input_url: str
    output_url: str


class SessionRun:
    """Starts the processes of one run, and a session in them; `cleanup` ends them."""

    def __init__(
        self,
        options: RunOptions,
        logs: Path,
        http: aiohttp.ClientSession,
        cleanup: AsyncExitStack,
    ) -> None:
        self._options = options
        self._logs = logs
        self._http = http
        self._cleanup = cleanup

    async def measure(self) -> RunResult:
        options = self._options
        codec_ms = await asyncio.to_thread(codec_cpu_ms, options.width, options.height)
        async with asyncio.timeout(START_TIMEOUT_S):
            stack = await self.start_stack()
            relay, relay_url = stack.relay, stack.relay_url
            idle_memory = peak_memory_mb(relay.pid)
            input_url, output_url = stack.input_url, stack.output_url
            probe = await self._start_probe(input_url, output_url)
        await asyncio.sleep(_SETTLE_S)
        asked_at = time.monotonic()
        session_id = await self.start_session(stack)
        async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
            first = await probe.event()
        async with asyncio.timeout(options.warm_up_s + options.seconds + START_TIMEOUT_S):
            await probe.event()
            cpu_before, began = cpu_seconds(relay.pid), time.monotonic()
            await probe.event()
            cpu_s, elapsed_s = cpu_seconds(relay.pid) - cpu_before, time.monotonic() - began
            result = await probe.event()
        session = await self.status(relay_url, session_id)
        peak_memory = peak_memory_mb(relay.pid)
        shown = await self._compare_players(input_url, output_url) if options.players else None
        async with self._http.delete(f"{relay_url}/session/{session_id}"):
            pass
        if not result["complete"]:
            raise ChildError("a channel ended while it was measured")
        cpu_s_per_s = cpu_s / elapsed_s
        return RunResult(
            video=result["video"],
            audio=result["audio"],
            players=shown,
            cpu_s_per_s=round(cpu_s_per_s, 4),
            cpu_ms_per_frame=round(cpu_s * 1000 / max(1, result["video"]["delivered"]), 3),
            idle_memory_mb=round(idle_memory, 1),
            peak_memory_mb=round(peak_memory, 1),
            first_frame_ms=round((first["at"] - asked_at) * 1000, 1),
            round_trip_ms=session["processing"].get("round_trip_ms"),
            copying=session.get("copying", {}),
            frames_dropped=session.get("frames_dropped", {}),
            codec_cpu_ms=round(codec_ms, 3),
        )

    async def start_stack(self) -> RunningStack:
        """Trickle server, stand-in, relay and a source that flows."""
        trickle_url = await self._start_trickle()
        comfystream_url = await self._start_comfystream()
        relay, relay_url = await self._start_relay()
        input_url, output_url = f"{trickle_url}/live", f"{trickle_url}/live-processed"
        await self._start_source(input_url)
        return RunningStack(relay, relay_url, comfystream_url, input_url, output_url)

    async def _start_trickle(self) -> str:
        port = free_port()
        child = await self._start(
            "trickle server", "-m", "relay.trickle.server", "--port", str(port)
        )
        url = f"http://127.0.0.1:{port}"
        await self._wait_answer(child, url + "/")
        return url

    async def _start_comfystream(self) -> str:
        child = await self._start(
            "ComfyStream stand-in",
            *("-m", "demo.comfystream_standin", "--port", "0"),
            *("--process-ms", f"{self._options.process_ms:g}"),
        )
        url: str = (await child.event())["url"]
        return url

    async def _start_relay(self) -> tuple[Child, str]:
        port = free_port()
        child = await self._start(
            "relay",
            *("trickle_relay_service.py", "--host", "127.0.0.1", "--port", str(port)),
            environment={**NOT_HELD_BACK, **self._options.environment},
        )
        url = f"http://127.0.0.1:{port}"
        await self._wait_answer(child, url + "/health")
        return child, url

    async def _start_source(self, input_url: str) -> None:
        options = self._options
        child = await self._start(
            "source",
            *("-m", "demo.test_pattern", input_url, "--fps", options.fps),
            *("--size", f"{options.width}x{options.height}"),
            *(() if options.audio else ("--no-audio",)),
        )
        await child.event()

    async def _start_probe(self, input_url: str, output_url: str) -> Child:
        options = self._options
        child = await self._start(
            "probe",
            *("-m", "bench.latency_probe", input_url, output_url),
            *("--seconds", f"{options.seconds:g}", "--warm-up", f"{options.warm_up_s:g}"),
        )
        await child.event()
        return child

    async def _start(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Child:
        child = Child(name, *arguments, log_directory=self._logs, environment=environment)
        await child.start()
        self._cleanup.push_async_callback(child.stop)
        return child

    async def _wait_answer(self, child: Child, url: str) -> None:
        """Until an HTTP server answers, whatever it answers."""
        ended = asyncio.ensure_future(child.fail_when_ended())
        try:
            while not ended.done():
                try:
                    async with self._http.get(url):
                        return
                except aiohttp.ClientConnectionError:
                    # Another process can only be asked again.
                    await asyncio.sleep(_READY_POLL_S)
            await ended
        finally:
            await cancel_and_wait([ended])

    async def start_session(self, stack: RunningStack) -> str:
        """Over the relay's API; returns the session's id."""
        request = {
            "input_stream_url": stack.input_url,
            "comfystream_url": stack.comfystream_url,
            "prompts": INVERT if self._options.invert else [],
            "width": self._options.width,
            "height": self._options.height,
            "ingest": self._options.ingest,
            "egress": self._options.egress,
        }
        async with self._http.post(f"{stack.relay_url}/session/start", json=request) as response:
            answer = await response.json()
        if not answer["success"]:
            raise ChildError(f"the relay refuses the session: {answer['error']}")
        session_id: str = answer["session_id"]
        return session_id

    async def status(self, relay_url: str, session_id: str) -> dict[str, Any]:
        """The session's own account of itself."""
        async with self._http.get(f"{relay_url}/session/{session_id}/status") as response:
            answer = await response.json()
        session: dict[str, Any] = answer["session"]
        return session

    async def _compare_players(self, input_url: str, output_url: str) -> dict[str, Any]:
        """After the rest: two players more on the machine would be measured as well."""
        players = await self._start("players", "-m", "bench.player_probe", input_url, output_url)
        async with asyncio.timeout(START_TIMEOUT_S):
            await players.event()
        await asyncio.sleep(PLAYERS_S)
        players.ask_to_end()
        async with asyncio.timeout(START_TIMEOUT_S):
            return await players.event()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
