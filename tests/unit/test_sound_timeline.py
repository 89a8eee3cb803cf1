"""The row of processed sound: never broken, never out of order, never waiting for ever."""

from __future__ import annotations

import numpy as np

from relay.media.audio_grid import BLOCK_TICKS, SoundBlock
from relay.sound.timeline import CAPACITY, FIRST_WAIT_S, LONGEST_WAIT_S, SoundTimeline

OWN, MADE = 1, 2


def source(number: int, *, silent: bool = False) -> SoundBlock:
    level = 0 if silent else OWN
    return SoundBlock(number * BLOCK_TICKS, np.full((960, 2), level, np.int16), 0.0, silent)


def made() -> np.ndarray:
    return np.full((960, 2), MADE, np.int16)


def shown(blocks: list[SoundBlock]) -> list[tuple[int, int]]:
    """Number and level of each."""
    return [(block.pts // BLOCK_TICKS, int(block.samples[0, 0])) for block in blocks]


def test_a_block_waits_for_what_the_server_makes_of_it() -> None:
    """Released in order, though it comes back in another."""
    timeline = SoundTimeline()
    for number in range(3):
        timeline.add(source(number), 0.0, expected=True)
    timeline.processed(BLOCK_TICKS, made(), 0.1)
    assert timeline.release(0.1) == []
    timeline.processed(0, made(), 0.2)
    assert shown(timeline.release(0.2)) == [(0, MADE), (1, MADE)]
    assert timeline.deadline == FIRST_WAIT_S
    assert timeline.blocks == {"processed": 2}


def test_what_is_not_expected_passes_at_once() -> None:
    """Without a server every block is out when it is in, sound or silence."""
    timeline = SoundTimeline()
    timeline.add(source(0), 0.0, expected=False)
    timeline.add(source(1, silent=True), 0.0, expected=False)
    assert shown(timeline.release(0.0)) == [(0, OWN), (1, 0)]
    assert timeline.blocks == {"source": 1, "silence": 1}


def test_the_wait_is_bounded_and_learns() -> None:
    """The source's own sound after the wait; what comes then is late, and the next wait longer."""
    timeline = SoundTimeline()
    timeline.add(source(0), 0.0, expected=True)
    assert timeline.release(FIRST_WAIT_S - 0.01) == []
    assert shown(timeline.release(FIRST_WAIT_S)) == [(0, OWN)]
    timeline.processed(0, made(), 4.0)
    assert timeline.too_late == 1
    assert timeline.wait_s == 5.0
    timeline.add(source(1), 4.0, expected=True)
    timeline.processed(BLOCK_TICKS, made(), 8.5)
    assert shown(timeline.release(8.5)) == [(1, MADE)]
    assert FIRST_WAIT_S < timeline.wait_s < 5.0, "what was in time shortens it again"
    timeline.add(source(2), 10.0, expected=True)
    timeline.release(100.0)
    timeline.processed(2 * BLOCK_TICKS, made(), 100.0)
    assert timeline.wait_s == LONGEST_WAIT_S


def test_when_the_server_goes_everything_goes_out() -> None:
    """What has come back is kept, the rest is the source's."""
    timeline = SoundTimeline()
    for number in range(3):
        timeline.add(source(number), 0.0, expected=True)
    timeline.processed(BLOCK_TICKS, made(), 0.1)
    timeline.give_up()
    assert shown(timeline.release(0.1)) == [(0, OWN), (1, MADE), (2, OWN)]
    assert len(timeline) == 0


def test_one_block_can_be_given_up() -> None:
    """Because it was never sent; the others still wait."""
    timeline = SoundTimeline()
    timeline.add(source(0), 0.0, expected=True)
    timeline.add(source(1), 0.0, expected=True)
    timeline.give_up(0)
    assert shown(timeline.release(0.0)) == [(0, OWN)]
    assert len(timeline) == 1


def test_the_row_has_a_bound() -> None:
    """More than it holds pushes the oldest out."""
    timeline = SoundTimeline()
    for number in range(CAPACITY + 5):
        timeline.add(source(number), 0.0, expected=True)
    assert len(timeline.release(0.0)) >= 5
    assert len(timeline) <= CAPACITY
