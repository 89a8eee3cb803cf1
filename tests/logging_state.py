"""Logging is the process's; tests that configure it put it back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_LOGGERS = ("aioice", "aiortc", "libav", "asyncio", "aiohttp.access", "aiohttp.server")


@contextmanager
def logging_restored() -> Iterator[None]:
    """Undoes `configure_logging` at the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, old_level in levels.items():
            logging.getLogger(name).setLevel(old_level)
            logging.getLogger(name).filters.clear()
        logging.captureWarnings(False)
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
