"""A tally as Prometheus reads it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from relay import __version__
from relay.build import commit
from relay.observe.metric_families import FAMILIES, PREFIX, Family, Kind
from relay.observe.tally import Series, Tally
from relay.stats import BOUNDS_S, Histogram

SESSION_LABEL = "session_id"

Named = Iterable[tuple[str, Tally]]
"""Tallies with what to put as their session; empty for the relay's own and for ended ones."""


def expose(tallies: Named, accept: str, *, per_session: bool) -> tuple[bytes, str]:
    """The text of a scrape. Takes milliseconds, and touches nothing that changes: for a thread.

    Args:
        tallies: each of these becomes series; equal series of several add up.
        accept: the scraper's Accept header, which chooses between the formats.
        per_session: whether what sessions measure is labelled with them.

    Returns:
        The body and its Content-Type.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(_merged(tallies, per_session), per_session))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = _encoder(accept)
    return encode(registry), content_type


def build_info() -> tuple[str, ...]:
    """Labels of the metric of that name."""
    return __version__, commit(), platform.python_version(), version("aiortc"), version("av")


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # it compares versions, and takes any word for one
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def _merged(tallies: Named, per_session: bool) -> dict[str, Tally]:
    merged: dict[str, Tally] = {}
    for session_id, tally in tallies:
        merged.setdefault(session_id if per_session else "", Tally()).add(tally)
    return merged


class _Snapshot(Collector):
    """Read once."""

    def __init__(self, tallies: Mapping[str, Tally], per_session: bool) -> None:
        self._tallies = tallies
        self._per_session = per_session

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Any] = {}
        for session_id, tally in self._tallies.items():
            values: Iterable[tuple[Series, Any]] = (
                *tally.totals.items(),
                *tally.gauges.items(),
                *tally.worst.items(),
                *tally.histograms.items(),
            )
            for series, value in values:
                family = FAMILIES[series.metric]
                metric = families.get(family.name)
                if metric is None:
                    metric = families[family.name] = self._new(family)
                labels = list(series.labels)
                if self._per_session and family.of_sessions:
                    labels.append(session_id)
                if isinstance(value, Histogram):
                    metric.add_metric(labels, buckets=_buckets(value), sum_value=value.sum_s)
                else:
                    metric.add_metric(labels, value)
        for name in FAMILIES:
            if name in families:
                yield families[name]

    def _new(self, family: Family) -> Any:
        labels = list(family.labels)
        if self._per_session and family.of_sessions:
            labels.append(SESSION_LABEL)
        make = {
            Kind.COUNTER: CounterMetricFamily,
            Kind.GAUGE: GaugeMetricFamily,
            Kind.HISTOGRAM: HistogramMetricFamily,
        }[family.kind]
        return make(PREFIX + family.name, family.help, labels=labels)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    buckets, seen = [], 0
    for bound_s, count in zip((*BOUNDS_S, float("inf")), histogram.counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound_s == float("inf") else str(bound_s), float(seen)))
    return buckets
