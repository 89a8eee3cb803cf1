"""Backoff, budget and pacing, on a clock that the test turns."""

from __future__ import annotations

from itertools import islice

from relay.backoff import FruitlessPacer, RetryBudget, backoff_delays
from relay.log_limit import LimitedLog


def test_delays_double_up_to_their_maximum() -> None:
    """Without jitter the row is plain."""
    delays = backoff_delays(0.1, 1.0, random_source=lambda: 0.0)
    assert list(islice(delays, 6)) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_shortens_by_up_to_half() -> None:
    """No two clients of one failed server return in step, none later than the delay."""
    delays = backoff_delays(1.0, 1.0, random_source=lambda: 1.0)
    assert list(islice(delays, 2)) == [0.5, 0.5]


def test_a_budget_is_time_in_a_row_of_failures() -> None:
    """It ends after its seconds, not after a number of attempts, and success renews it."""
    budget = RetryBudget(10.0, lambda: iter([1.0] * 100))
    assert [budget.failed(at) for at in (100.0, 105.0, 109.5)] == [1.0, 1.0, 0.5]
    assert budget.failed(110.0) is None
    budget.succeeded()
    assert budget.failed(500.0) == 1.0
    assert budget.failed(509.0) == 1.0


def test_a_few_fruitless_requests_are_free_then_they_are_spaced() -> None:
    """However fast replies come, ten requests a second are never exceeded."""
    pacer = FruitlessPacer()
    now, sent = 0.0, 0
    while True:
        now += pacer.delay(now)
        if now >= 1.0:
            break
        pacer.sent(now)
        sent += 1
    assert 5 <= sent < 10


def test_a_fruitful_request_makes_the_next_ones_free_again() -> None:
    """Only rows of fruitless ones are slowed down."""
    pacer = FruitlessPacer(free=1, interval_s=1.0)
    pacer.sent(5.0)
    assert pacer.delay(5.0) == 1.0
    pacer.fruitful()
    assert pacer.delay(5.0) == 0.0


def test_one_warning_a_second_for_each_event_with_a_count_of_the_rest() -> None:
    """Swallowed warnings are counted in the next one; other events are not held back."""
    now = 0.0
    lines: list[tuple[str, dict[str, object]]] = []

    class Recorder:
        def warning(self, event: str, **keys: object) -> None:
            lines.append((event, keys))

    log = LimitedLog(Recorder(), clock=lambda: now)  # type: ignore[arg-type]
    for at in (0.0, 0.1, 0.9, 1.0):
        now = at
        log.warning("a", at=at)
    log.warning("b")
    assert lines == [("a", {"at": 0.0}), ("a", {"at": 1.0, "similar_since_last": 2}), ("b", {})]
