"""Which commit runs."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

UNKNOWN = "unknown"
_REPOSITORY = Path(__file__).resolve().parents[1] / ".git"


@cache
def commit() -> str:
    """The commit the image was built from (`TRICKLE_RELAY_COMMIT`), or that is checked out here;
    ``unknown`` where neither can be told."""
    return os.environ.get("TRICKLE_RELAY_COMMIT") or _checked_out(_REPOSITORY) or UNKNOWN


def _checked_out(repository: Path) -> str | None:
    try:
        head = (repository / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (file := repository / reference).is_file():
            return file.read_text().strip()
        packed = (repository / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), None)
