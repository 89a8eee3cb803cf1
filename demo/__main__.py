"""The one-command demo: `make demo`, or ``python -m demo``.

Environment: DEMO_SECONDS ends it by itself, INPUT plays a file instead of the test pattern,
DEMO_TRICKLE_PORT, DEMO_COMFYSTREAM_PORT and DEMO_RELAY_PORT choose other ports, RELAY_* go to
the relay. Exit codes: 0 if processed frames came out, 1 if not, 130 if it was stopped before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from demo.runner import Demo, Interrupted
from demo.settings import DemoError, DemoSettings, read_settings
from relay.config.settings import LogLevel
from relay.observe.log import configure_logging


async def _run(settings: DemoSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    await Demo(settings, stop).run()


def main() -> int:
    """The command line."""
    configure_logging(LogLevel.WARNING)
    try:
        asyncio.run(_run(read_settings(os.environ)))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except Interrupted:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
