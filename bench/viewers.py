"""What people who look at a session cost it, and what the page costs with many sessions.

    python -m bench.viewers [--seconds 6] [--rounds 3]
    python -m bench.viewers --page [--sessions 50]

The first measures one session's added delay, losses and the relay's CPU without viewers, and with
each kind of viewer in turn, in one run of the relay; shown are medians over the rounds, and ratios
to "nobody", so that what else the machine does cancels out. Viewers are curl processes; the one
that does not read is stopped (SIGSTOP) as soon as it is connected. The second starts sessions whose
inputs stay silent, and opens the page in chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from bench.process_cost import cpu_seconds
from bench.session_run import RunningStack, RunOptions, SessionRun
from demo.child_process import ChildError
from demo.output_probe import OutputProbe
from demo.relay_api import api_headers
from demo.test_pattern import picture_size
from relay.config.settings import LogLevel
from relay.observe.log import configure_logging

WARM_UP_S = 2.0
PAGE_S = 10.0


@dataclass(frozen=True, slots=True)
class Look:
    """One way to look."""

    name: str
    path: str = ""
    """Below the session's; of the relay if it begins with a slash."""
    viewers: int = 1
    stopped: bool = False


LOOKS = (
    Look("nobody"),
    Look("1 output.mjpeg", "preview/output.mjpeg"),
    Look("5 output.mjpeg", "preview/output.mjpeg", 5),
    Look("page open: both pictures, 480 wide", "/previews?width=480&session="),
    Look("1 output.ts", "output.ts"),
    Look("5 output.ts", "output.ts", 5),
    Look("1 output.ts that does not read", "output.ts", 1, stopped=True),
    Look("1 output.mjpeg that does not read", "preview/output.mjpeg", 1, stopped=True),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one look, in one round."""

    p50_ms: float
    p99_ms: float
    lost: int
    frames: int
    cpu_s_per_s: float


async def measure_viewers(seconds: float, rounds: int, size: tuple[int, int]) -> None:
    """One session, each look in turn, `rounds` times."""
    costs: dict[Look, list[Cost]] = {look: [] for look in LOOKS}
    async with AsyncExitStack() as cleanup:
        run, stack = await open_stack(cleanup, size)
        session_id = await run.start_session(stack)
        await asyncio.sleep(2 * WARM_UP_S)
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds} ...", flush=True)
            for look in LOOKS:
                cost = await measure_look(look, stack, session_id, seconds)
                if cost is None:
                    print(f"  {look.name}: no frame came out in {seconds:g} s, left out")
                else:
                    costs[look].append(cost)
        status = await run.status(stack.relay_url, session_id)
    print(f"viewers let go of: {status['viewers']['dropped']}")
    print(f"{'':<36}{'p50 ms':>8}{'ratio':>7}{'p99 ms':>8}{'ratio':>7}{'lost':>10}{'CPU s/s':>9}")
    base = costs[LOOKS[0]]
    if not base:
        raise ChildError("the machine is too busy to measure: nothing came out without viewers")
    for look, found in costs.items():
        if not found:
            continue
        p50, p99 = (median(getattr(cost, name) for cost in found) for name in ("p50_ms", "p99_ms"))
        base_p50, base_p99 = (
            median(getattr(cost, name) for cost in base) for name in ("p50_ms", "p99_ms")
        )
        lost = f"{sum(c.lost for c in found)} of {sum(c.frames for c in found)}"
        cpu = median(cost.cpu_s_per_s for cost in found)
        print(
            f"{look.name:<36}{p50:8.1f}{p50 / base_p50:7.2f}{p99:8.1f}{p99 / base_p99:7.2f}"
            f"{lost:>10}{cpu:9.3f}"
        )


async def measure_look(
    look: Look, stack: RunningStack, session_id: str, seconds: float
) -> Cost | None:
    """The session's delay while somebody looks that way; None if the machine was too busy for any
    frame."""
    async with AsyncExitStack() as viewers:
        for _ in range(look.viewers if look.path else 0):
            await open_viewer(viewers, look, stack.relay_url, session_id)
        probe = OutputProbe(
            stack.input_url, stack.output_url, read_pictures=False, warm_up_s=WARM_UP_S
        )
        probing = asyncio.create_task(probe.run())
        await asyncio.sleep(WARM_UP_S)
        before, began = cpu_seconds(stack.relay.pid), time.monotonic()
        await asyncio.sleep(seconds)
        cpu_s = cpu_seconds(stack.relay.pid) - before
        elapsed_s = time.monotonic() - began
        probe.stop()
        await probing
    video = probe.tally.summary()
    p50, p99 = video.delay_ms(50), video.delay_ms(99)
    if p50 is None or p99 is None:
        return None
    return Cost(p50, p99, video.lost, video.input_frames, cpu_s / elapsed_s)


async def open_viewer(viewers: AsyncExitStack, look: Look, relay_url: str, session_id: str) -> None:
    """A process that looks until `viewers` is closed."""
    if look.path.startswith("/"):
        url = f"{relay_url}{look.path}{session_id}"
    else:
        url = f"{relay_url}/session/{session_id}/{look.path}"
    headers = [f"{name}: {value}" for name, value in api_headers().items()]
    process = await asyncio.create_subprocess_exec(
        *["curl", "-sfN", "-o", "/dev/null", *(part for h in headers for part in ("-H", h)), url]
    )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    viewers.push_async_callback(end)
    if look.stopped:
        await asyncio.sleep(0.5)  # it is connected, and has read something
        process.send_signal(signal.SIGSTOP)


async def measure_page(sessions: int) -> None:
    """The page and its events with `sessions` sessions that wait for their inputs."""
    async with AsyncExitStack() as cleanup:
        _, stack = await open_stack(cleanup)
        http = await cleanup.enter_async_context(aiohttp.ClientSession(headers=api_headers()))
        for number in range(sessions):
            body = {
                "input_stream_url": f"{stack.input_url}-{number}",
                "comfystream_url": stack.comfystream_url,
                "prompts": [],
            }
            async with http.post(f"{stack.relay_url}/session/start", json=body) as answer:
                answer.raise_for_status()
        await asyncio.sleep(5 * WARM_UP_S)
        print(f"{sessions} sessions, inputs silent")
        for listeners in (0, 1, 5, 0):
            cpu, size = await measure_events(http, stack, listeners)
            each = f", {size / 1000:.1f} kB/s each" if listeners else ""
            print(f"  {listeners} listen to /events: relay CPU {cpu:.3f} s/s{each}")
        size, requests = await page_size(http, stack.relay_url)
        print(f"  page: {requests} files, {size / 1000:.1f} kB, none of another host")
        for attempt in ("first", "again"):
            shown_s, cpu_s = await load_page(stack, sessions)
            print(
                f"  {attempt}: all {sessions} shown after {shown_s:.2f} s, relay CPU {cpu_s:.3f} s"
            )


async def measure_events(
    http: aiohttp.ClientSession, stack: RunningStack, listeners: int
) -> tuple[float, float]:
    """CPU seconds a second, and bytes a second to each listener."""
    received = 0

    async def listen() -> None:
        nonlocal received
        timeout = aiohttp.ClientTimeout(total=None)
        async with http.get(f"{stack.relay_url}/events", timeout=timeout) as answer:
            async for data in answer.content.iter_any():
                received += len(data)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen()) for _ in range(listeners)]
        await asyncio.sleep(WARM_UP_S)
        received = 0
        before = cpu_seconds(stack.relay.pid)
        await asyncio.sleep(PAGE_S)
        cpu = (cpu_seconds(stack.relay.pid) - before) / PAGE_S
        size = received / PAGE_S / max(1, listeners)
        for task in tasks:
            task.cancel()
    return cpu, size


async def page_size(http: aiohttp.ClientSession, relay_url: str) -> tuple[int, int]:
    """Bytes and number of the page's files."""
    folder = Path(__file__).parents[1] / "relay" / "page"
    size, files = 0, 0
    for path in folder.iterdir():
        async with http.get(f"{relay_url}/page/{path.name}") as answer:
            answer.raise_for_status()
            size += len(await answer.read())
            files += 1
    return size, files


async def load_page(stack: RunningStack, sessions: int) -> tuple[float, float]:
    """Seconds until a browser shows every session, and the relay's CPU for it."""
    from playwright.async_api import async_playwright

    arguments = [] if os.getuid() else ["--no-sandbox"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        page = await browser.new_page()
        before, began = cpu_seconds(stack.relay.pid), time.monotonic()
        await page.goto(stack.relay_url)
        await page.locator(".card").nth(sessions - 1).wait_for()
        shown_s = time.monotonic() - began
        cpu_s = cpu_seconds(stack.relay.pid) - before
        await browser.close()
    return shown_s, cpu_s


async def open_stack(
    cleanup: AsyncExitStack, size: tuple[int, int] = (512, 512)
) -> tuple[SessionRun, RunningStack]:
    """Every process, ended by `cleanup`."""
    logs = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
    timeout = aiohttp.ClientTimeout(total=10)
    http = await cleanup.enter_async_context(
        aiohttp.ClientSession(timeout=timeout, headers=api_headers())
    )
    patient = {"RELAY_INPUT_TIMEOUT_S": "600"}
    options = RunOptions(width=size[0], height=size[1], environment=patient)
    run = SessionRun(options, logs, http, cleanup)
    return run, await run.start_stack()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.viewers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each look (%(default)g)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=picture_size, default=(512, 512), metavar="WIDTHxHEIGHT")
    parser.add_argument("--page", action="store_true", help="the page instead")
    parser.add_argument("--sessions", type=int, default=50, help="for the page (%(default)d)")
    arguments = parser.parse_args()
    configure_logging(LogLevel.WARNING)
    try:
        if arguments.page:
            asyncio.run(measure_page(arguments.sessions))
        else:
            asyncio.run(measure_viewers(arguments.seconds, arguments.rounds, arguments.size))
    except ChildError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
