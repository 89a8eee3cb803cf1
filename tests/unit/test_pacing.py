"""Frames in flight, and what is skipped when the server is slow."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import median
from typing import cast

import pytest

from relay.media.access_unit import CLOCK_RATE
from relay.media.timeline import FrameIdentifier, SentFrame, StampIssuer
from relay.webrtc.overload import OverloadRule
from relay.webrtc.pacing import (
    PASSTHROUGH,
    WORKFLOW,
    WORKFLOW_COMPLETE,
    FlightControl,
    FlightLimits,
)


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
    assert flight.audit.count == 0


def test_the_frame_sent_last_is_late_ever_more_rarely() -> None:
    """After more than a usual round trip, then twice that, until another is sent or came back."""
    now = 0.0
    under_way: list[float] = []
    flight = FlightControl(
        WORKFLOW, lambda: list(under_way), under_way.clear, lambda: 1 / 30, lambda: now
    )
    assert flight.late_in() is None
    under_way.append(now)
    flight.sent()
    assert flight.late_in() is None, "nothing is known of the way yet"
    under_way.clear()
    flight.returned(0.0, 0.1)
    assert flight.late_in() is None
    now = 1.0
    under_way.append(now)
    flight.sent()
    waits = []
    while (late_in := flight.late_in()) is not None:
        now += late_in
        waits.append(now - 1.0)
        flight.recovered()
    assert waits == pytest.approx([0.23, 0.46, 0.92, 1.84, 3.68])
    flight.sent()
    assert flight.late_in() is not None


@pytest.mark.parametrize(("limits", "late_s"), [(PASSTHROUGH, 0.05), (WORKFLOW, 0.032)])
def test_where_frames_are_passed_through_the_next_one_shows_a_loss(
    limits: FlightLimits, late_s: float
) -> None:
    """So it is waited for, a frame and a half; a timer would end just before each frame."""
    under_way: list[float] = []
    flight = FlightControl(
        limits, lambda: list(under_way), under_way.clear, lambda: 1 / 30, lambda: 1.0
    )
    flight.sent()
    flight.returned(0.999, 1.0)
    under_way.append(1.0)
    flight.sent()
    assert flight.late_in() == pytest.approx(late_s)


class SimulatedServer:
    """A ComfyStream workflow behind a long way: one frame in work, one waiting, the rest dropped,
    and of what is dropped the labels kept.

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
        """Which frames, by number, are dropped though there is room."""
        self.delay_s: dict[int, float] = {}
        """By how much frames, by number, come back later than they would; those behind wait."""
        self.sent = 0
        self.returns: list[tuple[float, int, int]] = []
        """When each frame is back, its label and the stamp of the picture."""
        self._service_s = service_s
        self._way_s = way_s
        self._handover_s = handover_s
        self._waiting: int | None = None
        self._busy_until = -1.0
        self._in_work: int | None = None
        self._free_at = 0.0
        self._arriving: list[tuple[float, int, int]] = []
        self._labels: list[int] = []
        self._numbers: dict[int, int] = {}

    def send(self, now: float, stamp: int) -> None:
        self._arriving.append((now + self._way_s, stamp, self.sent))
        self._numbers[stamp] = self.sent
        self.sent += 1

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
                back_at = done + self._way_s + self.delay_s.get(self._numbers[self._in_work], 0.0)
                if self.returns:
                    back_at = max(back_at, self.returns[-1][0])
                self.returns.append((back_at, self._labels.pop(0), self._in_work))
                self._in_work = None
                self._free_at = done + self._handover_s
            elif taken <= arrival:
                assert self._waiting is not None
                self._begin(self._waiting, taken)
                self._waiting = None
            else:
                _, stamp, number = self._arriving.pop(0)
                self._labels.append(stamp)
                if number in self.lose:
                    continue
                self.dropped += self._waiting is not None
                self._waiting = stamp
                self._free_at = max(self._free_at, arrival)

    def _begin(self, stamp: int, now: float) -> None:
        self._in_work = stamp
        self._busy_until = now + self._service_s(now)


@dataclass(frozen=True, slots=True)
class Back:
    """A frame that came back."""

    at: float
    said: float
    """When the frame was born that it is taken for."""
    shown: float
    """When the frame was born whose picture it is."""

    @property
    def right(self) -> bool:
        return self.said == self.shown


