"""Trickle Relay: the command line, and nothing that a module below could do.

Exit codes: 0 after an orderly end, 1 when it could not serve, 2 for settings that can't be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence

import structlog
from aiohttp import web

from relay import __version__
from relay.api.app import build_app, drain, make_runner
from relay.api.metrics_routes import metrics_app
from relay.api.openapi import openapi
from relay.comfystream.workflows import TextWorkflowError
from relay.config.settings import EventLoop, LogLevel, Settings
from relay.config.show import print_lines
from relay.config.sources import LoadedSettings, SettingsError, load_settings
from relay.config.warnings import security_warnings
from relay.observe.log import configure_logging
from relay.observe.session_logs import SessionLogs
from relay.session.manager import SessionManager

log = structlog.get_logger("relay")

FORCED_EXIT_AFTER_S = 1.0
"""Past the time to stop: a thread that no one can interrupt does not keep the process."""


def create_app(settings: Settings, logs: SessionLogs | None = None) -> web.Application:
    """The service as an application, for a server of your own or a test.

    Args:
        logs: what `configure_logging` tells of each line, for `GET /session/{id}/logs`.

    Raises:
        TextWorkflowError: the operator's text workflow can't be used.
    """
    return build_app(settings, SessionManager(settings, logs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["check"]:
        return _check(_check_parser().parse_args(given[1:]))
    options = _parser().parse_args(given)
    flags = {"host": options.host, "port": options.port, "log_level": options.log_level}
    flags |= {"warm_pipeline": options.warm_pipeline or None}
    try:
        loaded = load_settings(flags)
        if options.print_config:
            print(*print_lines(loaded), *_noted(loaded), sep="\n")
            return 0
        logs = SessionLogs()
        configure_logging(loaded.settings.log_level, loaded.settings.log_format, keep=logs.keep)
        app = create_app(loaded.settings, logs)
        if options.print_openapi:
            print(json.dumps(openapi(app), indent=1, sort_keys=True))
            return 0
        new_loop = _loop_factory(loaded.settings)
    except SettingsError as error:
        return _refuse(2, *error.faults)
    except TextWorkflowError as error:
        return _refuse(2, f"RELAY_TEXT_WORKFLOW: {error.message}")
    for warning in loaded.warnings:
        log.warning("config.unknown_variable", problem=warning)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(app, loaded.settings))


def _check(options: argparse.Namespace) -> int:
    """Look whether the relay could serve; 1 if something would keep it from that."""
    from relay.check.preflight import (  # a relay that serves needs none of it
        Finding,
        Level,
        preflight,
    )

    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not options.json:
            print(finding, flush=True)

    async def look(loaded: LoadedSettings) -> None:
        found = preflight(loaded, options.comfystream_url, options.trickle_url)
        async with contextlib.aclosing(found):
            async for finding in found:
                tell(finding)

    try:
        loaded = load_settings({"host": options.host, "port": options.port})
        configure_logging(LogLevel.CRITICAL, loaded.settings.log_format)
        with asyncio.Runner(loop_factory=_loop_factory(loaded.settings)) as runner:
            runner.run(look(loaded))
    except SettingsError as error:
        for fault in error.faults:
            tell(Finding(Level.FAIL, fault))
    failed = any(finding.level is Level.FAIL for finding in findings)
    if options.json:
        print(json.dumps({"success": not failed, "findings": [f.to_dict() for f in findings]}))
    return int(failed)


def _spare_the_collector() -> None:
    """Take what was imported out of garbage collection: it stays until the end, and to look through
    it stops every session for 60 ms at each full collection (measured)."""
    gc.collect()
    gc.freeze()


async def _serve(app: web.Application, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = _Stop(settings)
    _spare_the_collector()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.on_signal, number)
    runner = make_runner(app)
    metrics_runner = make_runner(metrics_app(app))
    port = settings.port
    try:
        await runner.setup()
        await web.TCPSite(runner, settings.host, settings.port).start()
        if port := settings.metrics_port:
            await metrics_runner.setup()
            await web.TCPSite(metrics_runner, settings.host, port).start()
            log.info("relay.metrics_listening", host=settings.host, port=port)
    except (OSError, UnicodeError) as error:
        await metrics_runner.cleanup()
        await runner.cleanup()
        return _refuse(1, _why_not_listening(settings, port or settings.port, error))
    for address in runner.addresses:
        log.info(
            "relay.listening",
            host=address[0],
            port=address[1],
            version=__version__,
            comfystream_url=settings.comfystream_url,
        )
    for warning in security_warnings(settings):
        log.warning("config.insecure", problem=warning)
    await stop.asked.wait()
    await drain(app, stop.hurry)
    await metrics_runner.cleanup()
    await runner.cleanup()
    log.info("relay.stopped")
    return 0


class _Stop:
    """What signals ask for: drain, then hurry, then exit at once."""

    def __init__(self, settings: Settings) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self._settings = settings

    def on_signal(self, number: signal.Signals) -> None:
        if self.hurry.is_set():
            log.warning("relay.exit_at_once", signal=number.name)
            _exit_at_once(128 + number)
        drain_timeout_s = self._settings.drain_timeout_s
        if self.asked.is_set() or not drain_timeout_s:
            self.hurry.set()
            self._exit_after(0.0)
        if not self.asked.is_set():
            log.info(
                "relay.draining",
                signal=number.name,
                drain_timeout_s=drain_timeout_s,
                stop_timeout_s=self._settings.stop_timeout_s,
            )
            self._exit_after(drain_timeout_s)
            self.asked.set()

    def _exit_after(self, drain_timeout_s: float) -> None:
        limit_s = drain_timeout_s + self._settings.stop_timeout_s + FORCED_EXIT_AFTER_S
        watchdog = threading.Timer(limit_s, _exit_at_once, [1])
        watchdog.daemon = True
        watchdog.name = "drain-watchdog"
        watchdog.start()


def _exit_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if settings.event_loop is EventLoop.ASYNCIO:
        return None
    try:
        import uvloop
    except ImportError:
        if settings.event_loop is EventLoop.AUTO:
            return None
        raise SettingsError(
            ["RELAY_EVENT_LOOP is uvloop, which is not installed; install it or use asyncio"]
        ) from None
    return uvloop.new_event_loop


def _why_not_listening(settings: Settings, port: int, error: OSError | UnicodeError) -> str:
    where = f"can't listen on {settings.host} port {port}"
    how = "--port or RELAY_PORT" if port == settings.port else "RELAY_METRICS_PORT"
    if isinstance(error, UnicodeError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{where}: that host is not an address of this machine; --host 0.0.0.0 listens on"
            " all, 127.0.0.1 on this machine only"
        )
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is taken, perhaps by another relay; choose another with {how}"
    if error.errno == errno.EACCES:
        return f"{where}: ports below 1024 need privileges; choose a higher one with --port"
    return f"{where}: {error.strerror or error}"


def _noted(loaded: LoadedSettings) -> list[str]:
    return [f"# {warning}" for warning in loaded.warnings]


def _refuse(code: int, *faults: str) -> int:
    for fault in faults:
        print(f"trickle-relay: {fault}", file=sys.stderr)
    return code


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trickle_relay_service.py check",
        description="Looks whether the relay could serve with its settings: a line for each thing"
        " tried, with the remedy for what is wrong. Exit code: 0 if nothing failed, else 1.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on")
    parser.add_argument(
        "--comfystream-url",
        action="append",
        default=[],
        metavar="URL",
        help="ComfyStream server to try, may be given several times; those of the settings if none",
    )
    parser.add_argument(
        "--trickle-url", metavar="URL", help="trickle server to try: a channel is made and deleted"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trickle_relay_service.py",
        description="Relays live trickle streams through a ComfyStream server and back."
        " 'trickle_relay_service.py check' looks beforehand whether it could.",
        epilog="Every setting is also a RELAY_* environment variable, or a line in .env;"
        " --print-config lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", help="address to listen on (0.0.0.0)")
    parser.add_argument("--port", help="port to listen on (8890)")
    parser.add_argument("--log-level", help="DEBUG, INFO, WARNING, ERROR or CRITICAL (INFO)")
    parser.add_argument(
        "--warm-pipeline",
        action="store_true",
        help="let the ComfyStream servers load their models before the first session",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="show every setting and its origin, and exit"
    )
    parser.add_argument(
        "--print-openapi", action="store_true", help="show the API as OpenAPI 3.1, and exit"
    )
    parser.add_argument("--version", action="version", version=f"trickle-relay {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
