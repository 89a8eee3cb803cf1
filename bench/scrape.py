"""What looking at the relay costs: a scrape of /metrics, and the status that goes with the events.

    python -m bench.scrape --sessions 50

The sessions are real ones whose peers are not there, with the meters filled as after ten minutes of
30 frames a second; what is asked is what a scrape and a listener ask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import structlog

from relay.config.settings import Settings
from relay.observe.metrics import expose
from relay.session.manager import SessionManager
from relay.session.session import Session
from relay.session_config import SessionConfig

NOWHERE = "http://127.0.0.1:9"


def fill(session: Session) -> None:
    """Meters as they are in the middle of a stream."""
    pipeline: Any = session._pipeline
    for number in range(300):
        pipeline._ingest.decoded.tick()
        pipeline._ingest.pace.note(number * 3000)
        pipeline._publish.frames.tick()
        pipeline._publish.delay.add(random.uniform(0.02, 0.1))
        pipeline._egress.encoding.add(random.uniform(0.002, 0.01))
        pipeline._ingest.decoding.add(random.uniform(0.002, 0.01))
    pipeline._decoded.dropped.update(not_connected=12, server_busy=345)


def timed(call: Callable[[], Any], rounds: int) -> float:
    """CPU milliseconds of a call, the median: what others do on the machine does not count."""
    taken = []
    for _ in range(rounds):
        began_at = time.thread_time()
        call()
        taken.append((time.thread_time() - began_at) * 1000)
    return round(statistics.median(taken), 3)


async def measure(count: int, rounds: int) -> dict[str, Any]:
    """The figures, with that many sessions."""
    manager = SessionManager(Settings(input_timeout_s=600))
    await manager.start()
    try:
        sessions = [
            await manager.start_session(
                SessionConfig(f"{NOWHERE}/in{number}", f"{NOWHERE}/out{number}", NOWHERE)
            )
            for number in range(count)
        ]
        for session in sessions:
            fill(session)
        tallies = await manager.tallies()
        text, _ = expose(tallies, "", per_session=False)
        labelled, _ = expose(tallies, "", per_session=True)
        return {
            "sessions": count,
            "scrape_longest_step_on_the_event_loop_ms": timed(sessions[0].tally, rounds),
            "scrape_in_a_thread_ms": timed(lambda: expose(tallies, "", per_session=False), rounds),
            "scrape_bytes": len(text),
            "per_session_in_a_thread_ms": timed(
                lambda: expose(tallies, "", per_session=True), rounds
            ),
            "per_session_bytes": len(labelled),
            "look_at_one_session_ms": timed(sessions[0].look, rounds),
            "status_of_one_session_ms": timed(sessions[0].status, rounds),
            "status_event_of_all_as_json_ms": timed(
                lambda: json.dumps([session.overview() for session in sessions]), rounds
            ),
            "status_event_bytes": len(json.dumps([session.overview() for session in sessions])),
        }
    finally:
        await manager.aclose(timeout_s=2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="What looking at the relay costs.")
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for count in sorted({1, options.sessions}):
        print(json.dumps(asyncio.run(measure(count, options.rounds)), indent=1))


if __name__ == "__main__":
    main()