def simulate(
    server: SimulatedServer, seconds: float, fps: float = 30.0, limits: FlightLimits = WORKFLOW
) -> list[Back]:
    """A live source before `server`, the newest frame sent whenever there is room. Steps of a
    millisecond."""
    now = 0.0
    issuer = StampIssuer(round(CLOCK_RATE / fps), seed=1)
    identifier = FrameIdentifier()
    born: dict[int, float] = {}
    flight = FlightControl(
        limits,
        identifier.under_way,
        lambda: identifier.give_up_before(math.inf),
        lambda: 1 / fps,
        lambda: now,
    )
    newest: float | None = None
    frames = 0
    back: list[Back] = []
    while now < seconds:
        if frames / fps <= now:
            newest = now
            frames += 1
        server.advance(now)
        while server.returns and server.returns[0][0] <= now:
            at, label, stamp = server.returns.pop(0)
            for hit in identifier.identify(label + 12345, now, (at, stamp)):
                returned_at, shown = cast(tuple[float, int], hit.returned)
                flight.returned(hit.sent.sent_at, returned_at)
                back.append(Back(now, hit.sent.arrived_at, born[shown]))
        if newest is not None and flight.room_in() <= 0:
            stamp = issuer.issue()
            born[stamp] = newest
            identifier.remember(SentFrame(stamp, None, newest, now))
            newest = None
            flight.sent()
            server.send(now, stamp)
        now = round(now + 0.001, 6)
    return back


def rate(back: list[Back], start: float, end: float) -> float:
    return sum(start <= one.at < end for one in back) / (end - start)


@pytest.mark.parametrize("way_ms", [3, 20, 50, 100])
@pytest.mark.parametrize("service_ms", [5, 20, 30])
def test_a_server_that_keeps_up_gets_every_frame(service_ms: int, way_ms: int) -> None:
    """However long the way, the full rate goes through but for what an audit takes, and nothing
    is dropped inside."""
    server = SimulatedServer(lambda _: service_ms / 1000, way_ms / 1000)
    back = simulate(server, 8)
    assert server.dropped == 0
    assert rate(back, 3, 8) >= 30 * (1 - 0.04) - 30 * 2 * way_ms / 1000 / 5


@pytest.mark.parametrize("way_ms", [3, 20, 50])
@pytest.mark.parametrize("service_ms", [66, 100, 200])
def test_a_slow_server_is_kept_busy_and_never_drops(service_ms: int, way_ms: int) -> None:
    """5, 10 and 15 fps: used to within a tenth, nothing dropped inside, fresh frames only."""
    server = SimulatedServer(lambda _: service_ms / 1000, way_ms / 1000)
    back = simulate(server, 10)
    assert server.dropped == 0
    assert rate(back, 3, 10) >= 0.9 * 1000 / service_ms
    ages = [one.at - one.shown for one in back if one.at > 3]
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
    ages = [one.at - one.shown for one in back if one.at > 3]
    assert median(ages) <= (1.5 * service_ms + 2 * way_ms + 10 + 35) / 1000


@pytest.mark.parametrize("service_ms", [20, 50, 400, 1500])
def test_where_nothing_may_be_dropped_a_server_may_be_as_late_as_it_likes(service_ms: int) -> None:
    """It takes 80 ms from one frame to the next, and finds none waiting."""
    random = Random(service_ms)
    server = SimulatedServer(
        lambda _: service_ms / 1000 * random.uniform(0.5, 2.5), 0.005, handover_s=0.08
    )
    back = simulate(server, 30, limits=WORKFLOW_COMPLETE)
    assert server.dropped == 0
    assert len(back) > 0.4 * 30 * 1000 / (1.5 * service_ms + 90)
    assert all(one.right for one in back)


