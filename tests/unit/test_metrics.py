"""Metrics: what is counted comes out under its name, adds up, and never goes back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from relay.observe.metric_families import FAMILIES, PREFIX, Kind
from relay.observe.metrics import expose
from relay.observe.tally import Tally
from relay.stats import BOUNDS_S, Histogram
from tests.unit.test_docs import ROOT, first_cells

DOCS = ROOT / "docs" / "metrics.md"
MONITORING = ROOT / "docs" / "monitoring"


def scraped(*tallies: tuple[str, Tally], per_session: bool = False) -> dict[str, float]:
    """Each of our series with its value, as ``name{label="value"}``."""
    body, content_type = expose(tallies, "", per_session=per_session)
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        sample.name.removeprefix(PREFIX)
        + "".join(f"|{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    }


def session(frames: int = 10, *, rtt_s: float = 0.01, depth: int = 1) -> Tally:
    tally = Tally()
    tally.count("frames_total", "decoded", "video", by=frames)
    tally.each("frames_dropped_total", {"overflow": 2}, "decoded_frames", "video")
    tally.stands("queue_depth", "decoded_frames", at=depth)
    tally.at_worst("webrtc_rtt_seconds", at=rtt_s)
    delays = Histogram()
    for delay_s in (0.004, 0.005, 0.2, 99.0):
        delays.add(delay_s)
    tally.measured("end_to_end_latency_seconds", histogram=delays)
    return tally


def test_sessions_add_up() -> None:
    """Counts, gauges and durations; of a figure that can't be added the worst."""
    found = scraped(("a", session(10, rtt_s=0.3)), ("b", session(5, rtt_s=0.1, depth=4)))
    assert found["frames_total|kind=video|stage=decoded"] == 15
    assert found["frames_dropped_total|kind=video|queue=decoded_frames|reason=overflow"] == 4
    assert found["queue_depth|queue=decoded_frames"] == 5
    assert found["webrtc_rtt_seconds"] == 0.3
    assert found["end_to_end_latency_seconds_count"] == 8
    assert found["end_to_end_latency_seconds_sum"] == pytest.approx(2 * 99.209)


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_a_version_that_is_none_is_answered_with_plain_text(kind: str) -> None:
    """Any client may send any Accept header."""
    body, content_type = expose([("", session())], f"{kind};version=abc", per_session=False)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"frames_total" in body


def test_buckets_hold_what_they_say() -> None:
    """Bounds are inclusive, each bucket has all below it, and the last has all."""
    found = scraped(("a", session()))
    at = {
        name.rpartition("le=")[2]: count
        for name, count in found.items()
        if name.startswith("end_to_end_latency_seconds_bucket")
    }
    assert (at["0.0025"], at["0.005"], at["0.1"], at["0.2"]) == (0, 2, 2, 3)
    assert (at["10.0"], at["+Inf"]) == (3, 4)
    assert len(at) == len(BOUNDS_S) + 1


def test_what_has_ended_stays_counted() -> None:
    """Its totals go on, its gauges are gone; nothing goes back when a session ends."""
    own, first, second = Tally(), session(10), session(20)
    before = scraped(("", own), ("a", first), ("b", second))
    own.add_past(first)
    after = scraped(("", own), ("b", second))
    totals = {name for name in before if re.search(r"_(total|bucket|count|sum)(\||$)", name)}
    assert {name: after[name] for name in totals} == {name: before[name] for name in totals}
    assert after["queue_depth|queue=decoded_frames"] == 1


def test_sessions_are_told_apart_only_where_that_is_asked_for() -> None:
    """What they measure, not what is the relay's; the sum is the same."""
    own = Tally()
    own.stands("codec_threads", at=2)
    own.add_past(session(7))
    tallies = (("", own), ("a", session(10)), ("b", session(5)))
    together, apart = scraped(*tallies), scraped(*tallies, per_session=True)
    assert not any("session_id" in name for name in together)
    assert apart["codec_threads"] == 2
    name = "frames_total|kind=video|session_id={}|stage=decoded"
    assert [apart[name.format(of)] for of in ("", "a", "b")] == [7, 10, 5]
    assert together["frames_total|kind=video|stage=decoded"] == 22
    assert apart["queue_depth|queue=decoded_frames|session_id=a"] == 1


