"""What a subscriber may be told, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.trickle.http_client import ConnectionOptions
from relay.trickle.protocol import JumpPolicy


@dataclass(frozen=True, slots=True)
class SubscriberOptions:
    """Policies and limits of one subscriber."""

    jump: JumpPolicy = JumpPolicy.LATEST
    """Where to go when the segment we need has left the server's window."""
    max_lag_segments: int | None = None
    """Jump also when more than this many newer segments have begun; None never does."""
    wait_for_channel_s: float = 0.0
    """How long a channel that does not exist yet is waited for."""
    retry_budget_s: float = 30.0
    """How long refused connections and 5xx are retried before they are an error."""
    header_timeout_s: float = 3.0
    """For the reply about a segment that is known to exist. A long poll for one that has not
    begun is looked after this often, and goes on for as long as the server says it is right."""
    body_stall_s: float = 5.0
    """A segment that brings no byte for this long is asked for again, from where it was. While
    the server has nothing newer this goes on, ever more rarely, and without end."""
    long_poll_refresh_s: float = 40.0
    """How long one request may wait for a segment to begin; then it is sent again, same number.
    Below the 45-60 s after which servers and proxies on the way cut a silent connection."""
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


@dataclass(frozen=True, slots=True)
class SubscriberStats:
    """Counters since the start; a snapshot."""

    segments: int = 0
    """Handed out, empty ones included."""
    empty_segments: int = 0
    truncated_segments: int = 0
    """Cut, and gone when we came back for the rest."""
    bytes: int = 0
    retries: int = 0
    """Requests made again after a failure."""
    resumes: int = 0
    """Segments taken up again in their middle."""
    stalls: int = 0
    """Replies and bodies that did not come in time."""
    jumps: int = 0
    skipped_segments: int = 0
    restarts: int = 0
    """Times the channel was found to have begun anew."""
    replays_refused: int = 0
    """Segments a server served again under a new number, or after such a restart."""
    segments_behind: int = 0
    """Newer segments that had begun when the last one was handed out."""
