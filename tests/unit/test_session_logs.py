"""The last log lines of each session: those and no others, bounded, redacted."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from relay.config.settings import LogFormat, LogLevel
from relay.observe.log import configure_logging
from relay.observe.session_logs import (
    LINES_KEPT,
    LINES_KEPT_OF_ENDED,
    LONGEST_VALUE,
    SessionLogs,
)
from tests.logging_state import logging_restored


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    with logging_restored():
        yield


@pytest.fixture
def logs() -> SessionLogs:
    """Told of every line from DEBUG on; knows the session `a`."""
    logs = SessionLogs()
    configure_logging(LogLevel.DEBUG, LogFormat.JSON, io.StringIO(), keep=logs.keep)
    logs.begin("a")
    return logs


def lines(logs: SessionLogs, session_id: str = "a") -> list[dict[str, Any]]:
    return logs.lines(session_id)[0]


def test_lines_of_the_session_and_no_others(logs: SessionLogs) -> None:
    """Of our loggers and of libraries, by the context they were written in."""
    structlog.get_logger("relay").info("of the relay")
    with structlog.contextvars.bound_contextvars(session_id="b"):
        structlog.get_logger("relay").info("of another")
    with structlog.contextvars.bound_contextvars(session_id="a"):
        structlog.get_logger("relay.x").info("mine", frames=3)
        logging.getLogger("aiohttp.client").warning("slow %s", "answer")
    first, second = lines(logs)
    assert (first["event"], first["frames"], first["level"]) == ("mine", 3, "info")
    assert (second["event"], second["logger"]) == ("slow answer", "aiohttp.client")
    assert logs.lines("b") == ([], 0)


def test_secrets_are_masked_as_in_the_log(logs: SessionLogs) -> None:
    """Prompts, credentials in addresses, those in tracebacks."""
    log = structlog.get_logger("relay").bind(session_id="a")
    try:
        raise OSError("http://user:hunter2@h/x")
    except OSError:
        log.exception("failed", prompts=["hunter2"], url="http://h/x?token=hunter2")
    [line] = lines(logs)
    assert "hunter2" not in repr(line)
    assert "http://***@h/x" in line["exception"]


def test_the_oldest_make_room(logs: SessionLogs) -> None:
    """And it is said how many there were; of a session that has ended fewer are kept."""
    log = structlog.get_logger("relay").bind(session_id="a")
    for number in range(LINES_KEPT + 7):
        log.info("line", number=number)
    kept, before = logs.lines("a")
    assert (len(kept), before, kept[0]["number"]) == (LINES_KEPT, 7, 7)
    logs.ended("a")
    kept, before = logs.lines("a")
    assert (len(kept), kept[-1]["number"]) == (LINES_KEPT_OF_ENDED, LINES_KEPT + 6)
    assert before == LINES_KEPT + 7 - LINES_KEPT_OF_ENDED
    logs.forget("a")
    log.info("too late")
    assert logs.lines("a") == ([], 0)


def test_long_values_are_cut_to_their_end(logs: SessionLogs) -> None:
    """Where a traceback says what happened."""
    structlog.get_logger("relay").bind(session_id="a").info("x", text="-" * 100_000 + "the end")
    [line] = lines(logs)
    assert line["text"].endswith("the end")
    assert len(line["text"]) < LONGEST_VALUE + 10


def test_odd_values_are_kept_as_text(logs: SessionLogs) -> None:
    """Whatever somebody logs, the ring can show it."""
    structlog.get_logger("relay").bind(session_id="a").info("x", what=object(), text="\ud800")
    assert lines(logs)[0]["event"] == "x"
