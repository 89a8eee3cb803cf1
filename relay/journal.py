"""The few facts that must outlive the process, in one small file.

A relay that was killed can't tell its successor what it left behind: which ComfyStream servers
still believe in a client that is gone. So it writes that down before it matters. The file is
replaced as a whole (write, rename), so a reader finds the old content or the new one, never half
of either. It is not synced to the disk: it has to survive this process, not the machine, whose
restart takes longer than anything that is remembered here.
"""

from __future__ import annotations

import json
import os
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
        self._load()

    @property
    def kept(self) -> bool:
        """Whether anything is written."""
        return self._path is not None

    def read(self, section: str) -> Section:
        """What was written to it last, by this process or the one before; empty if nothing."""
        return dict(self._sections.get(section, {}))

    def write(self, section: str, content: Section) -> None:
        """Replace a section; on the disk before this returns, if there is a journal.

        Args:
            content: JSON values.
        """
        if self._sections.get(section) == content:
            return
        self._sections[section] = content
        self._save()

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._save()  # a directory that can't be written is told at the start
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
            self._sections = {k: v for k, v in content.items() if isinstance(v, dict)}

    def _save(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8", opener=_for_us_alone) as file:
                json.dump(self._sections, file)
            temporary.replace(self._path)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning(
            "journal.off",
            path=str(self._path),
            problem=error.strerror or str(error),
            consequence="after a crash the relay won't know which servers it left uncleanly",
        )
        self._path = None


def _for_us_alone(path: str, flags: int) -> int:
    """Addresses of sessions are in it, with their credentials."""
    return os.open(path, flags, 0o600)