def test_scrapers_may_ask_for_openmetrics() -> None:
    """By their Accept header, as Prometheus does."""
    accept = "application/openmetrics-text; version=1.0.0"
    body, content_type = expose([("a", session())], accept, per_session=False)
    assert content_type.startswith("application/openmetrics-text")
    assert body.rstrip().endswith(b"# EOF")


def test_the_process_shows_itself() -> None:
    """CPU, memory, files: what every dashboard has."""
    body, _ = expose([], "", per_session=False)
    assert b"process_cpu_seconds_total" in body
    assert b"process_open_fds" in body


def test_a_name_that_does_not_exist_is_a_fault() -> None:
    """Nor can a metric be used as another kind, or with other labels."""
    with pytest.raises(KeyError):
        Tally().count("frames", by=1)
    with pytest.raises(AssertionError):
        Tally().stands("frames_total", "decoded", "video")
    with pytest.raises(AssertionError):
        Tally().count("frames_total", "decoded", by=1)


def test_names_follow_the_custom() -> None:
    """Counters end in _total, and nothing else does; durations are in seconds."""
    for family in FAMILIES.values():
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER), family.name
        if family.kind is Kind.HISTOGRAM:
            assert family.name.endswith("_seconds")


def rows() -> dict[str, list[str]]:
    """The table of metrics, by name."""
    table = DOCS.read_text().split("| metric | kind |")[1].split("\n\n")[0]
    cells = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    return {name.strip("`"): [kind, labels, *text] for name, kind, labels, *text in cells}


def test_the_table_is_what_there_is() -> None:
    """Name, kind, labels and words."""
    assert rows() == {
        family.name: [
            family.kind.value,
            ", ".join(f"`{label}`" for label in family.labels),
            family.help,
        ]
        for family in FAMILIES.values()
    }
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_S)
    assert bounds in " ".join(DOCS.read_text().split())


def names_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression uses."""
    return set(re.findall(r"\b(?:trickle_relay|process|python)_\w+", expression))


def known() -> set[str]:
    names = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
    for family in FAMILIES.values():
        ends = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
        names |= {f"{PREFIX}{family.name}{end}" for end in ends}
    return names


def labels_of(expression: str) -> list[tuple[str, set[str]]]:
    """Each metric of an expression that has matchers, with the labels they match."""
    return [
        (name, set(re.findall(r"(\w+)\s*[=!]~?", matchers)))
        for name, matchers in re.findall(r"trickle_relay_(\w+)\{([^}]*)\}", expression)
    ]


def assert_exists(expression: str) -> None:
    assert names_in(expression) <= known(), expression
    for name, labels in labels_of(expression):
        family = FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert labels <= {*family.labels, "instance"}, expression
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    all_labels = {label for family in FAMILIES.values() for label in family.labels}
    for labels_text in grouped:
        assert set(re.split(r",\s*", labels_text)) <= all_labels | {"instance", "le"}, expression


def test_the_dashboard_uses_what_there_is() -> None:
    """Every expression of every panel, with its labels; and each panel has a place of its own."""
    dashboard: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
    panels = dashboard["panels"]
    assert len(panels) > 15
    for panel in panels:
        assert panel["title"]
        for target in panel["targets"]:
            assert_exists(target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in target["expr"] or label == "instance", target
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)


def test_the_alerts_use_what_there_is() -> None:
    """Every rule has an expression, and words for whoever is woken."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 5
    for rule in rules:
        assert re.fullmatch(r"TrickleRelay[A-Za-z]+", rule["alert"])
        assert rule["annotations"]["summary"]
        assert_exists(rule["expr"])


def test_dashboards_would_miss_a_name() -> None:
    """The check itself: a name or a label that does not exist is found."""
    for wrong in ("trickle_relay_frame_total", 'trickle_relay_frames_total{queue="x"}'):
        with pytest.raises((AssertionError, KeyError)):
            assert_exists(wrong)


def test_the_labels_that_are_explained_exist() -> None:
    """And the folder has the files that the page names."""
    assert {path.name for path in MONITORING.iterdir()} == {"alerts.yml", "grafana.json"}
    explained = first_cells(DOCS.read_text().split("| label | values |")[1])
    labels = {label for family in FAMILIES.values() for label in family.labels}
    assert explained <= labels | set(FAMILIES)
