"""Sessions on disk: written as they are, read as they were, struck off when they have ended."""

from __future__ import annotations

import json
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from relay.journal import FILE_NAME, Journal
from relay.session import journal as session_journal
from relay.session.journal import SessionJournal, config_from_plain, plain_config
from relay.session_config import (
    AudioCodec,
    AudioMode,
    Coding,
    FallbackMode,
    Fit,
    OnOverload,
    SessionConfig,
    StreamNames,
)
from tests.peers.waiting import until

PLAIN = SessionConfig("http://h/in", "http://h/out", "http://gpu:8889")
FULL = SessionConfig(
    "http://user:secret@h/in?token=x",
    "http://h/out",
    "http://gpu:8889",
    prompts=[{"1": {"class_type": "LoadTensor", "inputs": {}}}],
    width=640,
    height=360,
    fit=Fit.COVER,
    segment_seconds=2.0,
    fallback=FallbackMode.REPEAT,
    on_overload=OnOverload.WAIT,
    output_fps=25.0,
    max_fps=24.0,
    ingest=Coding.AUTO,
    egress=Coding.COPY,
    audio=AudioMode.PROCESS,
    audio_codec=AudioCodec.OPUS,
    sends_audio=True,
    paused=True,
    control_url="http://h/control",
    data_url="http://h/data",
    channels_given=True,
    pooled=True,
    events_url="http://h/events",
    names=StreamNames("r", "s", "m", "x"),
    params={"a": [1, None]},
    warnings=("one", "two"),
)


def test_the_example_has_no_defaults() -> None:
    """A field that is added to a session's configuration has to be added here."""
    same = {
        f.name for f in fields(SessionConfig) if getattr(PLAIN, f.name) == getattr(FULL, f.name)
    }
    assert same == {"output_stream_url", "comfystream_url"}


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_a_session_is_read_as_it_was_written(tmp_path: Path, config: SessionConfig) -> None:
    """By another process, from the file."""
    SessionJournal(Journal(tmp_path)).began("id", config)
    [left] = SessionJournal(Journal(tmp_path)).left_overs()
    assert left.session_id == "id"
    assert left.config == config
    assert {f.name: type(getattr(left.config, f.name)) for f in fields(config)} == {
        f.name: type(getattr(config, f.name)) for f in fields(config)
    }


def test_what_has_ended_is_struck_off(tmp_path: Path) -> None:
    """The others stay, in their order; ending twice is no fault."""
    journal = SessionJournal(Journal(tmp_path))
    for session_id in ("a", "b", "c"):
        journal.began(session_id, PLAIN)
    journal.ended("b")
    journal.ended("b")
    left = SessionJournal(Journal(tmp_path)).left_overs()
    assert [entry.session_id for entry in left] == ["a", "c"]


def test_credentials_in_it_are_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else on the machine may read the file."""
    SessionJournal(Journal(tmp_path)).began("id", FULL)
    path = tmp_path / FILE_NAME
    assert "secret" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "squeeze"},
        {"width": "wide"},
        {"prompts": None},
        {"names": {"other": 1}},
        {"new_field": 1},
        {"output_stream_url": 7},
        {"warnings": 3},
    ],
)
def test_an_entry_of_another_version_is_struck_off(tmp_path: Path, change: dict[str, Any]) -> None:
    """It can't be taken up; the others can."""
    content = {
        "sessions": {"odd": plain_config(FULL) | change, "good": plain_config(PLAIN), "no": 3}
    }
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    journal = SessionJournal(Journal(tmp_path))
    assert [left.session_id for left in journal.left_overs()] == ["good"]
    again = SessionJournal(Journal(tmp_path)).left_overs()
    assert [left.session_id for left in again] == ["good"]


def test_without_a_journal_nothing_is_kept() -> None:
    """A relay without RELAY_STATE_DIR remembers nothing, not even to itself."""
    journal = SessionJournal(Journal(None))
    journal.began("id", PLAIN)
    assert journal.left_overs() == []


def test_a_missing_field_is_no_configuration() -> None:
    """Older entries are not guessed at."""
    plain = plain_config(PLAIN)
    del plain["audio"]
    with pytest.raises(ValueError, match="other fields"):
        config_from_plain(plain)


async def test_a_change_is_what_the_next_process_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written once for many changes, and not for a session that has ended meanwhile."""
    monkeypatch.setattr(session_journal, "CHANGE_DELAY_S", 0.01)
    journal = SessionJournal(Journal(tmp_path))
    journal.began("id", PLAIN)
    journal.began("gone", PLAIN)
    for width in (64, 128, 256):
        journal.changed("id", replace(PLAIN, width=width))
    journal.changed("gone", FULL)
    journal.changed("never", FULL)
    journal.ended("gone")
    written = lambda: SessionJournal(Journal(tmp_path)).left_overs()  # noqa: E731
    await until(lambda: [left.config.width for left in written()] == [256])
    await journal.written()
    assert [left.session_id for left in written()] == ["id"]
