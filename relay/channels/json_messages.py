"""JSON messages out of the bytes of a segment, as soon as each is complete.

Control channels carry one JSON object a segment, and some carry JSON lines; both are read here,
also when an object is written over several lines. What is no JSON is told apart, never raised:
a peer's bad line must not cost the good ones after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay.strict_json import parse_json

MOST_MESSAGE_BYTES = 16 << 20
"""A gateway sends up to 10 MB (pictures in base64)."""


@dataclass(frozen=True, slots=True)
class BadMessage:
    """Bytes that are no JSON message."""

    problem: str
    """In words that follow "a control message"; the bytes are not repeated."""


class JsonMessages:
    """Reads one segment: `feed` its chunks, then `end` it.

    A line that is a JSON value is a message at once. From a line that begins a value and does not
    end it, everything up to the end of the segment is taken for one value; if it is none, for
    lines after all. No byte is read more than three times, whatever comes.

    Args:
        limit: of the bytes of one message; the rest of a segment with a longer one is skipped.
    """

    def __init__(self, limit: int = MOST_MESSAGE_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()
        self._searched = 0
        self._over_several_lines = False
        self._too_long = False

    def feed(self, chunk: bytes) -> list[Any]:
        """The values that `chunk` completes; a `BadMessage` in the place of what is none."""
        if self._too_long:
            return []
        self._held += chunk
        messages: list[Any] = []
        while not self._over_several_lines and (end := self._held.find(b"\n", self._searched)) >= 0:
            line = bytes(self._held[:end])
            if _goes_on(line):
                self._over_several_lines = True
                break
            del self._held[: end + 1]
            self._searched = 0
            messages += _values(line)
        self._searched = len(self._held)
        if len(self._held) > self._limit:
            self._held.clear()
            self._too_long = True
            messages.append(BadMessage(f"is longer than {self._limit} bytes"))
        return messages

    def end(self) -> list[Any]:
        """What is left when the segment has ended."""
        held, self._held = bytes(self._held), bytearray()
        whole = _values(held)
        if not self._over_several_lines or not _is_bad(whole):
            return whole
        by_line = [value for line in held.split(b"\n") for value in _values(line)]
        return whole if all(_is_bad([value]) for value in by_line) else by_line


def _goes_on(line: bytes) -> bool:
    line = line.strip()
    return line.startswith((b"{", b"[")) and not line.endswith((b"}", b"]"))


def _values(text: bytes) -> list[Any]:
    text = text.strip()
    if not text:
        return []
    try:
        return [parse_json(text)]
    except ValueError as error:
        return [BadMessage(str(error))]


def _is_bad(values: list[Any]) -> bool:
    return any(isinstance(value, BadMessage) for value in values)
