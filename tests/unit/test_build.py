"""Which commit runs, as far as it can be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay import build

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"HEAD": COMMIT}, COMMIT),
        ({"HEAD": "ref: refs/heads/main", "refs/heads/main": COMMIT}, COMMIT),
        (
            {
                "HEAD": "ref: refs/heads/main",
                "packed-refs": f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n",
            },
            COMMIT,
        ),
        ({"HEAD": "ref: refs/heads/main"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_what_is_checked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], told: str
) -> None:
    """A branch, in a file of its own or packed; a commit by itself; or nothing to be found."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(build, "_REPOSITORY", tmp_path)
    monkeypatch.delenv("TRICKLE_RELAY_COMMIT", raising=False)
    build.commit.cache_clear()
    assert build.commit() == told
    build.commit.cache_clear()


def test_an_image_tells_what_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is checked out there."""
    monkeypatch.setenv("TRICKLE_RELAY_COMMIT", COMMIT)
    build.commit.cache_clear()
    assert build.commit() == COMMIT
    build.commit.cache_clear()
