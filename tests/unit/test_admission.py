"""Who is let in and who is not, by figures alone."""

from __future__ import annotations

import pytest

from relay.observe.load_meter import CODEC_WAIT_LIMIT_S, LOOP_LAG_LIMIT_S, Load
from relay.session.admission import ENOUGH, WINDOW_S, Admission


def after(seconds: list[tuple[Load, int]], limit: float = 0.9) -> Admission:
    admission = Admission(limit)
    for load, sessions in seconds:
        admission.note(load, sessions)
    return admission


def steady(load: Load, sessions: int, seconds: int = WINDOW_S) -> list[tuple[Load, int]]:
    return [(load, sessions)] * seconds


@pytest.mark.parametrize(
    ("cpu", "running", "room"),
    [(0.15, 1, True), (0.45, 2, True), (0.75, 5, True), (0.80, 5, False), (0.90, 6, False)],
)
def test_one_more_is_expected_to_cost_what_one_costs(cpu: float, running: int, room: bool) -> None:
    """Five at 75 % leave room for a sixth at 15; five at 80 % do not."""
    refusal = after(steady(Load(cpu=cpu), running)).refusal(running)
    assert (refusal is None) is room
    if refusal is not None:
        assert (refusal.code, refusal.http_status) == ("overloaded", 503)
        assert refusal.retry_after_s > 0
        assert "RELAY_MAX_LOAD is 90%" in refusal.message


def test_the_event_loop_has_one_core_however_many_there_are() -> None:
    """A tenth of a large machine may be all that its one thread can do."""
    busy_loop = Load(cpu=0.1, loop=0.89)
    assert after(steady(busy_loop, 40)).refusal(40) is not None
    assert after(steady(Load(cpu=0.1, loop=0.6), 40)).refusal(40) is None


def test_those_that_have_just_come_count() -> None:
    """Four at 15 % each, two more in this very second: there is no room for a seventh."""
    admission = after(steady(Load(cpu=0.6), 4))
    assert admission.refusal(5) is None
    assert admission.refusal(6) is not None


def test_those_that_have_just_gone_do_not() -> None:
    """What they took is free at once, and what they kept waiting waits no more."""
    admission = after(steady(Load(cpu=0.95, codec_wait_s=0.1), 6))
    assert admission.refusing
    assert admission.refusal(6) is not None
    assert admission.refusal(3) is None
    assert admission.refusal(0) is None


@pytest.mark.parametrize("hiccup", [Load(cpu=1.0, loop=1.0, codec_wait_s=2.0, loop_lag_s=3.0)])
@pytest.mark.parametrize("at", range(WINDOW_S))
def test_a_quiet_machine_survives_a_hiccup(hiccup: Load, at: int) -> None:
    """One second of standstill, wherever it lies in the window, refuses nobody."""
    quiet = steady(Load(cpu=0.1, codec_wait_s=0.001), 2)
    quiet[at] = hiccup, 2
    assert after(quiet).refusal(2) is None


@pytest.mark.parametrize(
    ("load", "room"),
    [
        (Load(cpu=0.3, codec_wait_s=0.5 * CODEC_WAIT_LIMIT_S), True),
        (Load(cpu=0.3, codec_wait_s=1.1 * CODEC_WAIT_LIMIT_S), False),
        (Load(cpu=0.3, loop_lag_s=0.5 * LOOP_LAG_LIMIT_S), True),
        (Load(cpu=0.3, loop_lag_s=1.1 * LOOP_LAG_LIMIT_S), False),
    ],
)
def test_what_waits_counts_also_where_others_take_the_cpu(load: Load, room: bool) -> None:
    """A machine that others keep busy has no room, however little the relay takes itself."""
    assert (after(steady(load, 2)).refusal(2) is None) is room


def test_nothing_is_known_at_the_start() -> None:
    """And nobody refused; nor is it taken from seconds without a session."""
    full = Load(cpu=1.0, codec_wait_s=1.0)
    assert Admission(0.9).refusal(0) is None
    assert after(steady(full, 1, ENOUGH - 1)).refusal(1) is None
    assert after(steady(Load(cpu=1.0), 0)).refusal(0) is None


def test_a_relay_without_sessions_takes_one_however_busy_the_machine_is() -> None:
    """What strains it is others' work, which nothing here can end."""
    others = Load(cpu=0.1, loop_lag_s=0.2)
    assert after(steady(others, 1)).refusal(1) is not None
    assert after(steady(others, 0)).refusal(0) is None


def test_a_refusal_ends_when_there_is_clearly_room() -> None:
    """At the limit it does not come and go."""
    admission = after(steady(Load(cpu=0.85), 8))
    assert admission.refusing
    for _ in range(WINDOW_S):
        admission.note(Load(cpu=0.78), 8)
    assert admission.refusing
    for _ in range(WINDOW_S):
        admission.note(Load(cpu=0.70), 8)
    assert not admission.refusing
    assert admission.refusal(8) is None


def test_the_limit_can_be_lowered_and_switched_off() -> None:
    """RELAY_MAX_LOAD."""
    full = steady(Load(cpu=1.0, codec_wait_s=1.0, loop_lag_s=1.0), 10)
    assert after(full, limit=0.0).refusal(10) is None
    half = steady(Load(cpu=0.4), 4)
    assert after(half, limit=0.9).refusal(4) is None
    assert after(half, limit=0.45).refusal(4) is not None
