"""Start and stop, connect and connect again, many times: does anything stay behind?

    python -m bench.session_churn [--cycles 500] [--reconnects 100] [--rapid 100]

Three runs on one relay: sessions that are started, watched until their first picture and stopped;
one session whose connection breaks again and again; and sessions with prompts that are started and
stopped every 200 ms against one server, which hangs at every offer that comes too early.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields

from bench.stage import Holdings, Stage, stage
from bench.trickle_processes import print_figures

WARM_UP = 30
SAMPLES = 10


async def wait_until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Ask until it holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - over HTTP, where nothing calls back
            await asyncio.sleep(0.02)


async def first_picture(stage: Stage, session: str) -> None:
    async def seen() -> bool:
        return bool((await stage.status(session))["output"]["frames"])

    await wait_until(seen)


async def churn(stage: Stage, cycles: int) -> None:
    samples: list[Holdings] = []
    every = max(1, cycles // SAMPLES)
    began = 0.0
    for number in range(-WARM_UP, cycles + 1):
        if number == 0:
            began = time.monotonic()
        if number >= 0 and number % every == 0:
            await asyncio.sleep(0.5)  # what was closed last is gone
            samples.append(Holdings.now())
        session = await stage.start("camera", stage.servers[0], prompts=[])
        await first_picture(stage, session)
        status, answer = await stage.call("DELETE", f"/session/{session}")
        assert status == 200, answer
    report(f"{cycles} sessions", samples, cycles, time.monotonic() - began)


async def reconnects(stage: Stage, count: int) -> None:
    server = stage.servers[0]
    session = await stage.start("camera", server, prompts=[])
    await first_picture(stage, session)
    await server.faults(video_sender_dies_after=10)
    samples: list[Holdings] = []
    every = max(1, count // SAMPLES)
    began = time.monotonic()
    for number in range(0, count + 1, every):

        async def reached(number: int = number) -> bool:
            return bool((await stage.status(session))["processing"]["reconnects"] >= number)

        await wait_until(reached, 600)
        samples.append(Holdings.now())
    report(f"{count} reconnects", samples, count, time.monotonic() - began)
    await server.faults()
    await stage.call("DELETE", f"/session/{session}")


async def rapid(stage: Stage, count: int) -> None:
    server = stage.servers[1]
    answers: dict[str, int] = {}
    began = time.monotonic()
    for number in range(count):
        due = began + number * 0.2
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        session = await stage.start("camera", server)
        await asyncio.sleep(0.1)
        status, _ = await stage.call("DELETE", f"/session/{session}")
        reason = (await stage.status(session))["end_reason"]
        answers[f"{status} {reason}"] = answers.get(f"{status} {reason}", 0) + 1
    last = await stage.start("camera", server)

    async def processed() -> bool:
        return bool((await stage.status(last))["processing"]["frames_processed"])

    await wait_until(processed)
    state = await server.state()
    print_figures(
        f"{count} starts and stops with prompts, 200 ms apart",
        [
            ("answers", ", ".join(f"{v} x {k}" for k, v in answers.items())),
            ("offers that reached the server", str(state["offers"])),
            ("dangerous offers", str(len(state["hazards"]))),
            ("server hangs", str(state["pipeline"]["wedged"])),
            ("a session after them", "processes"),
        ],
    )
    await stage.call("DELETE", f"/session/{last}")


def report(title: str, samples: list[Holdings], count: int, seconds: float) -> None:
    first, last = samples[0], samples[-1]
    half = samples[len(samples) // 2]
    slope = (last.memory_mb - half.memory_mb) / (count / 2) * 100
    print_figures(
        f"{title}, {seconds / count:.2f} s each: at the start, the middle, the end",
        [
            (name, ", ".join(str(getattr(sample, name)) for sample in (first, half, last)))
            for name in (field.name for field in fields(Holdings))
        ]
        + [("memory slope of the second half", f"{slope:+.2f} MB per 100")],
    )


async def run(options: argparse.Namespace) -> None:
    async with stage(
        2, media_timeout_s=0.5, reconnect_first_wait_s=0.1, reconnect_longest_wait_s=0.1
    ) as found:
        await found.play("camera")
        if options.cycles:
            await churn(found, options.cycles)
        if options.reconnects:
            await reconnects(found, options.reconnects)
        if options.rapid:
            await rapid(found, options.rapid)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--reconnects", type=int, default=100)
    parser.add_argument("--rapid", type=int, default=100)
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
