"""Rates and delays of the last seconds, as the status tells them."""

from __future__ import annotations

import pytest

from relay.stats import DelayMeter, RateMeter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tick(meter: RateMeter, clock: Clock, times: int, every_s: float) -> None:
    for _ in range(times):
        clock.now += every_s
        meter.tick()


def test_the_rate_is_that_of_the_window() -> None:
    """Of its events alone, whether or not anybody asked while they came."""
    clock = Clock()
    meter = RateMeter(clock=clock)
    assert meter.rate == 0.0
    assert (meter.age_s, meter.first_age_s) == (None, None)
    tick(meter, clock, 100, 0.01)
    tick(meter, clock, 60, 0.05)
    assert meter.rate == pytest.approx(20.0)
    assert (meter.total, meter.age_s) == (160, 0.0)
    assert meter.first_age_s == pytest.approx(3.99)


def test_a_rate_falls_once_events_stop() -> None:
    """To nothing at the end of the window; when the last one was is still known."""
    clock = Clock()
    meter = RateMeter(clock=clock)
    tick(meter, clock, 60, 0.04)
    clock.now += 1.0
    assert 0.0 < meter.rate < 20.0
    clock.now += 1.0
    assert meter.rate == 0.0
    assert meter.age_s == pytest.approx(2.0)


def test_more_events_than_are_kept_shorten_the_window() -> None:
    """A meter that nobody reads holds no more than its capacity, and its rate stays right."""
    clock = Clock()
    meter = RateMeter(capacity=50, clock=clock)
    tick(meter, clock, 100, 0.002)
    tick(meter, clock, 10_000, 0.001)
    assert meter.rate == pytest.approx(1000.0)
    assert meter.total == 10_100
    assert len(meter._times) == 50


def test_percentiles_are_those_of_the_window() -> None:
    """What is older counts in the histogram alone."""
    clock = Clock()
    meter = DelayMeter(clock=clock)
    assert meter.percentiles_ms() is None
    for _ in range(50):
        meter.add(3.0)
    clock.now += 5.0
    for milliseconds in range(1, 102):
        meter.add(milliseconds / 1000)
    assert meter.percentiles_ms() == {"p50": 76.0, "p95": 3000.0, "p99": 3000.0}
    clock.now += 6.0
    assert meter.percentiles_ms() == {"p50": 51.0, "p95": 96.0, "p99": 100.0}
    clock.now += 6.0
    assert meter.percentiles_ms() is None
    assert sum(meter.histogram.counts) == 151


def test_no_more_than_the_capacity_is_kept() -> None:
    """The newest."""
    clock = Clock()
    meter = DelayMeter(capacity=10, clock=clock)
    for number in range(100):
        meter.add(float(number))
    assert meter.percentiles_ms() == {"p50": 94_000.0, "p95": 99_000.0, "p99": 99_000.0}
