"""Which segment a subscriber asks for next. No I/O: replies in, decisions out.

The invariant: a number that was delivered is never asked for again, unless the channel has
demonstrably begun anew below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.trickle.errors import ProtocolError
from relay.trickle.protocol import REFERENCE_WINDOW, JumpPolicy, Reply


class Step(StrEnum):
    """What to do with a reply."""

    DELIVER = "deliver"
    """It is the segment that was asked for, or a later one."""
    JUMPED = "jumped"
    """What was asked for is gone; ask for `SegmentCursor.number`, which is higher now."""
    DOUBT = "doubt"
    """The server says that it is an earlier one. Deliver it under `number` unless its bytes
    were delivered before."""
    WAIT = "wait"
    """The publisher is not there yet; ask again later."""
    LOOK = "look"
    """Numbers don't fit together: find out where the edge is, then `SegmentCursor.look`."""
    RESTARTED = "restarted"
    """The channel began anew; ask for `SegmentCursor.number`, which is lower now."""


@dataclass(slots=True)
class SegmentCursor:
    """The place of one subscriber in its channel."""

    number: int
    """To ask for next; negative while the server has to resolve it."""
    policy: JumpPolicy = JumpPolicy.LATEST
    max_lag_segments: int | None = None
    """Jump when more than this many newer segments have begun."""
    delivered: int | None = None
    """The last number that was delivered."""
    jumps: int = 0
    skipped_segments: int = 0
    restarts: int = 0
    skipped_before: int = 0
    """Segments left out since the last delivered one."""
    restarted: bool = False
    """The channel began anew since the last delivered segment."""
    _lower_seen: bool = False

    def on_segment(self, reply: Reply) -> Step:
        """A 200 for `number`.

        After DELIVER and DOUBT, `number` is the one that is here; call `advance` once it is
        delivered.

        Raises:
            ProtocolError: nobody says which segment this is.
        """
        seq = reply.seq
        if seq is None:
            if self.number < 0:
                raise ProtocolError(
                    "the server neither numbers its segments (Lp-Trickle-Seq) nor offers /next: "
                    "there is no way to follow this channel without repeating segments"
                )
            seq = self.number
        if seq < self.number:
            if self._lower_seen:
                return Step.DOUBT
            self._lower_seen = True
            return Step.LOOK
        self._lower_seen = False
        if self.number >= 0:
            self._skip(seq - self.number)
        self.number = seq
        limit, edge = self.max_lag_segments, reply.latest
        if limit is not None and edge is not None and edge - 1 - seq > limit:
            return self._jump(edge, reply.oldest)
        return Step.DELIVER

    def on_not_in_window(self, reply: Reply) -> Step:
        """A 470 for `number`."""
        self._lower_seen = False
        latest = reply.latest
        if latest is None:
            return Step.LOOK
        if self.number < 0 or latest == self.number:
            return Step.WAIT
        if latest > self.number:
            return self._jump(latest, reply.oldest)
        return Step.LOOK if self.begun_anew(latest) else Step.WAIT

    def begun_anew(self, edge: int) -> bool:
        """Whether an edge this low means that the channel's publisher started over.

        One below what we ask for is normal: we ask before the writer does.
        """
        return self.delivered is not None and edge < self.number - 1

    def look(self, edge: int) -> Step:
        """The edge was found to be at `edge`: RESTARTED if the channel has begun anew, JUMPED if
        it has left `number` behind, else WAIT."""
        if self.begun_anew(edge):
            return self.go_to_edge(edge)
        if edge > self.number and not self._lower_seen:
            return self._jump(edge)
        return Step.WAIT

    def go_to_edge(self, edge: int) -> Step:
        """Follow a channel that began anew, with the segment that begins next.

        Not the current one: behind a fresh edge the server may still serve old segments.
        """
        self.restarts += 1
        self.restarted = True
        self.number = edge
        self.delivered = None
        return Step.RESTARTED

    def pass_over(self) -> None:
        """`number` is not worth delivering; the next one is wanted."""
        self._skip(1)
        self.number += 1

    def advance(self) -> None:
        """`number` was delivered; the next one is wanted."""
        self.delivered = self.number
        self.number += 1
        self.skipped_before = 0
        self.restarted = False

    def _jump(self, edge: int, oldest: int | None = None) -> Step:
        match self.policy:
            case JumpPolicy.NEXT:
                target = edge
            case JumpPolicy.LATEST:
                target = edge - 1
            case JumpPolicy.OLDEST:
                target = edge - REFERENCE_WINDOW if oldest is None else oldest
        target = max(target, self.number + 1)
        self.jumps += 1
        self._skip(target - self.number)
        self.number = target
        return Step.JUMPED

    def _skip(self, count: int) -> None:
        self.skipped_segments += count
        self.skipped_before += count
