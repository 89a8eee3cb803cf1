"""Requests of each client, counted against a clock of the test's."""

from __future__ import annotations

from relay.api.rate_limit import BURST_S, MOST_CLIENTS, RateLimit


def test_a_client_gets_its_rate_and_a_burst() -> None:
    """Two seconds' worth at once, then as many a second as the limit says."""
    limit = RateLimit(10)
    assert [limit.take("a", 0.0) for _ in range(int(10 * BURST_S))] == [0] * 20
    assert limit.take("a", 0.0) == 1
    assert [limit.take("a", 1.0) for _ in range(11)] == [0] * 10 + [1]
    assert [limit.take("a", 100.0) for _ in range(21)] == [0] * 20 + [1]


def test_clients_do_not_pay_for_one_another() -> None:
    """A flood from one address leaves the others their own."""
    limit = RateLimit(1)
    for _ in range(50):
        limit.take("flood", 0.0)
    assert limit.take("flood", 0.0)
    assert limit.take("other", 0.0) == 0


def test_what_is_refused_does_not_count() -> None:
    """A client that asks on and on is served again at the rate, not never."""
    limit = RateLimit(2)
    taken = sum(limit.take("a", step / 100) == 0 for step in range(1000))
    assert 2 * BURST_S + 2 * 9 <= taken <= 2 * BURST_S + 2 * 10


def test_no_more_clients_are_kept_than_the_bound() -> None:
    """A flood from many addresses does not grow the relay; who asked last is kept."""
    limit = RateLimit(1)
    for number in range(MOST_CLIENTS + 500):
        limit.take("steady", 0.0)
        limit.take(str(number), 0.0)
    assert len(limit) == MOST_CLIENTS
    assert limit.take("steady", 0.0) >= 1
