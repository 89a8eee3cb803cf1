"""The few facts that must outlive the process, in one small file.

A relay that was killed can't tell its successor what it left behind: which ComfyStream servers
still believe in a client that is gone. So it writes that down before it matters. The file is
replaced as a whole (write, rename), so a reader finds the old content or the new one, never half
of either. It is not synced to the disk: it has to survive this process, not the machine, whose
restart takes longer than anything that is remembered here.

The media of every session runs on the event loop that writes are asked for on: an entry is encoded
once, when it has changed, and the file is written by a thread. Changes that come while it is
written go into the next write together.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

FILE_NAME = "journal.json"
MAX_BYTES = 16 * 1024 * 1024
"""A larger file is not one of ours."""

Section = dict[str, Any]


class Journal:
    """Named sections of plain JSON values.

    It never raises for the disk's faults: a relay without its journal still relays. The first
    write that fails is a warning in the log, and ends writing.

    Args:
        directory: made if it is missing; None keeps no journal.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / FILE_NAME if directory is not None else None
        self._sections: dict[str, Section] = {}
        self._encoded: dict[str, dict[str, str]] = {}
        """Of each section, each entry with its name, as they stand in the file."""
        self._changed = False
        self._writing: asyncio.Task[None] | None = None
        self._too_large = False
        self._load()

    @property
    def kept(self) -> bool:
        """Whether anything is written."""
        return self._path is not None

    def read(self, section: str) -> Section:
        """What was written to it last, by this process or the one before; empty if nothing."""
        return dict(self._sections.get(section, {}))

    def write(self, section: str, content: Section) -> None:
        """Replace a section. It is on the disk shortly, at once where no event loop runs; see
        `written`.

        Args:
            content: JSON values, which are not changed any more.
        """
        if self._sections.get(section) == content:
            return
        self._take(section, content)
        if self._path is None:
            return
        self._changed = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._save_now()
        else:
            if self._writing is None:
                self._writing = loop.create_task(self._save(), name="journal")

    async def written(self) -> None:
        """Return when all that `write` was given so far is on the disk, as far as it can be. A
        cancel loses nothing."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def _take(self, section: str, content: Section) -> None:
        before, known = self._sections.get(section, {}), self._encoded.get(section, {})
        self._encoded[section] = {
            key: known[key]
            if key in known and before[key] == value
            else f"{json.dumps(key)}: {json.dumps(value)}"
            for key, value in content.items()
        }
        self._sections[section] = content

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._save_now()  # a directory that can't be written is told at the start
                return
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError("it is too large")
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object")
        except OSError as error:
            self._give_up(error)
        except (ValueError, RecursionError) as error:
            log.warning("journal.unreadable", path=str(self._path), problem=str(error)[:200])
        else:
            for name, section in content.items():
                if isinstance(section, dict):
                    self._take(name, section)

    async def _save(self) -> None:
        """Until what is on the disk is what there is."""
        try:
            while self._changed and self._path is not None:
                self._changed = False
                await asyncio.to_thread(_replace, self._path, self._content())
        except OSError as error:
            self._give_up(error)
        finally:
            self._writing = None

    def _save_now(self) -> None:
        assert self._path is not None
        self._changed = False
        try:
            _replace(self._path, self._content())
        except OSError as error:
            self._give_up(error)

    def _content(self) -> list[str]:
        """The file, in parts."""
        left_out = self._left_out()
        parts = ["{"]
        for name, entries in self._encoded.items():
            parts += ["" if len(parts) == 1 else ", ", json.dumps(name), ": {"]
            kept = [text for key, text in entries.items() if (name, key) not in left_out]
            parts += [", ".join(kept), "}"]
        return [*parts, "}"]

    def _left_out(self) -> set[tuple[str, str]]:
        """The largest entries, if all together are more than would be read again."""
        sizes = {
            (name, key): len(text) + 2
            for name, entries in self._encoded.items()
            for key, text in entries.items()
        }
        room = MAX_BYTES - 2 - sum(len(json.dumps(name)) + 6 for name in self._encoded)
        surplus = sum(sizes.values()) - room
        left_out: set[tuple[str, str]] = set()
        for entry in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if surplus <= 0:
                break
            surplus -= sizes[entry]
            left_out.add(entry)
        if left_out and not self._too_large:
            log.warning(
                "journal.too_large",
                path=str(self._path),
                left_out=len(left_out),
                consequence="after a crash the relay won't know of the largest entries",
            )
        self._too_large = bool(left_out)
        return left_out

    def _give_up(self, error: OSError) -> None:
        log.warning(
            "journal.off",
            path=str(self._path),
            problem=error.strerror or str(error),
            consequence="after a crash the relay won't know which servers it left uncleanly",
        )
        self._path = None


def _replace(path: Path, parts: Iterable[str]) -> None:
    """Write the file as a whole; runs on a thread.

    Raises:
        OSError: it can't be written.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "w", encoding="ascii", opener=_for_us_alone) as file:
        file.write("".join(parts))
    temporary.replace(path)


def _for_us_alone(path: str, flags: int) -> int:
    """Addresses of sessions are in it, with their credentials."""
    return os.open(path, flags, 0o600)
