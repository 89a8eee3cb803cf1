"""Returned sound finds the block it was, whatever the server's origin, and what went missing."""

from __future__ import annotations

import numpy as np
import pytest

from relay.media.audio_grid import BLOCK_SAMPLES, Samples
from relay.sound.placement import PlacedSound, SentBlock, SentSound, SoundPlacement

ORIGIN = (1 << 32) - 2500
"""The server's first RTP timestamp: soon to wrap."""
LOOKAHEAD = 100


def block(number: int) -> Samples:
    """Told by its level."""
    return np.full((BLOCK_SAMPLES, 2), number + 1, np.int16)


class Line:
    """A server that returns what it got, `LOOKAHEAD` samples late."""

    def __init__(self, blocks: int, fed: set[int] | None = None) -> None:
        self.sent = SentSound()
        for number in range(blocks):
            pts = None if fed and number in fed else 90_000 + 1800 * number
            self.sent.remember(SentBlock(pts, sent_at=number * 0.02))
        self.placement = SoundPlacement(self.sent, LOOKAHEAD)
        row = np.concatenate([block(n) for n in range(blocks)])
        self.row = np.concatenate([np.zeros((LOOKAHEAD, 2), np.int16), row])

    def returns(
        self, number: int, *, delay_s: float = 0.6, origin: int = ORIGIN
    ) -> list[PlacedSound]:
        samples = self.row[number * BLOCK_SAMPLES : (number + 1) * BLOCK_SAMPLES]
        timestamp = (origin + number * BLOCK_SAMPLES) % (1 << 32)
        return self.placement.add(timestamp, samples, number * 0.02 + delay_s)


def levels(placed: list[PlacedSound]) -> dict[int, set[int]]:
    """For each pts, the levels heard there."""
    return {p.pts: set(np.unique(p.samples).tolist()) for p in placed}


def test_every_block_returns_to_its_time() -> None:
    """Across a wrap of the timestamp; each block holds its own samples and no other's."""
    line = Line(10)
    placed = [p for n in range(10) for p in line.returns(n)]
    assert levels(placed) == {90_000 + 1800 * n: {n + 1} for n in range(9)}
    assert line.sent.delay.percentiles_ms()["p50"] == pytest.approx(620, abs=1)
    assert line.sent.in_flight() == 1


def test_silence_that_only_fed_the_server_is_not_placed() -> None:
    """It has no time; what follows keeps its own."""
    line = Line(6, fed={0, 1, 3})
    placed = [p for n in range(6) for p in line.returns(n)]
    assert levels(placed) == {90_000 + 1800 * n: {n + 1} for n in (2, 4)}


def test_a_lost_packet_is_a_hole_of_its_size() -> None:
    """Silence stands for it, and the rest stays in place; late packets are let go."""
    line = Line(8)
    placed = [p for n in (0, 1, 2, 5, 4, 6, 7) for p in line.returns(n)]
    heard = levels(placed)
    assert heard[90_000 + 1800 * 2] <= {0, 3}
    assert heard[90_000 + 1800 * 3] == {0}
    assert heard[90_000 + 1800 * 6] == {7}
    assert line.sent.lost_samples == 2 * BLOCK_SAMPLES


def test_a_new_origin_is_placed_by_the_usual_delay() -> None:
    """A server that begins a new stream in mid-connection: within a block, counted."""
    line = Line(60)
    for n in range(20):
        line.returns(n)
    placed = [p for n in range(20, 50) for p in line.returns(n, origin=ORIGIN + 7_000_000)]
    assert line.sent.placed_anew == 1
    for at, heard in levels(placed).items():
        assert all(abs((at - 90_000) // 1800 + 1 - level) <= 2 for level in heard if level)


def test_nothing_returns_before_it_was_sent() -> None:
    """More than was sent can't be right: the place is estimated, and no error is made of it."""
    line = Line(5)
    row = np.zeros((BLOCK_SAMPLES, 2), np.int16)
    for n in range(12):
        line.placement.add(ORIGIN + n * BLOCK_SAMPLES, row, 1.0 + n * 0.02)
    assert line.sent.placed_anew >= 1
    assert line.sent.in_flight() >= 0


def test_when_nobody_looks_nothing_is_waited_for() -> None:
    """Sound that is only sent is never in flight and never missed."""
    sent = SentSound(returns=False)
    sent.remember(SentBlock(0, 0.0))
    assert (sent.in_flight(), sent.waiting_since()) == (0, None)


def test_missing_since_is_the_last_progress() -> None:
    """The clock of the watchdog starts anew with everything that returns."""
    line = Line(10)
    assert line.sent.waiting_since() == 0.0
    line.returns(0)
    line.returns(1, delay_s=5.0)
    assert line.sent.waiting_since() == pytest.approx(5.02)
