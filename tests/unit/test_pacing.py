"""Frames in flight, and what is skipped when the server is slow."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise
from random import Random
from statistics import median

import pytest

from relay.pacing import WORKFLOW, FlightControl, OverloadRule


async def test_the_sender_waits_for_room() -> None:
    """With two under way and nothing known of the server, only a return makes room."""
    under_way = 2
    flight = FlightControl(
        WORKFLOW, lambda: [0.0] * under_way, lambda: None, lambda: 1 / 30, lambda: 1.0
    )
    waiting = asyncio.create_task(flight.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    flight.wake()
    await asyncio.sleep(0)
    assert not waiting.done(), "woken, but there is still no room"
    under_way = 0
    flight.returned(0.5, 1.0)
    await waiting


def test_what_an_audit_gives_up_makes_room_at_once() -> None:
    """Nothing else would ever wake the sender: with nothing under way nothing comes back."""
    now = 0.0
    under_way: list[float] = []
    flight = FlightControl(
        WORKFLOW, lambda: list(under_way), under_way.clear, lambda: 1 / 30, lambda: now
    )
    assert flight.room_in() == 0
    under_way += [0.0, 0.01]
    flight.returned(0.0, 0.02)
    now = 1.0  # busy without a break for longer than FIRST_AUDIT_S, and long past all patience
    assert flight.room_in() == 0
    assert under_way == []


@pytest.mark.parametrize("quiet_s", [0.6, 1.0, 5.0])
def test_a_frame_after_a_pause_is_given_its_time(quiet_s: float) -> None:
    """Patience begins when a frame is sent, not when the one before it came back: a source of one
    frame a second has nothing under way for most of the time."""
    now = 0.0
    under_way: list[float] = []
    flight = FlightControl(
        WORKFLOW, lambda: list(under_way), under_way.clear, lambda: 1, lambda: now
    )
    for _ in range(5):
        under_way.append(now)
        flight.sent()
        flight.room_in()
        assert under_way == [now], "given up as soon as it was sent"
        under_way.clear()
        flight.returned(now, now + 0.02)
        now += 0.02
        assert flight.room_in() == 0
        now += quiet_s
    assert flight.audits == 0


class SimulatedServer:
    """A ComfyStream workflow behind a long way: one frame in work, one waiting, the rest dropped.

    Args:
        service_s: what the workflow takes per frame, by time.
        way_s: there, and back again.
        handover_s: from the end of one frame's work, when it returns, to taking the next.
    """

    def __init__(
        self, service_s: Callable[[float], float], way_s: float, handover_s: float = 0.0
    ) -> None:
        self.dropped = 0
        self.lose: set[int] = set()
        """Which frames, by number, vanish on the way."""
        self.sent = 0
        self.returns: list[tuple[float, float]] = []
        self._service_s = service_s
        self._way_s = way_s
        self._handover_s = handover_s
        self._waiting: float | None = None
        self._busy_until = -1.0
        self._in_work: float | None = None
        self._free_at = 0.0
        self._arriving: list[tuple[float, float]] = []

    def send(self, now: float) -> None:
        self.sent += 1
        if self.sent - 1 in self.lose:
            return
        self._arriving.append((now + self._way_s, now))

    def advance(self, now: float) -> None:
        while True:
            arrival = self._arriving[0][0] if self._arriving else math.inf
            done = self._busy_until if self._in_work is not None else math.inf
            idle = self._in_work is None and self._waiting is not None
            taken = self._free_at if idle else math.inf
            if min(arrival, done, taken) > now:
                return
            if done <= min(arrival, taken):
                assert self._in_work is not None
                self.returns.append((done + self._way_s, self._in_work))
                self._in_work = None
                self._free_at = done + self._handover_s
            elif taken <= arrival:
                assert self._waiting is not None
                self._begin(self._waiting, taken)
                self._waiting = None
            else:
                _, sent_at = self._arriving.pop(0)
                self.dropped += self._waiting is not None
                self._waiting = sent_at
                self._free_at = max(self._free_at, arrival)

    def _begin(self, sent_at: float, now: float) -> None:
        self._in_work = sent_at
        self._busy_until = now + self._service_s(now)


def simulate(
    server: SimulatedServer, seconds: float, fps: float = 30.0
) -> list[tuple[float, float]]:
    """A live source before `server`, the newest frame sent whenever there is room; returns
    (returned at, arrived at) of each frame that came back. Steps of a millisecond."""
    now = 0.0
    under_way: list[float] = []
    born: dict[float, float] = {}
    flight = FlightControl(
        WORKFLOW, lambda: under_way, under_way.clear, lambda: 1 / fps, lambda: now
    )
    newest: float | None = None
    frames = 0
    back: list[tuple[float, float]] = []
    while now < seconds:
        if frames / fps <= now:
            newest = now
            frames += 1
        server.advance(now)
        while server.returns and server.returns[0][0] <= now:
            _, sent_at = server.returns.pop(0)
            if sent_at not in under_way:
                continue
            under_way.remove(sent_at)
            flight.returned(sent_at, now)
            back.append((now, born[sent_at]))
        if newest is not None and flight.room_in() <= 0:
            under_way.append(now)
            born[now] = newest
            newest = None
            flight.sent()
            server.send(now)
        now = round(now + 0.001, 6)
    return back


def rate(back: list[tuple[float, float]], start: float, end: float) -> float:
    return sum(start <= at < end for at, _ in back) / (end - start)


@pytest.mark.parametrize("way_ms", [3, 20, 50, 100])
@pytest.mark.parametrize("service_ms", [5, 20, 30])
def test_a_server_that_keeps_up_gets_every_frame(service_ms: int, way_ms: int) -> None:
    """However long the way, the full rate goes through and nothing is dropped inside."""
    server = SimulatedServer(lambda _: service_ms / 1000, way_ms / 1000)
    back = simulate(server, 8)
    assert server.dropped == 0
    assert rate(back, 3, 8) == pytest.approx(30, rel=0.04)


@pytest.mark.parametrize("way_ms", [3, 20, 50])
@pytest.mark.parametrize("service_ms", [66, 100, 200])
def test_a_slow_server_is_kept_busy_and_never_drops(service_ms: int, way_ms: int) -> None:
    """5, 10 and 15 fps: used to within a tenth, nothing dropped inside, fresh frames only."""
    server = SimulatedServer(lambda _: service_ms / 1000, way_ms / 1000)
    back = simulate(server, 10)
    assert server.dropped == 0
    assert rate(back, 3, 10) >= 0.9 * 1000 / service_ms
    ages = [at - born for at, born in back if at > 3]
    assert max(ages) <= (2 * service_ms + 2 * way_ms + 40) / 1000


@pytest.mark.parametrize("way_ms", [3, 20])
@pytest.mark.parametrize("service_ms", [50, 66, 100, 200])
def test_what_follows_upon_a_return_pushes_nothing_out(service_ms: int, way_ms: int) -> None:
    """A server that takes 10 ms from one frame to the next, and varies by a fifth, never finds
    two frames waiting, is kept busy, and what it gets is no more than half a frame's time old."""
    random = Random(service_ms)
    server = SimulatedServer(
        lambda _: service_ms / 1000 * random.uniform(0.8, 1.2), way_ms / 1000, handover_s=0.01
    )
    back = simulate(server, 20)
    assert server.dropped == 0
    assert rate(back, 3, 20) >= 0.95 * 1000 / (service_ms + 10)
    ages = [at - born for at, born in back if at > 3]
    assert median(ages) <= (1.5 * service_ms + 2 * way_ms + 10 + 35) / 1000


