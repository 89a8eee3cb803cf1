"""What has been counted, measured and found, under the names of the metrics.

A session makes a tally of itself when it is asked; tallies add up. Those of sessions that have
ended are kept as one sum, so that no total ever goes back. `relay.observe.metric_families` has all
the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from relay.observe.metric_families import FAMILIES, Kind
from relay.stats import Histogram


class Series(NamedTuple):
    """One series: a metric and the values of its labels, in the family's order."""

    metric: str
    labels: tuple[str, ...] = ()


class Tally:
    """Figures of one session, or of many."""

    def __init__(self) -> None:
        self.totals: Counter[Series] = Counter()
        """Only ever grow."""
        self.histograms: dict[Series, Histogram] = {}
        self.gauges: Counter[Series] = Counter()
        """How things stand: they add up."""
        self.worst: dict[Series, float] = {}
        """How things stand: the largest counts."""

    def count(self, metric: str, *labels: str, by: float) -> None:
        """So many more."""
        self.totals[_series(metric, labels, Kind.COUNTER)] += by  # type: ignore[assignment]

    def each(self, metric: str, counts: Mapping[str, float], *labels: str) -> None:
        """So many more of each; the key of `counts` is the last label."""
        for key, by in counts.items():
            self.count(metric, *labels, key, by=by)

    def measured(self, metric: str, *labels: str, histogram: Histogram) -> None:
        """Durations; `histogram` stays the caller's."""
        series = _series(metric, labels, Kind.HISTOGRAM)
        self.histograms.setdefault(series, Histogram()).add_all(histogram)

    def stands(self, metric: str, *labels: str, at: float = 1) -> None:
        """A gauge that adds up."""
        self.gauges[_series(metric, labels, Kind.GAUGE)] += at  # type: ignore[assignment]

    def at_worst(self, metric: str, *labels: str, at: float) -> None:
        """A gauge of which the largest value counts."""
        series = _series(metric, labels, Kind.GAUGE)
        self.worst[series] = max(at, self.worst.get(series, at))

    def add(self, other: Tally) -> None:
        """All of `other`, its present state included."""
        self.add_past(other)
        self.gauges.update(other.gauges)
        for series, value in other.worst.items():
            self.worst[series] = max(value, self.worst.get(series, value))

    def add_past(self, other: Tally) -> None:
        """What `other` has counted and measured; its present state is over."""
        self.totals.update(other.totals)
        for series, histogram in other.histograms.items():
            self.histograms.setdefault(series, Histogram()).add_all(histogram)


def _series(metric: str, labels: tuple[str, ...], kind: Kind) -> Series:
    family = FAMILIES[metric]
    assert family.kind is kind, metric
    assert len(family.labels) == len(labels), metric
    return Series(metric, labels)
