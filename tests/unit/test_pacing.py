"""Frames in flight, and what is skipped when the server is slow."""

from __future__ import annotations

import asyncio

from relay.pacing import FlightControl, OverloadRule


async def test_the_sender_waits_for_room() -> None:
    """At the limit it waits; a return lets exactly one more go."""
    under_way = 2
    flight = FlightControl(2, lambda: under_way)
    waiting = asyncio.create_task(flight.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    flight.returned()
    await asyncio.sleep(0)
    assert not waiting.done(), "woken, but there is still no room"
    under_way = 1
    flight.returned()
    await waiting


def test_a_hiccup_skips_nothing() -> None:
    """A short backlog that is worked off is not overload."""
    rule = OverloadRule(patience_s=0.1)
    waiting_at = [(1, 0.0), (3, 0.08), (2, 0.1), (1, 0.12), (1, 0.15)]
    assert not any(rule.should_skip(waiting, at) for waiting, at in waiting_at)


def test_a_slow_server_gets_the_newest_only() -> None:
    """Once frames have waited longer than the patience, each take skips to the newest."""
    rule = OverloadRule(patience_s=0.1)
    decisions = [rule.should_skip(3, n * 0.1) for n in range(6)]
    assert decisions == [False, False, True, True, True, True]


def test_a_server_that_recovers_gets_every_frame_again() -> None:
    """After a few takes with nothing waiting behind, a hiccup is a hiccup again."""
    rule = OverloadRule(patience_s=0.1, recover_takes=3)
    for n in range(4):
        rule.should_skip(3, n * 0.1)
    assert rule.overloaded
    for n in range(3):
        assert not rule.should_skip(1, 1 + n * 0.03)
    assert not rule.overloaded
    assert not rule.should_skip(2, 1.1)
