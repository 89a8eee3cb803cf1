"""Run the ComfyStream stand-in: ``python -m demo.comfystream_standin --port 8889``.

Prints one JSON line, ``{"event": "listening", "url": ..., "pid": ...}``, when it listens; logs go
to standard error. SIGTERM and SIGINT end it. Every fault is an option; ``--help`` lists them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import typing
from collections.abc import Sequence

from pydantic import ValidationError

from demo.standin import ComfyStreamStandIn, Faults, StandInSettings


def parse_arguments(arguments: Sequence[str]) -> tuple[StandInSettings, Faults, str]:
    """Settings, faults and log level; exits with a message on what makes no sense."""
    defaults = StandInSettings()
    parser = argparse.ArgumentParser(
        prog="python -m demo.comfystream_standin",
        description="A stand-in for a ComfyStream server, with its queues and its faults.",
    )
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes any free one")
    parser.add_argument(
        "--consent-interval",
        type=float,
        default=defaults.consent_interval_s,
        metavar="SECONDS",
        help="between two checks whether a peer still answers",
    )
    parser.add_argument(
        "--consent-failures",
        type=int,
        default=defaults.consent_failures,
        metavar="COUNT",
        help="unanswered checks after which a peer is lost",
    )
    parser.add_argument(
        "--noop-timeout",
        type=float,
        default=defaults.noop_timeout_s,
        metavar="SECONDS",
        help="gap in media that ends what returns, without prompts",
    )
    parser.add_argument(
        "--audio-timeout",
        type=float,
        default=defaults.audio_timeout_s,
        metavar="SECONDS",
        help="gap in audio that ends returned audio, with prompts",
    )
    parser.add_argument(
        "--safe-reoffer-gap",
        type=float,
        default=defaults.safe_reoffer_gap_s,
        metavar="SECONDS",
        help="a prompt offer sooner after the last prompt peer may wedge",
    )
    parser.add_argument(
        "--start-up",
        type=float,
        default=defaults.start_up_s,
        metavar="SECONDS",
        help="before the port listens",
    )
    parser.add_argument("--monitor", action="store_true", help="serve /metrics")
    parser.add_argument("--log-level", default="WARNING", help="of standard error")
    faults = parser.add_argument_group("faults, also at run time by POST /standin/faults")
    for name, field in Faults.model_fields.items():
        option = "--" + name.replace("_", "-")
        if field.annotation is bool:
            faults.add_argument(
                option,
                action=argparse.BooleanOptionalAction,
                help=field.description,
                default=argparse.SUPPRESS,
            )
        else:
            choices = typing.get_args(field.annotation)
            named = choices if all(isinstance(choice, str) for choice in choices) else None
            faults.add_argument(
                option,
                help=field.description,
                default=argparse.SUPPRESS,
                choices=named or None,
                metavar=None if named else "VALUE",
            )
    options = parser.parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name in Faults.model_fields}
    try:
        chosen = Faults.model_validate(given)
    except ValidationError as error:
        wrong = error.errors()[0]
        parser.error(f"--{str(wrong['loc'][0]).replace('_', '-')}: {wrong['msg']}")
    settings = StandInSettings(
        host=options.host,
        port=options.port,
        consent_interval_s=options.consent_interval,
        consent_failures=options.consent_failures,
        noop_timeout_s=options.noop_timeout,
        audio_timeout_s=options.audio_timeout,
        safe_reoffer_gap_s=options.safe_reoffer_gap,
        start_up_s=options.start_up,
        monitor=options.monitor,
    )
    return settings, chosen, options.log_level


async def serve(settings: StandInSettings, faults: Faults) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with ComfyStreamStandIn(settings, faults) as standin:
        listening = {"event": "listening", "url": standin.url, "pid": os.getpid()}
        print(json.dumps(listening), flush=True)
        await stop.wait()


def main() -> int:
    """The command line."""
    settings, faults, log_level = parse_arguments(sys.argv[1:])
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(serve(settings, faults))
    except OSError as error:
        print(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
