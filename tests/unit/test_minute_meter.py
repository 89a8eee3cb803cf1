"""Frame rates second by second, as ComfyStream's dashboards read them."""

from __future__ import annotations

from relay.stats import MinuteMeter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_whole_second_of_the_last_minute() -> None:
    """Seconds without a frame count; the one that is not over does not."""
    clock = Clock()
    meter = MinuteMeter(clock)
    assert meter.report() == {
        "timestamp": 0.0,
        "fps": 0.0,
        "minute_avg_fps": 0.0,
        "minute_fps_array": [],
    }
    for count in (30, 0, 15):
        start = clock.now
        for number in range(count):
            clock.now = start + number / 100
            meter.tick()
        clock.now = start + 1
    report = meter.report()
    assert (report["timestamp"], report["fps"], report["minute_avg_fps"]) == (3.0, 15.0, 15.0)
    assert report["minute_fps_array"] == [
        {"timestamp": 1.0, "fps": 30.0},
        {"timestamp": 2.0, "fps": 0.0},
        {"timestamp": 3.0, "fps": 15.0},
    ]


def test_no_more_than_a_minute_is_kept() -> None:
    """After an hour there are sixty measurements, and nothing older behind them."""
    clock = Clock()
    meter = MinuteMeter(clock)
    for _ in range(3600):
        meter.tick()
        clock.now += 1
    report = meter.report()
    assert len(report["minute_fps_array"]) == 60
    assert report["minute_avg_fps"] == 1.0
    clock.now += 3600
    assert meter.report()["minute_avg_fps"] == 0.0
