"""What the demo can be told, all of it in the environment, as `make demo` passes it on."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path


class DemoError(Exception):
    """The demo can't run, or failed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """The demo's settings."""

    trickle_port: int
    comfystream_port: int
    relay_port: int
    seconds: float | None = None
    """How long to run; None until Ctrl-C."""
    input_file: Path | None = None
    """What to play instead of the test pattern."""


_PORTS = {
    "DEMO_TRICKLE_PORT": (3389, "the trickle server"),
    "DEMO_COMFYSTREAM_PORT": (8889, "the ComfyStream stand-in"),
    "DEMO_RELAY_PORT": (8890, "the relay"),
}


def read_settings(environment: Mapping[str, str]) -> DemoSettings:
    """The settings from DEMO_TRICKLE_PORT, DEMO_COMFYSTREAM_PORT, DEMO_RELAY_PORT, DEMO_SECONDS
    and INPUT; an empty one counts as not set. Port 0 takes any free one.

    Raises:
        DemoError: one makes no sense, or a port is taken.
    """
    with ExitStack() as held:
        # Held until all are chosen, or port 0 might give the same one twice.
        trickle, comfystream, relay = (
            _port(name, environment.get(name) or str(default), purpose, held)
            for name, (default, purpose) in _PORTS.items()
        )
    input_file = environment.get("INPUT")
    return DemoSettings(
        trickle,
        comfystream,
        relay,
        seconds=_seconds(environment.get("DEMO_SECONDS")),
        input_file=Path(input_file) if input_file else None,
    )


def _port(name: str, text: str, purpose: str, held: ExitStack) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise DemoError(f"{name} must be a port, 0 to 65535, not {text!r}")
    listener = held.enter_context(socket.socket())
    # As servers do: an address that is only in TIME_WAIT is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", int(text)))
        listener.listen(1)
    except OSError as error:
        raise DemoError(
            f"port {text}, for {purpose}, {_reason(error)}; or choose another one, as in"
            f" {name}={(int(text) + 10_000) % 65536}"
        ) from None
    port: int = listener.getsockname()[1]
    return port


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is taken: end what listens there"
    return f"can't be used: {(error.strerror or str(error)).lower()}"


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise DemoError(f"DEMO_SECONDS must be a number of seconds above 0, not {text!r}")
    return seconds