@pytest.mark.parametrize("service_ms", [20, 400])
def test_where_nothing_may_be_dropped_one_that_is_lost_stops_nothing(service_ms: int) -> None:
    """The first, or one in the middle: sending goes on."""
    server = SimulatedServer(lambda _: service_ms / 1000, 0.005)
    server.lose = {0, 20}
    back = simulate(server, 30, limits=WORKFLOW_COMPLETE)
    gaps = [after.at - before.at for before, after in pairwise(back)]
    assert back[0].at < 3
    assert max(gaps) < 5
    assert rate(back, 24, 30) > 0.9 * min(30, 1000 / (service_ms + 10))


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
    gaps = [after.at - before.at for before, after in pairwise(back)]
    assert max(gaps[5:]) < 1.0
    assert rate(back, 6, 8) >= 9


def test_the_rate_follows_a_server_that_speeds_up_and_slows_down() -> None:
    """10 fps, then full rate within two seconds, then 10 fps again without a drop."""
    server = SimulatedServer(lambda now: 0.01 if 4 <= now < 8 else 0.1, 0.02)
    back = simulate(server, 12)
    assert rate(back, 6, 8) == pytest.approx(30, rel=0.03)
    assert rate(back, 10, 12) >= 9
    assert server.dropped == 0


@pytest.mark.parametrize("way_ms", [3, 20, 60])
@pytest.mark.parametrize("service_ms", [5, 30, 50, 100])
@pytest.mark.parametrize("lost", [1, 2])
def test_labels_are_right_again_soon_after_a_drop(lost: int, service_ms: int, way_ms: int) -> None:
    """Whatever the pace and the way: no picture gets another time but that of one of the few
    frames sent right before it, the times are right again within a second, the rate is too."""
    random = Random(service_ms)
    server = SimulatedServer(
        lambda _: service_ms / 1000 * random.uniform(0.9, 1.1), way_ms / 1000, handover_s=0.002
    )
    interval_s = max(1 / 30, service_ms / 1000)
    first = round(4.5 / interval_s)
    server.lose = {first + n for n in range(lost)}
    back = simulate(server, 12)
    wrong = [one for one in back if not one.right]
    assert all(0 < one.shown - one.said <= (lost + 1) * interval_s + 1 / 30 for one in wrong)
    assert not wrong or wrong[-1].at - wrong[0].at < 1
    assert rate(back, 8, 12) >= 0.85 / interval_s


@pytest.mark.parametrize("way_ms", [3, 20])
@pytest.mark.parametrize("service_ms", [5, 30, 100])
def test_a_stall_mislabels_next_to_nothing_and_buries_nobody(service_ms: int, way_ms: int) -> None:
    """Three seconds without a return: a handful of frames is sent meanwhile, a dozen pictures at
    most are far off afterwards, and times and rate are right again within a second or so."""
    stalls = [3.0]
    server = SimulatedServer(
        lambda now: stalls.pop() if stalls and now > 5 else service_ms / 1000, way_ms / 1000
    )
    back = simulate(server, 12)
    assert server.dropped < 12
    resumed_at = next(one.at for one in back if one.at > 7.9)
    wrong = [one for one in back if not one.right]
    assert all(resumed_at <= one.at < resumed_at + 1 for one in wrong)
    assert sum(abs(one.said - one.shown) > 2 / 30 for one in wrong) <= 12
    assert rate(back, resumed_at + 1.5, 12) >= 0.8 * min(30, 1000 / service_ms)


@pytest.mark.parametrize("way_ms", [3, 20])
@pytest.mark.parametrize("service_ms", [5, 30, 100])
@pytest.mark.parametrize("delay_s", [0.45, 0.6, 1.0, 1.9])
def test_a_frame_that_was_given_up_and_comes_after_all_mislabels_next_to_nothing(
    delay_s: float, service_ms: int, way_ms: int
) -> None:
    """A packet is lost and comes at last, when the frame was taken for dropped: what comes back is
    taken for the next frame, and the one after shows it."""
    server = SimulatedServer(lambda _: service_ms / 1000, way_ms / 1000)
    interval_s = max(1 / 30, service_ms / 1000)
    server.delay_s = {round(n / interval_s): delay_s for n in (4.5, 7.5, 10.5)}
    back = simulate(server, 22)
    assert server.dropped == 0
    wrong = [one for one in back if not one.right]
    assert len(wrong) <= 3 * 4, [(one.at, one.said - one.shown) for one in wrong]
    assert rate(back, 20, 22) >= 0.85 / interval_s


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
