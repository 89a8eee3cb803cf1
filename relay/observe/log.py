"""Log lines: constant event names with keys, one format for every library, no secrets.

structlog and the standard library's logging (aiohttp, aiortc, aioice) end in one handler, so
every line has the same shape, the `session_id` and `request_id` of the context it was written
in, and went through the same redaction: values of keys that may hold prompts or credentials are
masked, and so are credentials in URLs, whichever key or traceback they stand in.

A thread of an executor has no context of its own: pass it one (`asyncio.to_thread` does,
`loop.run_in_executor` does not).
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError
from structlog.typing import EventDict, Processor, WrappedLogger

from relay.config.settings import LogFormat, LogLevel
from relay.redaction import MASK, mask_credentials

_SECRET_KEY = re.compile(
    r"prompt|workflow$|authorization|cookie|password|passwd|secret|credential|^headers$|^body$"
    r"|(^|_)token$|api_?key",
    re.IGNORECASE,
)
_DEEPEST = 6
"""Levels of nested values that a line shows."""

_QUIET = {
    # They log every candidate pair, check and packet: INFO of theirs is our DEBUG.
    "aioice": logging.WARNING,
    "aiortc": logging.WARNING,
    "libav": logging.ERROR,
    "asyncio": logging.WARNING,
    # The API writes its own line for each request, without query strings.
    "aiohttp.access": logging.WARNING,
}


def configure_logging(
    level: LogLevel = LogLevel.INFO,
    log_format: LogFormat = LogFormat.AUTO,
    stream: TextIO | None = None,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Route structlog and standard logging to one handler on `stream` (standard error).

    Replaces the handlers of the root logger, so that it can be called again.

    Args:
        keep: called with each line as well, redacted, in the thread that logs it.
    """
    stream = stream or sys.stderr
    console = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
        _order_keys,
    ]
    if keep is not None:
        shared.append(_told(keep))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level.value),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if console
        else structlog.processors.JSONRenderer(default=repr)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value)
    verbose = level is LogLevel.DEBUG
    for name, quiet_level in _QUIET.items():
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else quiet_level)
    server = logging.getLogger("aiohttp.server")
    if _demote_malformed_requests not in server.filters:
        server.addFilter(_demote_malformed_requests)
    logging.captureWarnings(True)


def _demote_malformed_requests(record: logging.LogRecord) -> bool:
    """Bytes that are not HTTP are a port scanner's doing: DEBUG, and not repeated in the log."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | RequestPayloadError):
        record.msg, record.args = "http.malformed_request", ()
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.exc_info = record.exc_text = None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Processor: masks secret keys, and credentials in every string, at any depth."""
    return {key: _redacted(key, value, 0) for key, value in event_dict.items()}


def _order_keys(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    first = ("timestamp", "level", "event", "session_id")
    return {key: event_dict[key] for key in first if key in event_dict} | dict(event_dict)


def _told(keep: Callable[[Mapping[str, Any]], None]) -> Processor:
    def tell(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        keep(event_dict)
        return event_dict

    return tell


def _redacted(key: str, value: Any, depth: int) -> Any:
    if key.startswith("_"):  # structlog's own
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if isinstance(value, bool | int | float | None):
        return value
    if _SECRET_KEY.search(key):
        return MASK
    if isinstance(value, str):
        return mask_credentials(value)
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {str(k): _redacted(str(k), inner, depth + 1) for k, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("item", inner, depth + 1) for inner in value]
    # Exceptions, URLs and the like are shown by their text.
    return mask_credentials(str(value))
