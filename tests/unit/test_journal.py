"""What outlives the process: written whole, read back, and never in the way."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
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


async def test_the_event_loop_goes_on_while_the_disk_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes meanwhile is one more write, in order; who has to be sure waits for it."""
    disk, writes = threading.Event(), []

    def replace(path: Path, parts: list[str]) -> None:
        assert disk.wait(10)
        writes.append(json.loads("".join(parts)))

    journal = Journal(tmp_path)
    monkeypatch.setattr("relay.journal._replace", replace)
    for number in range(5):
        journal.write("servers", {"a": number})
        await asyncio.sleep(0)
    assert writes == []
    disk.set()
    await journal.written()
    assert writes == [{"servers": {"a": 0}}, {"servers": {"a": 4}}]
    await journal.written()
    assert len(writes) == 2


async def test_a_disk_that_fails_meanwhile_ends_the_writing(tmp_path: Path) -> None:
    """One warning, and nobody waits for what will not come."""
    journal = Journal(tmp_path / "state")
    shutil.rmtree(tmp_path / "state")
    with structlog.testing.capture_logs() as logs:
        journal.write("servers", {"a": 1})
        await journal.written()
        journal.write("servers", {"a": 2})
        await journal.written()
    assert [entry["event"] for entry in logs] == ["journal.off"]
    assert journal.read("servers") == {"a": 2}


def test_an_entry_is_encoded_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty workflows are not looked through because a forty-first came."""
    journal = Journal(tmp_path)
    entries = {f"s{number}": {"prompts": number} for number in range(40)}
    journal.write("sessions", entries)
    encoded: list[object] = []
    encode = json.dumps
    monkeypatch.setattr(json, "dumps", lambda value: encoded.append(value) or encode(value))
    journal.write("sessions", entries | {"s40": {"prompts": 40}})
    assert [value for value in encoded if isinstance(value, dict)] == [{"prompts": 40}]
    monkeypatch.undo()
    assert list(Journal(tmp_path).read("sessions").values())[-1] == {"prompts": 40}
    assert len(Journal(tmp_path).read("sessions")) == 41


def test_what_would_not_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest entries are left out, with one warning: the others still count."""
    monkeypatch.setattr("relay.journal.MAX_BYTES", 400)
    journal = Journal(tmp_path)
    sessions = {"a": "x" * 100, "large": "x" * 300, "b": "x" * 100}
    with structlog.testing.capture_logs() as logs:
        journal.write("sessions", sessions)
        journal.write("servers", {"gpu": {"phase": "offered"}})
    assert [entry["event"] for entry in logs] == ["journal.too_large"]
    assert (tmp_path / FILE_NAME).stat().st_size <= 400
    again = Journal(tmp_path)
    assert again.read("servers") == {"gpu": {"phase": "offered"}}
    assert list(again.read("sessions")) == ["a", "b"]