def test_until_the_first_return_a_server_is_let_alone() -> None:
    """One frame, another a second later, and no third: it may load, and holds two."""
    server = SimulatedServer(lambda _: 30.0, 0.003)
    simulate(server, 0.9)
    assert server.sent == 1
    server = SimulatedServer(lambda _: 30.0, 0.003)
    simulate(server, 5)
    assert (server.sent, server.dropped) == (2, 0)


def test_a_frame_that_went_missing_is_found_with_the_next_one_overdue() -> None:
    """Not only when an audit is due anyway: sending goes on within a second."""
    server = SimulatedServer(lambda _: 0.1, 0.003)
    server.lose = {40}
    back = simulate(server, 8)
    gaps = [after - before for (before, _), (after, _) in pairwise(back)]
    assert max(gaps[5:]) < 1.0
    assert rate(back, 6, 8) >= 9


def test_the_rate_follows_a_server_that_speeds_up_and_slows_down() -> None:
    """10 fps, then full rate within two seconds, then 10 fps again without a drop."""
    server = SimulatedServer(lambda now: 0.01 if 4 <= now < 8 else 0.1, 0.02)
    back = simulate(server, 12)
    assert rate(back, 6, 8) == pytest.approx(30, rel=0.03)
    assert rate(back, 10, 12) >= 9
    assert server.dropped == 0


def test_an_audit_finds_what_the_server_dropped() -> None:
    """Frames that will never come back are given up at the first audit, and sending goes on."""
    lost = SimulatedServer(lambda _: 0.01, 0.02)
    lost.lose = {10, 11}
    back = simulate(lost, 6)
    assert rate(back, 3, 6) == pytest.approx(30, rel=0.04)


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
