"""Text that ComfyStream sends beside the pictures: which picture it belongs to, and who gets it.

ComfyStream looks for text four times a second and sends what it finds, one message for each run
of the workflow, without a word on which (measured). The pictures of those runs have come by then,
so texts are counted against pictures: in steady state the two differ by a constant, which each
burst of texts shows again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import structlog

from relay.log_limit import LimitedLog
from relay.queues import MediaQueue, QueueClosed

log = structlog.get_logger(__name__)

BURST_S = 0.03
"""Texts closer together than this came in one go."""
MOST_MESSAGE_BYTES = 1 << 20
PART_CHARACTERS = 9000
"""Of a text in one line: at most 54 KB of JSON, as readers of lines give up at 64 KiB."""
MOST_PARTS = 128
PICTURES_REMEMBERED = 512
OFFSETS_REMEMBERED = 9
MOST_LISTENERS = 32
LINES_FOR_A_LISTENER = 256
MOST_BURST = 1000

Line = dict[str, Any]


class TextPairing:
    """Tells the source pts of each text of one connection.

    Exact while every picture that is processed has one text and both arrive; within a burst (a
    quarter of a second) where some runs of the workflow give none.
    """

    def __init__(self) -> None:
        self._pictures: deque[int] = deque(maxlen=PICTURES_REMEMBERED)
        self._picture_count = 0
        self._text_count = 0
        self._offsets: deque[int] = deque(maxlen=OFFSETS_REMEMBERED)

    @property
    def pictures(self) -> int:
        """How many have come."""
        return self._picture_count

    def see_picture(self, pts: int) -> None:
        """A processed picture came back."""
        self._pictures.append(pts)
        self._picture_count += 1

    def pair(self, texts: int, pictures: int) -> list[int | None]:
        """The pts of each of `texts` that came in one burst.

        Args:
            pictures: how many had come when the last of the texts did.
        """
        first, self._text_count = self._text_count, self._text_count + texts
        offset = pictures - self._text_count
        usual = median_low(self._offsets) if self._offsets else offset
        self._offsets.append(offset)
        # A text more or less than pictures is a picture on its way; more is a run without one.
        steady = abs(offset - usual) <= 1
        base = first + usual if steady else pictures - texts
        return [self._pts_of(base + index) for index in range(texts)]

    def _pts_of(self, number: int) -> int | None:
        if not self._pictures:
            return None
        oldest = self._picture_count - len(self._pictures)
        return self._pictures[min(max(number - oldest, 0), len(self._pictures) - 1)]


@dataclass(slots=True)
class _Burst:
    texts: list[str]
    pictures: int


class TextOutput:
    """One session's text.

    Args:
        publish: takes each line for the data channel; None without one.
    """

    def __init__(self, publish: Callable[[Line], object] | None) -> None:
        self.counts: Counter[str] = Counter()
        """`received`, and what was not passed on: `unreadable`, `warm_up`, `dropped`."""
        self._publish = publish
        self._pairing = TextPairing()
        self._burst: _Burst | None = None
        self._skip = 0
        self._listeners: set[MediaQueue[Line]] = set()
        self._closed = False
        self._log = LimitedLog(log)

    def new_connection(self, *, skip: int = 0) -> None:
        """Pictures and texts are counted anew; the first `skip` texts are not passed on."""
        self._flush()
        self._pairing = TextPairing()
        self._skip = skip

    def see_picture(self, pts: int) -> None:
        """A processed picture came back."""
        self._pairing.see_picture(pts)

    def receive(self, message: str | bytes) -> None:
        """A message came on ComfyStream's data channel."""
        text = _text_of(message)
        if text is None:
            self.counts["unreadable"] += 1
            self._log.warning("comfystream.text_ignored", bytes=len(message))
            return
        self.counts["received"] += 1
        if self._skip:
            self._skip -= 1
            self.counts["warm_up"] += 1
            return
        if self._burst is None:
            self._burst = _Burst([], 0)
            asyncio.get_running_loop().call_later(BURST_S, self._flush)
        self._burst.texts.append(text)
        self._burst.pictures = self._pairing.pictures
        if len(self._burst.texts) >= MOST_BURST:
            self._flush()

    def listen(self) -> MediaQueue[Line] | None:
        """A queue of lines from now on, for one reader; None if there are too many. The oldest
        line makes room when it is not read."""
        if len(self._listeners) >= MOST_LISTENERS:
            return None
        queue: MediaQueue[Line] = MediaQueue("text", LINES_FOR_A_LISTENER)
        self._listeners.add(queue)
        if self._closed:
            queue.close()
        return queue

    def leave(self, queue: MediaQueue[Line]) -> None:
        """The reader has gone. Idempotent."""
        self._listeners.discard(queue)

    def close(self) -> None:
        """Nothing more will come; readers are told. Idempotent."""
        self._flush()
        self._closed = True
        for queue in self._listeners:
            queue.close()

    def status(self) -> dict[str, Any]:
        """The `text` object of the session status."""
        return {
            "received": self.counts["received"],
            "unreadable": self.counts["unreadable"],
            "listeners": len(self._listeners),
        }

    def _flush(self) -> None:
        burst, self._burst = self._burst, None
        if burst is None:
            return
        now_ms = round(time.time() * 1000)
        times = self._pairing.pair(len(burst.texts), burst.pictures)
        for text, pts in zip(burst.texts, times, strict=True):
            for line in _lines(text, pts, now_ms):
                self._pass_on(line)

    def _pass_on(self, line: Line) -> None:
        if self._publish is not None:
            self._publish(line)
        for queue in self._listeners:
            try:
                queue.put_nowait(line)
            except QueueClosed:
                continue


def _text_of(message: str | bytes) -> str | None:
    if len(message) > MOST_MESSAGE_BYTES:
        return None
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("type") != "text":
        return None
    data = value.get("data")
    # Half a character (a lone surrogate) can't be written as UTF-8.
    return data.encode("utf-8", "replace").decode() if isinstance(data, str) else None


def _lines(text: str, pts: int | None, now_ms: int) -> list[Line]:
    """One line, or as many as a long text takes."""
    line: Line = {"type": "text", "pts": pts, "timestamp": now_ms}
    parts = [text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS)]
    if len(parts) <= 1:
        return [line | {"data": text}]
    return [
        line | {"data": part, "part": number, "parts": len(parts)}
        for number, part in enumerate(parts[:MOST_PARTS], 1)
    ]
