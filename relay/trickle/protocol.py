"""What the trickle protocol says, without any I/O: names, numbers, statuses, replies.

Both sides use it, so a header has one spelling and a status one meaning. Sources: the
reference server of go-livepeer (`trickle/`), and measurements of it and its clients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

SEQ = "Lp-Trickle-Seq"
"""The number a request was resolved to; on every reply about a segment."""
LATEST = "Lp-Trickle-Latest"
"""The edge: one past the newest segment that has a byte."""
CLOSED = "Lp-Trickle-Closed"
"""The channel has ended; any value counts."""
CLOSED_VALUE = "terminated"
RESET = "Lp-Trickle-Reset"
"""On a POST: close every lower segment before the first byte of this one."""
RESET_VALUE = "1"
SIZE = "Lp-Trickle-Size"
"""On a GET: bytes the segment held when the reader joined. Ours sends it; others may not."""
OLDEST = "Lp-Trickle-Oldest"
"""On a 470: the oldest readable number. An extension of our server; others don't send it."""
EXPECT_CONTENT = "Expect-Content"
"""On the POST that creates a channel: the content type of its segments."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"
NEXT_PATH = "next"
CHANGES_CHANNEL = "_changes"

STATUS_NOT_IN_WINDOW = 470
"""The channel exists, the segment does not: it is too old or too far ahead."""
NOT_IN_WINDOW_REASON = "Entry not found"

MAX_NUMBER = (1 << 63) - 1
"""Peers count in signed 64 bits."""

REFERENCE_WINDOW = 5
"""Segments the reference server keeps."""


class SymbolicNumber(IntEnum):
    """Negative segment numbers that the server resolves."""

    NEXT = -1
    """The segment that begins next (GET waits for it), or the edge (POST)."""
    CURRENT = -2
    """The newest segment that has begun, from its first byte; 0 on an empty channel."""


class StartPosition(StrEnum):
    """Where a subscriber begins. A plain number is the third way."""

    CURRENT = "current"
    """The segment that is being written now, from its first byte: quickest to a picture."""
    NEXT = "next"
    """The segment that begins next: nothing older than the request is delivered."""


class JumpPolicy(StrEnum):
    """Where a subscriber goes when what it needs has left the server's window."""

    LATEST = "latest"
    """The segment that is being written now."""
    NEXT = "next"
    """The one after that: at most one segment further behind in content, never a burst."""
    OLDEST = "oldest"
    """The oldest still kept: loses least, stays behind most."""


class EndReason(StrEnum):
    """Why a subscription or a publication ended."""

    CLOSED = "closed"
    """The channel was closed by its publisher or its server, and the server said so."""
    GONE = "gone"
    """The channel had existed and does not any more; nobody said why."""
    NEVER_EXISTED = "never_existed"
    """No such channel since we asked first."""
    STOPPED = "stopped"
    """Our own side ended it."""
    REFUSED = "refused"
    """The server won't serve us: credentials, rights, or a request it can't understand."""
    UNREACHABLE = "unreachable"
    """No useful answer for longer than the time budget."""
    BROKEN = "broken"
    """The server does not follow the protocol in a way we can't work around."""


class ReplyKind(StrEnum):
    """What a reply means for the one who asked."""

    OK = "ok"
    CLOSED = "closed"
    """The channel has ended."""
    NO_CHANNEL = "no_channel"
    NOT_IN_WINDOW = "not_in_window"
    CONFLICT = "conflict"
    """The number is taken, or its segment is over (our server; the reference says 200)."""
    RETRY = "retry"
    """The server, or something before it, failed: asking again may help."""
    REFUSED = "refused"
    """Asking again won't help."""


_RETRYABLE = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Reply:
    """The trickle part of an HTTP reply. Numbers that don't parse count as not sent."""

    status: int
    seq: int | None = None
    latest: int | None = None
    oldest: int | None = None
    size: int | None = None
    closed: bool = False
    content_type: str = ""
    content_length: int | None = None

    @classmethod
    def parse(cls, status: int, headers: Mapping[str, str]) -> Reply:
        """From an HTTP status and case-insensitive headers."""
        return cls(
            status=status,
            seq=_natural(headers.get(SEQ)),
            latest=_natural(headers.get(LATEST)),
            oldest=_natural(headers.get(OLDEST)),
            size=_natural(headers.get(SIZE)),
            closed=CLOSED in headers,
            content_type=headers.get("Content-Type", ""),
            content_length=_natural(headers.get("Content-Length")),
        )

    @property
    def kind(self) -> ReplyKind:
        """One meaning per reply.

        `Lp-Trickle-Closed` wins over the status, except on a 200 that may still carry bytes:
        those are delivered first, and the header ends the channel after them.
        """
        if self.closed and not (self.status == 200 and self.content_length != 0):
            return ReplyKind.CLOSED
        match self.status:
            case 200:
                return ReplyKind.OK
            case 404:
                return ReplyKind.NO_CHANNEL
            case 409:
                return ReplyKind.CONFLICT
            case 470:
                return ReplyKind.NOT_IN_WINDOW
        if self.status >= 500 or self.status in _RETRYABLE:
            return ReplyKind.RETRY
        return ReplyKind.REFUSED

    @property
    def empty(self) -> bool:
        """Known to carry no byte."""
        return self.content_length == 0


_NUMBER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)


def parse_number(text: str) -> int | None:
    """A segment number as it stands in a path: ``7``, ``007``, ``+7``, ``-1``.

    Returns:
        None for anything else, and for what signed 64 bits can't hold.
    """
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if -MAX_NUMBER - 1 <= number <= MAX_NUMBER else None


def _natural(text: str | None) -> int | None:
    if text is None:
        return None
    number = parse_number(text.strip())
    return number if number is not None and number >= 0 else None


def same_content_type(one: str, other: str) -> bool:
    """Whether two media types are the same, whatever their case and parameters."""
    return one.partition(";")[0].strip().lower() == other.partition(";")[0].strip().lower()
