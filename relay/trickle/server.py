"""A trickle server: small, strict, embeddable.

    async with TrickleServer(port=0) as server:
        ...  # server.url

or ``python -m relay.trickle.server --port 3389``. It holds everything in memory and serves
whoever needs trickle channels of their own: tests, demos, one machine's cameras.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType

import structlog
from aiohttp import web

from relay.tasks import cancel_and_wait
from relay.trickle.channel import Channel
from relay.trickle.channel_registry import ChannelRegistry, sweep_regularly
from relay.trickle.server_handlers import TrickleHandlers
from relay.trickle.server_options import ServerOptions, ServerStats

log = structlog.get_logger(__name__)

_LINGER_S = 2.0
"""How long a refused publisher's bytes are read and thrown away, so that it sees the reply:
closing at once would make its system discard the reply together with the connection."""


class TrickleServer:
    """Serves trickle channels; ``async with`` it, or `start` and `aclose`.

    Args:
        host: address to listen on.
        port: 0 takes a free one; see `port` and `url` afterwards.
        options: policies and limits.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, options: ServerOptions | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.options = options or ServerOptions()
        self.registry = ChannelRegistry(self.options, time.monotonic)
        self._handlers = TrickleHandlers(self.registry, self.options)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where channels live, with a trailing slash; append a name."""
        scheme = "https" if self.options.tls else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        base = self.options.base_path.strip("/")
        return f"{scheme}://{host}:{self.port}/{base + '/' if base else ''}"

    @property
    def stats(self) -> ServerStats:
        registry, counts = self.registry, self.registry.counts
        return ServerStats(
            channels=len(registry),
            readers=registry.readers_total,
            bytes_held=registry.bytes_held,
            segments=counts["segments"],
            truncated_segments=counts["truncated_segments"],
            bytes_in=counts["bytes_in"],
            bytes_out=counts["bytes_out"],
            readers_dropped=counts["readers_dropped"],
            channels_swept=counts["channels_swept"],
            requests_refused=counts["requests_refused"],
        )

    def create_channel(self, name: str, content_type: str = "video/MP2T") -> Channel:
        """Make a channel from inside, whatever `autocreate` says; hooks are not asked."""
        return self.registry.create(name, content_type)

    def delete_channel(self, name: str) -> bool:
        """Close a channel from inside; False if there is none."""
        return self.registry.delete(name, "deleted by its server")

    def application(self) -> web.Application:
        """An aiohttp application, to be served or mounted by the caller.

        Serve it with ``handler_cancellation=True``, or a reader that vanishes while it waits is
        noticed only when its segment begins. The application starts and stops the sweep.
        """
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handlers.handle)
        application.cleanup_ctx.append(self._run_sweeper)
        application.on_shutdown.append(self._close_channels)
        return application

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address can't be listened on.
        """
        self._runner = web.AppRunner(
            self.application(),
            handler_cancellation=True,
            access_log=None,  # paths hold channel names, which are secrets
            shutdown_timeout=self.options.shutdown_timeout_s,
            lingering_time=_LINGER_S,
            keepalive_timeout=600.0,
        )
        await self._runner.setup()
        try:
            site = web.TCPSite(
                self._runner, self.host, self.port, ssl_context=self.options.tls, backlog=1024
            )
            await site.start()
        except BaseException:
            await self.aclose()
            raise
        self.port = self._runner.addresses[0][1]
        log.info("trickle.server.started", url=self.url)

    async def aclose(self) -> None:
        """Close every channel, answer who waits, and stop listening. Idempotent."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
            log.info("trickle.server.stopped")

    async def __aenter__(self) -> TrickleServer:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _run_sweeper(self, _: web.Application) -> AsyncIterator[None]:
        self.registry.open()
        sweeper = asyncio.create_task(
            sweep_regularly(self.registry, self.options), name="trickle sweep"
        )
        yield
        await cancel_and_wait([sweeper])

    async def _close_channels(self, _: web.Application) -> None:
        self.registry.close_all("the server stops")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line of the server; argparse ends the process for --help and mistakes."""
    parser = argparse.ArgumentParser(
        prog="python -m relay.trickle.server",
        description="A trickle server that keeps live channels in memory.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=3389, help="port to listen on (%(default)s)")
    parser.add_argument("--base-path", default="/", help="where channels live (%(default)s)")
    parser.add_argument(
        "--no-autocreate", action="store_true", help="refuse channels that do not exist"
    )
    parser.add_argument(
        "--changefeed", action="store_true", help="announce channels on the channel _changes"
    )
    parser.add_argument("--window", type=int, default=5, help="segments kept (%(default)s)")
    parser.add_argument(
        "--idle-timeout", type=float, default=300.0, help="seconds until idle ones go (%(default)s)"
    )
    parser.add_argument("--token-file", help="file with the bearer token that clients must send")
    parser.add_argument("--tls-cert", help="certificate chain, PEM")
    parser.add_argument("--tls-key", help="its private key, PEM, if not in the same file")
    return parser.parse_args(arguments)


def _options(settings: argparse.Namespace) -> ServerOptions:
    tls = token = None
    if settings.token_file:
        token = Path(settings.token_file).read_text("utf-8").strip()
    if settings.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(settings.tls_cert, settings.tls_key)
    return ServerOptions(
        base_path=settings.base_path,
        autocreate=not settings.no_autocreate,
        changefeed=settings.changefeed,
        window_segments=settings.window,
        idle_timeout_s=settings.idle_timeout,
        token=token,
        tls=tls,
    )


async def _serve(settings: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with TrickleServer(settings.host, settings.port, options=_options(settings)):
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    settings = parse_arguments(arguments)
    try:
        asyncio.run(_serve(settings))
    except OSError as error:
        sys.stderr.write(f"the trickle server can't start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
