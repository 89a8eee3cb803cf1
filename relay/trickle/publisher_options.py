"""What a publisher may be told, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from relay.trickle.http_client import ConnectionOptions


class CreatePolicy(StrEnum):
    """Whether the publisher makes the channel."""

    IF_MISSING = "if_missing"
    """Asked for only when the server says that there is none."""
    NEVER = "never"
    """Somebody else makes it; a missing channel is an error."""


@dataclass(frozen=True, slots=True)
class PublisherOptions:
    """Policies and limits of one publisher."""

    create: CreatePolicy = CreatePolicy.IF_MISSING
    wait_for_channel_s: float = 0.0
    """How long a channel that is missing, and that we may not make, is waited for."""
    retry_budget_s: float = 30.0
    """How long refused connections and 5xx are retried before the publication is over."""
    write_stall_s: float = 10.0
    """How long the server may take no byte before the segment is given up."""
    close_timeout_s: float = 10.0
    """How long the reply to an ended segment is waited for; also `aclose` for all of them."""
    max_in_flight: int = 3
    """Ended segments whose reply is outstanding; with more, `next_segment` waits."""
    keepalive_payload: bytes | None = None
    """Sent as a segment when none was begun for `keepalive_interval_s`: servers sweep channels
    without new segments (the reference after 5 min). For MPEG-TS a null packet does no harm."""
    keepalive_interval_s: float = 120.0
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Counters since the start; a snapshot."""

    segments_begun: int = 0
    segments_accepted: int = 0
    """The server's reply said that it has the whole segment."""
    segments_lost: int = 0
    """Broken, refused or given up; their readers got a short segment, or none."""
    segments_in_flight: int = 0
    """Ended, reply outstanding. Above 3 for long: the way to the server is too slow."""
    bytes_written: int = 0
    retries: int = 0
    """Requests made again because nothing of them had been taken."""
    conflicts: int = 0
    """Numbers that another publisher had taken, or that were over."""
    stalls: int = 0
    """Times the server took nothing for the write deadline."""
    keepalives: int = 0
