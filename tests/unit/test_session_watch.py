"""What has happened to a session, told once, from its figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relay.observe.event_hub import EventKind
from relay.observe.session_figures import SessionFigures
from relay.observe.session_watch import DROPS_EVERY_S, SessionWatch
from relay.session_health import Health
from relay.session_state import SessionState

WELL = SessionFigures(
    state=SessionState.ACTIVE,
    state_reason="connected",
    health=Health.OK,
    started_s=10.0,
    input_age_s=0.03,
    output_age_s=0.03,
    link="connected",
    first_input_age_s=9.5,
    first_processed_age_s=9.0,
    first_output_age_s=8.875,
    attempts=1,
)


def looked(watch: SessionWatch, now: float = 0.0, **changes: Any) -> list[tuple[str, Any]]:
    """What a look brings, when `changes` have come over a session that is well."""
    return [(kind.value, data) for kind, data in watch.look(replace(WELL, **changes), now)]


def of(kind: EventKind, happened: list[tuple[str, Any]]) -> list[Any]:
    return [data for name, data in happened if name == kind.value]


def test_the_first_look_tells_where_it_stands() -> None:
    """State, first frames with the time they took, health; the second look has no news."""
    watch = SessionWatch()
    assert looked(watch) == [
        ("state", {"old": None, "new": "active", "reason": "connected"}),
        ("first_frame", {"at": "input", "after_s": 0.5}),
        ("first_frame", {"at": "processed", "after_s": 1.0}),
        ("first_frame", {"at": "output", "after_s": 1.125}),
        ("health", {"old": None, "new": "ok"}),
    ]
    assert looked(watch, 1.0, started_s=11.0, first_input_age_s=10.5) == []


def test_an_end_says_why() -> None:
    """With the error where there was one; health has no more to say."""
    watch = SessionWatch()
    looked(watch)
    (kind, data), (_, diagnosed) = looked(
        watch,
        state=SessionState.FAILED,
        state_reason="output_gone",
        health=None,
        end_reason="output_gone",
        error="it refuses",
        error_code="channel_refused",
    )
    assert kind == "state"
    assert data == {
        "old": "active",
        "new": "failed",
        "reason": "output_gone",
        "end_reason": "output_gone",
        "error": "it refuses",
        "error_code": "channel_refused",
    }
    assert diagnosed["diagnosis"]["problem"] == "output refused: it refuses"


def test_a_diagnosis_is_told_when_it_comes_changes_and_goes() -> None:
    """Not when only its figures do."""
    watch = SessionWatch()
    looked(watch)
    [(kind, data)] = looked(watch, input_age_s=5.0)
    assert (kind, data["diagnosis"]["stage"]) == ("diagnosis", "input")
    assert looked(watch, input_age_s=6.0) == []
    [(_, data)] = looked(watch, output_problem="can't be reached")
    assert data["diagnosis"]["stage"] == "output"
    assert looked(watch) == [("diagnosis", {"diagnosis": None})]


def test_each_failed_attempt_is_told_once() -> None:
    """The same problem of the next attempt is news; the same one seen again is not, whatever
    figure its words hold now; what comes back after it was gone is."""
    watch = SessionWatch()
    looked(watch)
    problem = {"problem": "gone for 1 s", "problem_code": "media_timeout"}
    assert of(EventKind.ERROR, looked(watch, attempts=2, **problem)) == [
        {"code": "media_timeout", "error": "gone for 1 s", "attempt": 2}
    ]
    assert looked(watch, attempts=2, problem="gone for 2 s", problem_code="media_timeout") == []
    assert len(of(EventKind.ERROR, looked(watch, attempts=3, **problem))) == 1
    assert of(EventKind.ERROR, looked(watch, attempts=3)) == []
    assert len(of(EventKind.ERROR, looked(watch, attempts=3, **problem))) == 1


def test_a_connection_that_stands_again_is_told() -> None:
    """With how often that was."""
    watch = SessionWatch()
    looked(watch)
    assert looked(watch, reconnects=2) == [("reconnect", {"reconnects": 2})]
    assert looked(watch, reconnects=2) == []


def drops(count: int) -> dict[str, Any]:
    return {"dropped": {"decoded_frames": {"server_busy": count}}}


def test_drops_are_told_above_a_rate_and_not_all_the_time() -> None:
    """One now and then is none; from then on every ten seconds, with all since the last time."""
    watch = SessionWatch()
    looked(watch)
    assert looked(watch, 1.0, **drops(1)) == []
    [(kind, data)] = looked(watch, 2.0, **drops(21))
    assert kind == "drops"
    assert data == {
        "queue": "decoded_frames",
        "reason": "server_busy",
        "count": 21,
        "per_second": 20.0,
    }
    assert looked(watch, 3.0, **drops(41)) == []
    [(_, data)] = looked(watch, 2.0 + DROPS_EVERY_S, **drops(221))
    assert (data["count"], data["per_second"]) == (200, 20.0)
    assert looked(watch, 4.0 + 2 * DROPS_EVERY_S, **drops(222)) == []


def test_looks_in_between_do_not_raise_the_rate() -> None:
    """Two drops in a hundredth of a second are two in that second."""
    watch = SessionWatch()
    looked(watch, 0.0)
    assert looked(watch, 0.01, **drops(2)) == []
    assert looked(watch, 1.01, **drops(2)) == []


def test_drops_that_somebody_asked_for_are_no_news() -> None:
    """A pause, another size, a rate of one's own."""
    watch = SessionWatch()
    looked(watch)
    asked = {"decoded_frames": {"paused": 100, "resized": 100, "stopped": 100, "output_rate": 100}}
    assert looked(watch, 1.0, dropped=asked) == []
