"""What a trickle server may be told, and what it counts."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """What a hook is told."""

    channel: str
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class HookRefusal(Exception):
    """Raised by a hook to refuse a request.

    Args:
        status: the HTTP status to answer with.
        text: the body.
    """

    def __init__(self, status: int = 403, text: str = "refused") -> None:
        super().__init__(text)
        self.status = status
        self.text = text


Hook = Callable[[ChannelRequest], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Policies and limits of one server. The defaults suit video of a few Mbit/s."""

    base_path: str = "/"
    """Where channels live, e.g. ``/ai/trickle/``."""
    autocreate: bool = True
    """Whether a POST from outside may make a channel."""
    changefeed: bool = False
    """Whether ``_changes`` tells which channels come and go."""
    token: str | None = field(default=None, repr=False)
    """Bearer token for every channel; None asks for none."""
    channel_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Bearer tokens of single channels, instead of `token`."""
    before_create: Hook | None = None
    """Called before any request from outside makes a channel; HookRefusal stops it."""
    before_delete: Hook | None = None
    """Called while the channel still exists; HookRefusal keeps it."""

    window_segments: int = 5
    window_s: float | None = None
    """How long a complete segment stays readable; None: as long as it is in the window."""
    resume_grace_s: float = 2.0
    """How long a segment whose publisher vanished waits for it, about one segment's length; also
    how long a number that others have passed waits for its first byte."""
    idle_timeout_s: float = 300.0
    """A channel without a byte or a request to write for this long is closed."""
    waiting_readers_keep_alive: bool = False
    """Whether a reader that waits counts as activity."""
    tombstone_s: float = 5.0
    """How long a deleted channel answers late requests with Closed and is not made anew by
    them."""
    continue_interval_s: float = 10.0
    """How often a POST without a byte is answered 100 Continue, so that nothing in between
    takes it for dead."""
    write_deadline_s: float = 10.0
    """A reader that takes no byte for this long is dropped."""

    max_segment_bytes: int = 64 << 20
    max_total_bytes: int = 1 << 30
    """Of all segments; the oldest ones go first when it is reached."""
    max_channels: int = 1000
    max_readers: int = 10_000
    max_readers_per_channel: int = 2000

    tls: ssl.SSLContext | None = None
    shutdown_timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class ServerStats:
    """Figures of a server; a snapshot, counters since the start."""

    channels: int
    readers: int
    bytes_held: int
    segments: int = 0
    truncated_segments: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    readers_dropped: int = 0
    """Took no byte for the write deadline, or held memory that was needed."""
    channels_swept: int = 0
    requests_refused: int = 0
    """By token, hook, limit or conflict."""
