"""What outlives the process: written whole, read back, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from relay.journal import FILE_NAME, Journal


def test_the_next_process_reads_what_this_one_wrote(tmp_path: Path) -> None:
    """Each section as it was last, in a directory that is made."""
    directory = tmp_path / "state" / "relay"
    journal = Journal(directory)
    journal.write("servers", {"a:1": {"phase": "offered"}})
    journal.write("servers", {"b:1": {"phase": "answered"}})
    journal.write("other", {"x": 1})
    again = Journal(directory)
    assert again.kept
    assert again.read("servers") == {"b:1": {"phase": "answered"}}
    assert again.read("other") == {"x": 1}
    assert again.read("unheard") == {}
    assert [path.name for path in directory.iterdir()] == [FILE_NAME]


def test_without_a_directory_nothing_is_kept() -> None:
    """It works within the process, and says that it keeps nothing."""
    journal = Journal(None)
    journal.write("servers", {"a": 1})
    assert journal.read("servers") == {"a": 1}
    assert not journal.kept


def test_a_directory_that_can_not_be_written_is_one_warning(tmp_path: Path) -> None:
    """Told at the start, and then it is off: nothing raises."""
    obstacle = tmp_path / "file"
    obstacle.write_text("")
    with structlog.testing.capture_logs() as logs:
        journal = Journal(obstacle / "state")
        journal.write("servers", {"a": 1})
        journal.write("servers", {"a": 2})
    assert not journal.kept
    assert journal.read("servers") == {"a": 2}
    assert [entry["event"] for entry in logs] == ["journal.off"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"7"])
def test_a_file_that_is_none_of_ours_is_left_behind(tmp_path: Path, content: bytes) -> None:
    """A warning, an empty start, and the next write replaces it."""
    (tmp_path / FILE_NAME).write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        journal = Journal(tmp_path)
    assert [entry["event"] for entry in logs] == ["journal.unreadable"]
    journal.write("servers", {"a": 1})
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"servers": {"a": 1}}


def test_an_unchanged_section_is_not_written_again(tmp_path: Path) -> None:
    """Saying the same twice costs no write."""
    journal = Journal(tmp_path)
    journal.write("servers", {"a": 1})
    (tmp_path / FILE_NAME).unlink()
    journal.write("servers", {"a": 1})
    assert not (tmp_path / FILE_NAME).exists()
