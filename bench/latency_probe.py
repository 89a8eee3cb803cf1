"""The benchmark's one subscriber: reads input and output channel and times every frame.

Prints JSON lines: ``ready`` when it listens, ``first_output`` when the first processed frame is
complete, ``measuring`` when the warm-up is over, ``measured`` after the time asked for, and
``result`` when the pictures are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from demo.frame_tally import TallySummary
from demo.output_probe import OutputProbe
from relay.config.settings import LogLevel
from relay.observe.log import configure_logging
from relay.tasks import cancel_and_wait

PERCENTILES = (50, 95, 99, 100)


async def probe(arguments: argparse.Namespace) -> None:
    """Measure for the time that was asked for."""
    channels = OutputProbe(
        arguments.input_url,
        arguments.output_url,
        read_pictures=arguments.read_pictures,
        pictures_last=True,
        warm_up_s=arguments.warm_up,
    )
    probing = asyncio.create_task(channels.run())
    first_output = asyncio.create_task(channels.first_output.wait())
    say("ready")
    try:
        await asyncio.wait({probing, first_output}, return_when=asyncio.FIRST_COMPLETED)
        if probing.done():
            await probing
            raise SystemExit("a channel ended before a processed frame came")
        say("first_output", at=time.monotonic())
        await asyncio.sleep(arguments.warm_up)
        say("measuring")
        await asyncio.wait({probing}, timeout=arguments.seconds)
        complete = not probing.done()
        say("measured")
        channels.stop()
        await probing
        video, audio = channels.tally.summary(), channels.audio.summary()
        say(
            "result",
            video=_figures(video),
            audio=_figures(audio),
            damaged=channels.output.damaged,
            complete=complete,
        )
    finally:
        await cancel_and_wait([probing, first_output])


def _figures(summary: TallySummary) -> dict[str, Any]:
    counts = {name: getattr(summary, name) for name in TallySummary.__slots__ if name != "delays_s"}
    return counts | {"delay_ms": {f"p{p}": summary.delay_ms(p) for p in PERCENTILES}}


def say(event: str, **fields: object) -> None:
    """One JSON line."""
    print(json.dumps({"event": event, **fields}), flush=True)


def main() -> None:
    """The command line; `bench.latency` uses it."""
    parser = argparse.ArgumentParser(description="Time every frame between two channels.")
    parser.add_argument("input_url")
    parser.add_argument("output_url")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=2.0)
    parser.add_argument("--no-pictures", dest="read_pictures", action="store_false")
    configure_logging(LogLevel.WARNING)
    asyncio.run(probe(parser.parse_args()))


if __name__ == "__main__":
    main()
