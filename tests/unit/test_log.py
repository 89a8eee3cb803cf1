"""Log lines: one shape for all libraries, context on every line, secrets in none."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage

from relay.config.settings import LogFormat, LogLevel
from relay.observe.log import configure_logging
from tests.logging_state import logging_restored

Lines = Callable[[], list[dict[str, Any]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    with logging_restored():
        yield


@pytest.fixture
def lines() -> Lines:
    """Logging as JSON lines; call it for those written so far."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.AUTO, stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_are_json_away_from_a_terminal(lines: Lines) -> None:
    """Time, level, event, logger and keys, one object a line."""
    structlog.get_logger("relay.session").info("session.state", old="starting", new="active")
    [line] = lines()
    assert line["event"] == "session.state"
    assert (line["old"], line["new"]) == ("starting", "active")
    assert (line["level"], line["logger"]) == ("info", "relay.session")
    assert line["timestamp"].endswith("Z")


def test_terminal_gets_readable_lines() -> None:
    """No JSON where a person reads."""
    stream = Terminal()
    configure_logging(LogLevel.INFO, LogFormat.AUTO, stream)
    structlog.get_logger("relay").info("relay.listening", port=8890)
    assert "relay.listening" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [(LogFormat.JSON, Terminal(), True), (LogFormat.CONSOLE, io.StringIO(), False)],
)
def test_format_can_be_chosen(log_format: LogFormat, stream: io.StringIO, is_json: bool) -> None:
    """A setting beats what the stream looks like; no colour codes reach a file."""
    configure_logging(LogLevel.INFO, log_format, stream)
    structlog.get_logger("relay").info("event")
    assert stream.getvalue().startswith("{") is is_json
    if not stream.isatty():
        assert "\x1b" not in stream.getvalue()


def test_other_libraries_log_in_the_same_shape(lines: Lines) -> None:
    """aiohttp's line has our keys and the context it was written in."""
    with structlog.contextvars.bound_contextvars(session_id="s1"):
        logging.getLogger("aiohttp.client").warning("slow %s", "http://user:hunter2@h/x")
    [line] = lines()
    assert line["event"] == "slow http://***@h/x"
    assert (line["level"], line["logger"]) == ("warning", "aiohttp.client")
    assert line["session_id"] == "s1"


def test_chatty_libraries_are_quiet_below_debug(lines: Lines) -> None:
    """aioice logs every candidate check at INFO; it is shown at DEBUG only."""
    logging.getLogger("aioice.ice").info("Check CandidatePair")
    assert lines() == []
    stream = io.StringIO()
    configure_logging(LogLevel.DEBUG, LogFormat.JSON, stream)
    logging.getLogger("aioice.ice").info("Check CandidatePair")
    assert "Check CandidatePair" in stream.getvalue()


def test_level_is_kept_by_both_kinds_of_logger() -> None:
    """WARNING hides INFO, whoever logs it."""
    stream = io.StringIO()
    configure_logging(LogLevel.WARNING, LogFormat.JSON, stream)
    structlog.get_logger("relay").info("hidden")
    logging.getLogger("aiohttp").info("hidden")
    structlog.get_logger("relay").warning("shown")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["shown"]


async def test_session_id_is_on_every_line_of_its_tasks(lines: Lines) -> None:
    """Two sessions at once never mix, not in tasks they start, nor in library code."""

    async def session(session_id: str) -> None:
        structlog.contextvars.bind_contextvars(session_id=session_id)
        await asyncio.gather(*(asyncio.create_task(stage(session_id)) for _ in range(2)))

    async def stage(session_id: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            structlog.get_logger("relay.stage").info("stage", expected=session_id)
            logging.getLogger("aiohttp").warning("%s", session_id)

    await asyncio.gather(asyncio.create_task(session("a")), asyncio.create_task(session("b")))
    assert len(lines()) == 24
    for line in lines():
        assert line["session_id"] == line.get("expected", line["event"])


@pytest.mark.parametrize(
    "fields",
    [
        {"prompts": ["hunter2"]},
        {"prompt": "hunter2"},
        {"workflow": {"1": "hunter2"}},
        {"request": {"headers": {"Authorization": "hunter2"}}},
        {"config": {"a": [{"authorization": "Bearer hunter2"}]}},
        {"api_token": "hunter2"},
        {"credential": "hunter2"},
        {"url": "http://user:hunter2@h/x?token=hunter2"},
        {"urls": ["http://h/x?sig=hunter2"]},
        {"error": OSError("http://user:hunter2@h")},
        {"nested": {"a": {"b": {"c": {"d": {"e": {"f": {"g": "hunter2"}}}}}}}},
    ],
)
def test_secrets_are_masked_wherever_they_stand(lines: Lines, fields: dict[str, Any]) -> None:
    """By key at any depth, and in any string that holds an address."""
    structlog.get_logger("relay").info("event", **fields)
    [line] = lines()
    assert "hunter2" not in json.dumps(line)


def test_tracebacks_are_masked(lines: Lines) -> None:
    """An exception's text often has the address it failed on."""
    try:
        raise OSError("can't reach http://user:hunter2@h/x?key=hunter2")
    except OSError:
        structlog.get_logger("relay").exception("failed")
        logging.getLogger("aiohttp").exception("failed too")
    assert len(lines()) == 2
    for line in lines():
        assert "can't reach http://***@h/x?key=***" in line["exception"]
        assert "hunter2" not in json.dumps(line)


def test_figures_are_not_secrets(lines: Lines) -> None:
    """Counts, None and booleans pass, also under names that resemble secret ones."""
    structlog.get_logger("relay").info("event", prompts_count=2, workflows=1, api_key=None)
    [line] = lines()
    assert (line["prompts_count"], line["workflows"], line["api_key"]) == (2, 1, None)


def test_odd_values_still_make_a_valid_line(lines: Lines) -> None:
    """NaN, objects and lone surrogates don't break the reader of the log."""
    structlog.get_logger("relay").info(
        "event", rate=float("nan"), thing=object(), text="\ud800\n", items={1, 2}
    )
    [line] = lines()
    assert line["rate"] == "nan"
    assert line["items"] == [1, 2]


def test_malformed_http_is_no_error_of_ours(lines: Lines) -> None:
    """A port scan leaves no tracebacks, and none of its bytes, in the log."""
    try:
        raise BadHttpMessage("hunter2")
    except BadHttpMessage:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "h")
    logging.getLogger("aiohttp.server").error("a real one")
    assert [line["event"] for line in lines()] == ["a real one"]
