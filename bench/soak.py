"""Sessions under random faults for as long as you like; at the end each has to be well, or to have
ended for the right reason.

    python -m bench.soak [--minutes 60] [--sessions 2] [--seed 1] [--ingest copy] [--egress copy]

Every few seconds something goes wrong with a server, a channel or a session, for some seconds.
Between the faults a session may be in any state but `failed`; a minute after the last one it has
to be `active` with frames processed. The exit code says whether all of that held.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

import aiohttp

from bench.session_churn import wait_until
from bench.stage import Holdings, Server, Stage, stage
from bench.trickle_processes import print_figures
from demo.start_session import INVERT

FAULT_EVERY_S = (2.0, 6.0)
FAULT_LASTS_S = (0.5, 5.0)
RECOVERY_S = 60.0
REQUESTS: list[dict[str, Any]] = [{}, {"on_overload": "wait", "fallback": "repeat"}]
"""The sessions differ in what they do about a server that is slow or away."""
SAMPLES = 10
"""Of what the process holds, in the middle of it all: sessions come and go between them."""


@dataclass
class Lane:
    """One source, one server, and the session between them."""

    name: str
    server: Server
    request: dict[str, Any]
    """More of what its sessions are started with."""
    session: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Soak:
    """The lanes, and what happens to them."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._random = random.Random(seed)
        self.lanes = [
            Lane(f"camera-{n}", server, REQUESTS[n % len(REQUESTS)])
            for n, server in enumerate(stage.servers)
        ]

    async def start(self) -> None:
        for lane in self.lanes:
            await self._stage.play(lane.name)
            await self._begin(lane)

    async def torment(self, lane: Lane, until: float) -> None:
        """One fault after the other on one lane."""
        faults: list[Callable[[Lane, float], Awaitable[None]]] = [
            self._server_fault("frozen", frozen=True),
            self._server_fault("undecodable", undecodable=True),
            self._server_fault("withheld", withhold_media=True),
            self._server_fault("sender dies", video_sender_dies_after=20),
            self._server_fault("offers refused", offer_failure="500"),
            self._server_fault("slow offers", offer_delay_s=3.0),
            self._server_fault("slow workflow", process_ms=200.0),
            self._server_fault("returned frames lost", lose_returned_every=3),
            self._kill_server,
            self._freeze_server,
            self._restart_session,
            self._delete_output,
            self._end_source,
            self._pause_source,
            self._freeze_trickle,
            self._change_prompts,
        ]
        while time.monotonic() < until:
            await asyncio.sleep(self._random.uniform(*FAULT_EVERY_S))
            await self._random.choice(faults)(lane, self._random.uniform(*FAULT_LASTS_S))
            await self._look_after(lane)

    async def recover(self, lane: Lane) -> None:
        """Nothing goes wrong any more: the session has to get well."""
        await lane.server.faults()
        try:
            await wait_until(lambda: self._is_well(lane), RECOVERY_S)
        except TimeoutError:
            status = await self._stage.status(lane.session)
            lane.wrong.append(
                f"did not recover: {status['status']} {status['health']}"
                f" {status['processing']['error_code']}"
            )
        state = await lane.server.state()
        if state["pipeline"]["wedged"]:
            lane.wrong.append("its server hangs")

    # -- faults ---------------------------------------------------------------------------------

    def _server_fault(
        self, name: str, **changes: object
    ) -> Callable[[Lane, float], Awaitable[None]]:
        async def fault(lane: Lane, seconds: float) -> None:
            lane.faults[name] += 1
            await lane.server.faults(**changes)
            await asyncio.sleep(seconds)
            await lane.server.faults()

        return fault

    async def _kill_server(self, lane: Lane, seconds: float) -> None:
        lane.faults["server killed"] += 1
        await lane.server.kill()
        await asyncio.sleep(seconds)
        await lane.server.start()

    async def _freeze_server(self, lane: Lane, seconds: float) -> None:
        lane.faults["server stopped"] += 1
        lane.server.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        lane.server.signal(signal.SIGCONT)

    async def _restart_session(self, lane: Lane, _seconds: float) -> None:
        lane.faults["session restarted"] += 1
        await self._stage.call("DELETE", f"/session/{lane.session}")
        await self._expect_end(lane, "requested")

    async def _delete_output(self, lane: Lane, _seconds: float) -> None:
        if await self._stage.delete_channel(f"{lane.name}-processed"):
            lane.faults["output deleted"] += 1
            await self._expect_end(lane, "output_gone")

    async def _end_source(self, lane: Lane, seconds: float) -> None:
        lane.faults["source ended"] += 1
        await self._stage.end_source(lane.name)
        await self._expect_end(lane, "input_ended")
        await asyncio.sleep(seconds / 5)
        await self._stage.play(lane.name)

    async def _pause_source(self, lane: Lane, seconds: float) -> None:
        lane.faults["source stopped"] += 1
        self._stage.signal_source(lane.name, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._stage.signal_source(lane.name, signal.SIGCONT)

    async def _freeze_trickle(self, lane: Lane, seconds: float) -> None:
        """Of all lanes; of two that do this at once the first to end ends both."""
        lane.faults["trickle server stopped"] += 1
        self._stage.signal_trickle(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._stage.signal_trickle(signal.SIGCONT)

    async def _change_prompts(self, lane: Lane, _seconds: float) -> None:
        """It may be refused, while ComfyStream is away; it may not fail."""
        lane.faults["prompts changed"] += 1
        prompts: object = self._random.choice([INVERT, [], [*INVERT]])
        status, answer = await self._stage.call(
            "PATCH", f"/session/{lane.session}", json={"prompts": prompts}
        )
        if status not in (200, 202, 409, 502, 503, 504):
            lane.wrong.append(f"a change of prompts is answered {status} {answer}")
        if not prompts:
            await self._stage.call("PATCH", f"/session/{lane.session}", json={"prompts": INVERT})

    # -- what has to hold -----------------------------------------------------------------------

    async def _begin(self, lane: Lane) -> None:
        lane.session = await self._stage.start(lane.name, lane.server, **lane.request)

    async def _expect_end(self, lane: Lane, reason: str) -> None:
        """The session ends, for that reason; another takes its place."""

        async def ended() -> bool:
            return bool((await self._stage.status(lane.session))["ended_at"])

        # One that waits ends when what waits has been processed.
        waits = lane.request.get("on_overload") == "wait" and reason == "input_ended"
        with suppress(TimeoutError):
            await wait_until(ended, RECOVERY_S if waits else 10.0)
        status = await self._stage.status(lane.session)
        if status["end_reason"] != reason:
            lane.wrong.append(f"{status['status']} {status['end_reason']} instead of {reason}")
            if not status["ended_at"]:
                await self._stage.call("DELETE", f"/session/{lane.session}")
        lane.ends[str(status["end_reason"])] += 1
        await self._begin(lane)

    async def _look_after(self, lane: Lane) -> None:
        status = await self._stage.status(lane.session)
        if status["ended_at"]:
            lane.wrong.append(f"ended by itself: {status['end_reason']}, {status['error']}")
            await self._begin(lane)

    async def _is_well(self, lane: Lane) -> bool:
        status = await self._stage.status(lane.session)
        return bool(
            status["status"] == "active"
            and status["health"] == "ok"
            and status["processing"]["frames_processed"] > 20
        )


async def sample(samples: list[Holdings], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        samples.append(Holdings.now())
        print(f"{len(samples) - 1} of {SAMPLES}: {samples[-1]}", file=sys.stderr, flush=True)


async def run(options: argparse.Namespace) -> int:
    async with stage(
        options.sessions,
        quarantine_s=8.0,
        input_timeout_s=30.0,
        ingest=options.ingest,
        egress=options.egress,
    ) as found:
        soak = Soak(found, options.seed)
        await soak.start()
        await asyncio.gather(*(soak.recover(lane) for lane in soak.lanes))
        samples = [Holdings.now()]
        until = time.monotonic() + options.minutes * 60
        sampling = asyncio.create_task(sample(samples, options.minutes * 60 / SAMPLES))
        results = await asyncio.gather(
            *(soak.torment(lane, until) for lane in soak.lanes), return_exceptions=True
        )
        sampling.cancel()
        for lane, result in zip(soak.lanes, results, strict=True):
            if isinstance(result, BaseException):
                if not isinstance(result, Exception | aiohttp.ClientError):
                    raise result
                lane.wrong.append(f"the test itself failed: {result!r}")
        await asyncio.gather(*(soak.recover(lane) for lane in soak.lanes))
        samples.append(Holdings.now())
        for lane in soak.lanes:
            print_figures(
                f"{lane.name}, {options.minutes:g} minutes",
                [
                    ("faults", ", ".join(f"{v} x {k}" for k, v in lane.faults.items()) or "none"),
                    ("ends", ", ".join(f"{v} x {k}" for k, v in lane.ends.items()) or "none"),
                    ("wrong", "; ".join(lane.wrong) or "nothing"),
                ],
            )
        print_figures(
            "this process: before the first fault, on the way, after the last",
            [
                (name, ", ".join(str(getattr(sample, name)) for sample in samples))
                for name in (field.name for field in fields(Holdings))
            ],
        )
        return int(any(lane.wrong for lane in soak.lanes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    for side in ("ingest", "egress"):
        parser.add_argument(f"--{side}", default="transcode", help=f"RELAY_{side.upper()}")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    raise SystemExit(main())
