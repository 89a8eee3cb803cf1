"""The tally that demo, benchmark and end-to-end tests judge by: each fault counts as itself."""

from __future__ import annotations

import pytest

from demo.barcode import Reading
from demo.frame_tally import PTS_MODULUS, FrameTally, percentile_ms

INTERVAL = 3000
DELAY_S = 0.01


def feed(
    tally: FrameTally,
    output: list[int],
    *,
    frames: int = 10,
    start: int = 0,
    numbers: dict[int, int] | None = None,
) -> None:
    """`frames` on the input, 30 a second, then the ones named on the output, in that order.

    Args:
        numbers: what the output's pictures show, where it is not their own number.
    """
    for index in range(frames):
        tally.on_input(start + index * INTERVAL, index / 30)
        tally.on_input_picture(start + index * INTERVAL, Reading(index, False))
    for index in output:
        tally.on_output(start + index * INTERVAL, index / 30 + DELAY_S)
        shown = (numbers or {}).get(index, index)
        tally.on_output_picture(start + index * INTERVAL, Reading(shown, True))


def test_every_frame_once_is_clean() -> None:
    """Ten of ten in order, verified, inverted, ten milliseconds each."""
    tally = FrameTally()
    feed(tally, list(range(10)))
    summary = tally.summary()
    assert summary.clean
    assert (summary.delivered, summary.verified, summary.inverted) == (10, 10, 10)
    assert summary.delay_ms(50) == summary.delay_ms(99) == pytest.approx(10)


def test_nothing_on_the_output_is_not_clean() -> None:
    """No frame delivered is no success, though none counts as lost."""
    tally = FrameTally()
    feed(tally, [])
    summary = tally.summary()
    assert not summary.clean
    assert (summary.input_frames, summary.lost, summary.delay_ms(50)) == (0, 0, None)


def test_each_fault_is_counted_as_itself() -> None:
    """Lost 4, a copy of 2, 6 after 7, and 8 with the picture of 9."""
    tally = FrameTally()
    feed(tally, [1, 2, 2, 3, 5, 7, 6, 8, 9], numbers={8: 9})
    tally.on_output(INTERVAL * 1000 + 17, 1.0)
    summary = tally.summary()
    assert not summary.clean
    assert summary.input_frames == 9
    assert (summary.lost, summary.duplicated, summary.out_of_order) == (1, 1, 1)
    assert (summary.mislabelled, summary.verified, summary.foreign) == (1, 7, 1)


def test_frames_before_the_first_and_after_the_last_are_not_lost() -> None:
    """What came before the session started, or is still under way, is no loss."""
    tally = FrameTally()
    feed(tally, [3, 4, 5, 6])
    assert tally.summary().input_frames == 4
    assert tally.summary().clean


def test_warm_up_is_left_out() -> None:
    """Faults within the warm-up do not count, the first after it does."""
    tally = FrameTally(warm_up_s=4 / 30)
    feed(tally, [0, 2, 4, 5, 7, 8, 9])
    summary = tally.summary()
    assert (summary.input_frames, summary.lost) == (6, 1)


def test_output_ahead_of_its_twin_is_matched_when_that_comes() -> None:
    """The two channels come over two connections: either may be read first."""
    tally = FrameTally()
    assert tally.on_output(INTERVAL, 0.02) is None
    tally.on_output_picture(INTERVAL, Reading(1, True))
    assert tally.summary().foreign == 1
    tally.on_input(INTERVAL, 0.01)
    tally.on_input_picture(INTERVAL, Reading(1, False))
    summary = tally.summary()
    assert (summary.foreign, summary.delivered, summary.delay_ms(50)) == (0, 1, 10.0)
    assert (summary.verified, summary.inverted) == (1, 1)


def test_timestamps_may_wrap() -> None:
    """Frames across 2^33 ticks are in order and nothing is lost."""
    tally = FrameTally()
    feed(tally, list(range(10)), start=PTS_MODULUS - 4 * INTERVAL)
    assert tally.summary().clean


def test_unreadable_output_is_told_from_not_yet_decoded() -> None:
    """A picture without its barcode is a fault, one that was not looked at is not."""
    tally = FrameTally()
    for index in range(3):
        tally.on_input(index * INTERVAL, index / 30)
        tally.on_input_picture(index * INTERVAL, Reading(index, False))
        tally.on_output(index * INTERVAL, index / 30 + DELAY_S)
    tally.on_output_picture(0, None)
    tally.on_output_picture(INTERVAL, Reading(1, True))
    summary = tally.summary()
    assert (summary.unreadable, summary.verified, summary.delivered) == (1, 1, 3)


def test_a_long_run_keeps_its_totals_and_forgets_its_frames() -> None:
    """Three minutes leave the same counts, and no more frames than the bound."""
    tally = FrameTally()
    for index in range(5_000):
        tally.on_input(index * INTERVAL, index / 30)
        if index % 1000:
            tally.on_output(index * INTERVAL, index / 30 + DELAY_S)
    summary = tally.summary()
    assert (summary.delivered, summary.lost) == (4_995, 4)
    assert len(tally._frames) <= 2_000


def test_percentiles_are_nearest_rank() -> None:
    """The 50th of 1..101 is 51, the 99th is 100."""
    values = [rank / 1000 for rank in range(1, 102)]
    assert percentile_ms(values, 50) == 51
    assert percentile_ms(values, 99) == 100
    assert percentile_ms([], 50) is None
