"""What is known of the frames under way, on both tracks of one connection."""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.media.timeline import FrameIdentifier, StampIssuer
from relay.stats import DelayMeter, Histogram, RateMeter


@dataclass(slots=True)
class FrameLedger:
    """What both directions of one connection share about the frames under way."""

    issuer: StampIssuer = field(default_factory=StampIssuer)
    identifier: FrameIdentifier = field(default_factory=FrameIdentifier)
    sent: RateMeter = field(default_factory=RateMeter)
    returned: RateMeter = field(default_factory=RateMeter)
    round_trip: DelayMeter = field(default_factory=DelayMeter)
    encoding: Histogram = field(default_factory=Histogram)
    last_sent_at: float | None = None
    """When a frame of the source was sent."""
    abandoned: int = 0
    """Frames sent that never came back."""

    def oldest_unreturned_at(self) -> float | None:
        """When the oldest frame under way was sent; None if none is."""
        return self.identifier.oldest_sent_at

    def slowest_recent_s(self) -> float:
        """The 99th percentile of the last round trips, in seconds; 0.0 without one."""
        percentiles = self.round_trip.percentiles_ms()
        return percentiles["p99"] / 1000 if percentiles else 0.0

    def give_up_before(self, sent_at: float) -> int:
        """Stop waiting for frames sent before that time; returns how many there were."""
        count = self.identifier.give_up_before(sent_at)
        self.abandoned += count
        return count
