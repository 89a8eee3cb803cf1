"""33-bit timestamps, unwrapped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.media.access_unit import PTS_MODULUS
from relay.media.timestamps import TimestampUnwrapper, nearest

HOUR = 3600 * 90_000


def unwrapped(*timestamps: int) -> list[int]:
    clock = TimestampUnwrapper()
    return [clock.unwrap(t % PTS_MODULUS) for t in timestamps]


@given(
    start=st.integers(0, PTS_MODULUS - 1),
    steps=st.lists(st.integers(-90_000, 1_000 * 90_000), max_size=50),
)
def test_goes_on_over_any_number_of_wraps(start: int, steps: list[int]) -> None:
    """Jumps up to 1000 s forward and reordering back come out exactly, wherever the wrap is."""
    times = [start]
    for step in steps:
        times.append(times[-1] + step)
    assert unwrapped(*times) == times


def test_a_restart_at_zero_is_the_jump_back_that_it_is() -> None:
    """Below 2^32 a source that starts over goes back."""
    assert unwrapped(90_000 * 5000, 90_000 * 5000 + 3000, 0, 3000) == [
        450_000_000,
        450_003_000,
        0,
        3000,
    ]


def test_one_wild_timestamp_does_not_move_what_follows() -> None:
    """A flipped high bit is handed out, not believed; two that agree are."""
    wild = (1 << 32) + 1_000  # believed, it would put what follows 2^33 lower
    result = unwrapped(1000, 4000, wild + 4000, 7000, 10_000)
    assert result[:2] == [1000, 4000]
    assert result[3:] == [7000, 10_000]
    steps = [0, 10 * HOUR, 10 * HOUR + 1, 20 * HOUR, 20 * HOUR + 1, 30 * HOUR, 30 * HOUR + 1]
    assert unwrapped(*steps) == steps
    jump = 2 * HOUR
    assert unwrapped(1000, jump, jump + 3000, jump + 6000) == [1000, jump, jump + 3000, jump + 6000]


def test_nearest_is_congruent_and_close() -> None:
    """A dts a little before a pts of 0 is negative, not 26 hours later."""
    assert nearest(PTS_MODULUS - 3000, 0) == -3000
    assert nearest(5, PTS_MODULUS * 3 - 1) == PTS_MODULUS * 3 + 5
