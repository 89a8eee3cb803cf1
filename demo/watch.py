"""Writes a channel's bytes to standard output, for a player.

python -m demo.watch http://127.0.0.1:3389/demo-processed | ffplay -i -
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import suppress

from relay.config.settings import LogLevel
from relay.errors import RelayError
from relay.observe.log import configure_logging
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions


async def watch(url: str) -> None:
    """Copy the channel until it ends or nobody reads any more."""
    options = SubscriberOptions(wait_for_channel_s=60)
    async with TrickleSubscriber(url, options=options) as subscriber:
        async for segment in subscriber:
            async for data in segment:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.watch", description="Write a trickle channel to standard output."
    )
    parser.add_argument("url")
    arguments = parser.parse_args()
    if sys.stdout.isatty():
        parser.error("standard output is a terminal; add `| ffplay -i -` or `> file.ts`")
    configure_logging(LogLevel.WARNING)
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(watch(arguments.url))
    except BrokenPipeError:
        # The player was closed. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except RelayError as error:
        print(f"{arguments.url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
