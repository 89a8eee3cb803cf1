"""The last log lines of each session, for those who can't reach the log itself.

A processor of the log (`relay.observe.log`): lines come here redacted, as they are written, from
whatever thread. Only sessions that are known are kept, each in a bounded ring.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

LINES_KEPT = 200
LINES_KEPT_OF_ENDED = 100
LONGEST_VALUE = 2000
"""Characters; a traceback is longer now and then, and its end says most."""


class SessionLogs:
    """Rings of log lines, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings: dict[str, deque[str]] = {}
        self._written: dict[str, int] = {}

    def begin(self, session_id: str) -> None:
        """Keep the lines of this session from now on."""
        with self._lock:
            self._rings[session_id] = deque(maxlen=LINES_KEPT)
            self._written[session_id] = 0

    def ended(self, session_id: str) -> None:
        """The session has ended: fewer of its lines are kept."""
        with self._lock:
            if session_id in self._rings:
                self._rings[session_id] = deque(self._rings[session_id], LINES_KEPT_OF_ENDED)

    def forget(self, session_id: str) -> None:
        """Nobody can ask for this session any more."""
        with self._lock:
            self._rings.pop(session_id, None)
            self._written.pop(session_id, None)

    def keep(self, line: Mapping[str, Any]) -> None:
        """A line of the log, redacted. Those of no session, or one not known, are passed over."""
        session_id = line.get("session_id")
        if session_id not in self._rings:
            return
        shown = {key: _short(value) for key, value in line.items() if not key.startswith("_")}
        text = json.dumps(shown, default=repr)
        with self._lock:
            if session_id in self._rings:
                self._rings[session_id].append(text)
                self._written[session_id] += 1

    def lines(self, session_id: str) -> tuple[list[dict[str, Any]], int]:
        """The lines that are kept, oldest first, and how many there were before."""
        with self._lock:
            texts = tuple(self._rings.get(session_id, ()))
            before = self._written.get(session_id, 0) - len(texts)
        return [json.loads(text) for text in texts], before


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return "..." + value[-LONGEST_VALUE:]
    return value
