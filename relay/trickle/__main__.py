"""``python -m relay.trickle``: publish, record, serve."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import ssl
import sys
from collections.abc import Coroutine
from typing import Any

import structlog

from relay.errors import RelayError
from relay.trickle import server
from relay.trickle.http_client import ConnectionOptions
from relay.trickle.protocol import StartPosition
from relay.trickle.tools import PublishRequest, RecordRequest, publish, record

TOKEN_VARIABLE = "TRICKLE_TOKEN"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of the tools; argparse ends the process for --help and mistakes."""
    parser = argparse.ArgumentParser(
        prog="python -m relay.trickle", description="Send, record and serve trickle channels."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    publishing = commands.add_parser("publish", help="send a file or a pipe to a channel")
    publishing.add_argument("source", help="an MPEG-TS file, or - for standard input")
    publishing.add_argument("url", help="of the channel")
    publishing.add_argument("--content-type", help="of its segments (video/MP2T)")
    publishing.add_argument(
        "--segment-seconds", type=float, default=1.0, help="least length (%(default)s)"
    )
    publishing.add_argument("--loop", action="store_true", help="play the file again and again")
    publishing.add_argument(
        "--fast", action="store_true", help="as fast as the server takes it, not in real time"
    )
    publishing.add_argument(
        "--lines", action="store_true", help="each line is a segment (application/json)"
    )
    publishing.add_argument(
        "--keep-channel", action="store_true", help="leave the channel open at the end"
    )
    _add_connection_arguments(publishing)

    recording = commands.add_parser("record", help="write a channel to a file or a player")
    recording.add_argument("url", help="of the channel")
    recording.add_argument("target", help="a file, - for standard output, a directory with --split")
    recording.add_argument(
        "--start", default="current", help="current, next or a segment number (%(default)s)"
    )
    recording.add_argument("--split", action="store_true", help="a file for each segment")
    recording.add_argument("--duration", type=float, metavar="SECONDS", help="stop after this")
    recording.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for a channel to come up"
    )
    _add_connection_arguments(recording)

    commands.add_parser(
        "serve", add_help=False, help="run a trickle server; see 'serve --help' for its options"
    )
    return parser.parse_args(arguments)


def _add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--insecure", action="store_true", help="don't verify TLS certificates")
    parser.add_argument("--ca-file", help="authorities to trust instead of the system's, PEM")
    parser.epilog = f"A bearer token is taken from the variable {TOKEN_VARIABLE}."


def _connection(settings: argparse.Namespace) -> ConnectionOptions:
    tls: ssl.SSLContext | bool = not settings.insecure
    if settings.ca_file:
        try:
            tls = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise RelayError(f"can't use {settings.ca_file}: {error}", code="bad_ca") from error
    return ConnectionOptions(tls=tls, token=os.environ.get(TOKEN_VARIABLE))


def _start(text: str) -> StartPosition | int:
    if text.isdecimal():
        return int(text)
    try:
        return StartPosition(text)
    except ValueError:
        raise RelayError(
            f"--start {text}: give current, next or a segment number", code="bad_start"
        ) from None


def _job(settings: argparse.Namespace) -> Coroutine[Any, Any, str]:
    if settings.command == "publish":
        default_type = "application/json" if settings.lines else "video/MP2T"
        return publish(
            PublishRequest(
                source=settings.source,
                url=settings.url,
                content_type=settings.content_type or default_type,
                segment_s=settings.segment_seconds,
                loop=settings.loop,
                paced=not settings.fast,
                lines=settings.lines,
                keep_channel=settings.keep_channel,
                connection=_connection(settings),
            )
        )
    return record(
        RecordRequest(
            url=settings.url,
            target=settings.target,
            start=_start(settings.start),
            split=settings.split,
            duration_s=settings.duration,
            wait_s=settings.wait,
            connection=_connection(settings),
        )
    )


async def _until_terminated(job: Coroutine[Any, Any, str]) -> None:
    """Run `job`; SIGTERM ends it as Ctrl-C does, so that channels are closed."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await job


def main(arguments: list[str] | None = None) -> int:
    """Run one tool; returns the exit status: 0, 1 after an error, 130 after Ctrl-C and 143 after
    SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["serve"]:
        return server.main(arguments[1:])
    settings = parse_arguments(arguments)
    # Standard output may be a recording: warnings go to standard error.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        asyncio.run(_until_terminated(_job(settings)))
    except RelayError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    except asyncio.CancelledError:
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main())
