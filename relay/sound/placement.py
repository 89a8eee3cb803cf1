"""Which sound came back: returned samples find the blocks that were sent, and their time.

Towards the server sound is one unbroken row of 20 ms blocks, numbered by the RTP timestamp. The
server hands back the differences of those timestamps on an origin of its own: its first packet
stands for the first one that it got. So the n-th sample returned is the n-th sample sent, later
by what the two Opus encoders on the way look ahead; which block that is, and what time the
source gave it, is remembered here.

If the very first packets of a connection are lost on their way, that can't be seen, and all that
follows lies 20 ms too early for each (a lost packet later is a hole of known size). What can be
seen is checked all the time: nothing returns before it was sent, and no timestamp leaps. If that
fails, the place is estimated from the usual delay, counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from relay.media import arrays as np
from relay.media.audio_encoder import OpusEncoder
from relay.media.audio_grid import BLOCK_SAMPLES, SAMPLE_RATE, Samples, silence
from relay.stats import DelayMeter

LOOKAHEAD_SAMPLES = 2 * OpusEncoder.LOOKAHEAD_SAMPLES
"""Ours and the server's, 13 ms: neither end's decoder takes it away (aiortc's gives all that
libopus gives). With it taken off, a beep is back in its place within 0.2 ms (measured)."""
RTP_MODULUS = 1 << 32
LEAP_SAMPLES = 10 * SAMPLE_RATE
"""A timestamp this far from the expected one is a new origin."""
REMEMBERED_BLOCKS = 3000
"""A minute; what has not returned by then will not be missed."""


@dataclass(frozen=True, slots=True)
class SentBlock:
    """One packet that went to the server."""

    pts: int | None
    """The source's; None for silence that only keeps the server fed."""
    sent_at: float


@dataclass(frozen=True, slots=True)
class ReturnedPacket:
    """One Opus packet from the server."""

    data: bytes
    timestamp: int
    """The RTP timestamp: 48 kHz, 32 bits."""
    arrived_at: float


@dataclass(frozen=True, slots=True)
class PlacedSound:
    """A block's worth of returned sound."""

    pts: int
    samples: Samples
    """Shape (960, 2)."""


class SentSound:
    """What went out on one connection, by number.

    Args:
        returns: whether it is looked at what comes back.
    """

    def __init__(self, *, returns: bool = True) -> None:
        self.last_returned_at: float | None = None
        self._returns = returns
        self.count = 0
        """Packets sent."""
        self.returned = 0
        """Blocks, from the first on, that are back or were overtaken by one that is."""
        self.delay = DelayMeter()
        self.lost_samples = 0
        """Sound that the server did not return, made up for by silence."""
        self.placed_anew = 0
        """How often the place of what returned had to be estimated."""
        self._blocks: deque[SentBlock] = deque(maxlen=REMEMBERED_BLOCKS)

    def remember(self, block: SentBlock) -> int:
        """Note a packet as it is sent; returns its number, from 0."""
        self._blocks.append(block)
        self.count += 1
        return self.count - 1

    def block(self, number: int) -> SentBlock | None:
        """A packet that was sent; None if it was not, or too long ago."""
        index = number - (self.count - len(self._blocks))
        return self._blocks[index] if 0 <= index < len(self._blocks) else None

    def in_flight(self) -> int:
        """Blocks sent and not back; 0 where nobody looks."""
        return self.count - self.returned if self._returns else 0

    def waiting_since(self) -> float | None:
        """Since when nothing has come back though something should; None if nothing should."""
        oldest = self.block(max(self.returned, self.count - len(self._blocks)))
        if oldest is None or not self._returns:
            return None
        return max(oldest.sent_at, self.last_returned_at or oldest.sent_at)

    def number_sent_at(self, moment: float) -> int:
        """The number of the block that was sent last at that time, or the oldest known."""
        oldest = self.count - len(self._blocks)
        later = sum(1 for block in self._blocks if block.sent_at > moment)
        return max(oldest, self.count - 1 - later)


class SoundPlacement:
    """Puts the returned packets of one connection in their places.

    Args:
        sent: what went out on it.
        lookahead_samples: by how much what is decoded lags behind its timestamp.
    """

    def __init__(self, sent: SentSound, lookahead_samples: int = LOOKAHEAD_SAMPLES) -> None:
        self._sent = sent
        self._lookahead = lookahead_samples
        self._expected: int | None = None
        self._skip = lookahead_samples
        self._number = 0
        self._held: list[Samples] = []
        self._held_samples = 0

    def add(self, timestamp: int, samples: Samples, arrived_at: float) -> list[PlacedSound]:
        """Take the next decoded packet; the blocks that are whole now, except those that only
        fed the server.

        Args:
            timestamp: the RTP timestamp, 48 kHz, 32 bits.
            arrived_at: on the clock of `SentBlock.sent_at`.
        """
        if self._expected is None:
            self._expected = timestamp
        ahead = (timestamp - self._expected + RTP_MODULUS // 2) % RTP_MODULUS - RTP_MODULUS // 2
        if not -LEAP_SAMPLES < ahead < LEAP_SAMPLES:
            self._place_anew(arrived_at)
        elif ahead < 0:
            return []  # late: its place was filled
        elif ahead > 0:
            self._sent.lost_samples += ahead
            self._append(silence(ahead))
        self._expected = (timestamp + len(samples)) % RTP_MODULUS
        self._append(samples)
        return self._cut(arrived_at)

    def _append(self, samples: Samples) -> None:
        skipped = min(self._skip, len(samples))
        self._skip -= skipped
        self._held.append(samples[skipped:])
        self._held_samples += len(samples) - skipped

    def _cut(self, arrived_at: float) -> list[PlacedSound]:
        if self._held_samples < BLOCK_SAMPLES:
            return []
        samples = np.concatenate(self._held)
        placed: list[PlacedSound] = []
        position = 0
        while len(samples) - position >= BLOCK_SAMPLES:
            if self._number >= self._sent.count:
                self._place_anew(arrived_at)
                return placed
            sent = self._sent.block(self._number)
            self._number += 1
            self._sent.returned = max(self._sent.returned, self._number)
            self._sent.last_returned_at = arrived_at
            if sent is not None:
                self._sent.delay.add(arrived_at - sent.sent_at)
                if sent.pts is not None:
                    block = samples[position : position + BLOCK_SAMPLES]
                    placed.append(PlacedSound(sent.pts, block))
            position += BLOCK_SAMPLES
        self._held = [samples[position:]]
        self._held_samples = len(samples) - position
        return placed

    def _place_anew(self, arrived_at: float) -> None:
        """What comes next can't be where it says it is: take it for what usually comes now."""
        percentiles = self._sent.delay.percentiles_ms()
        usual_s = percentiles["p50"] / 1000 if percentiles else 0.0
        self._number = self._sent.number_sent_at(arrived_at - usual_s)
        self._sent.returned = min(self._sent.returned, self._number)
        self._sent.placed_anew += 1
        self._skip = self._lookahead
        self._held, self._held_samples = [], 0
