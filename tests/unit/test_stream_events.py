"""What gateways are told: the shapes they read, and when each message is due."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.channels.stream_events import (
    LONGEST_PARAMS,
    STATUS_INTERVAL_S,
    Message,
    StreamReporter,
    StreamState,
    StreamView,
    stream_state,
)
from relay.session_config import StreamNames
from relay.session_health import Health
from relay.session_state import SessionState

START_MS = 1_700_000_000_000
STARTING = StreamView(SessionState.STARTING, Health.OK, 512, 512, params={"width": 512})
ACTIVE = replace(
    STARTING,
    state=SessionState.ACTIVE,
    fps_in=30.0,
    fps_out=29.9,
    input_age_s=0.033,
    first_input_age_s=1.5,
    output_age_s=0.05,
    first_processed_age_s=1.25,
)


class Gateway:
    """Reads what a reporter makes of the views it is shown, second by second."""

    def __init__(self) -> None:
        self.reporter = StreamReporter(StreamNames("r1", "s1", "m1"), "session", START_MS)
        self.now = 0.0

    def sees(self, view: StreamView, after_s: float = 0.0) -> list[Message]:
        self.now += after_s
        return self.reporter.report(view, 5000.0 + self.now, START_MS + round(self.now * 1000))


def kinds(messages: list[Message]) -> list[str]:
    return [message["event"]["type"] for message in messages]


def the(kind: str, messages: list[Message]) -> dict[str, Any]:
    [event] = [m["event"] for m in messages if m["event"]["type"] == kind]
    return dict(event)


def test_the_first_messages_are_due_at_once() -> None:
    """Also while the server loads: LOADING, the trace of the request, the statistics."""
    messages = Gateway().sees(STARTING)
    assert kinds(messages) == [
        "runner_receive_stream_request",
        "status",
        "stream_stats",
        "heartbeat",
    ]
    assert [message["queue_event_type"] for message in messages] == [
        "stream_trace",
        "ai_stream_events",
        "stream_stats",
        "stream_heartbeat",
    ]
    assert the("status", messages)["state"] == "LOADING"


def test_the_status_has_the_shape_that_gateways_read() -> None:
    """Every field of ai-runner's, times in whole milliseconds."""
    gateway = Gateway()
    gateway.sees(STARTING)
    status = the("status", gateway.sees(ACTIVE, 2.0))
    now_ms = START_MS + 2000
    assert status == {
        "type": "status",
        "pipeline": "live-video-to-video",
        "start_time": START_MS,
        "state": "ONLINE",
        "last_state_update_time": now_ms,
        "input_status": {"last_input_time": now_ms - 33, "fps": 30.0},
        "inference_status": {
            "last_output_time": now_ms - 50,
            "fps": 29.9,
            "last_params_update_time": START_MS,
            "last_params": None,
            "last_params_hash": status["inference_status"]["last_params_hash"],
            "last_error_time": None,
            "last_error": None,
            "last_restart_time": None,
            "last_restart_logs": None,
            "restart_count": 0,
        },
        "last_status_timestamp": now_ms,
        "timestamp": now_ms,
    }


def test_the_gap_between_two_events_stays_short() -> None:
    """F54: a gateway that hears nothing for 30 s takes the stream away; here it hears at least
    every ten, and no more than that while nothing changes."""
    gateway = Gateway()
    gateway.sees(ACTIVE)
    heard = [gateway.now for _ in range(240) if "status" in kinds(gateway.sees(ACTIVE, 0.5))]
    assert heard == [STATUS_INTERVAL_S * n for n in range(1, 13)]


def test_a_change_is_told_at_once() -> None:
    """State and health; the same again is not."""
    gateway = Gateway()
    gateway.sees(ACTIVE)
    degraded = replace(ACTIVE, health=Health.DEGRADED_INPUT)
    assert the("status", gateway.sees(degraded, 0.5))["state"] == "DEGRADED_INPUT"
    assert gateway.sees(degraded, 0.5) == []
    assert the("status", gateway.sees(ACTIVE, 0.5))["state"] == "ONLINE"


def test_the_first_segments_are_traced_once_with_their_time() -> None:
    """When it was, not when it was looked at."""
    gateway = Gateway()
    gateway.sees(STARTING)
    messages = gateway.sees(ACTIVE, 3.0)
    first_in = the("runner_receive_first_ingest_segment", messages)
    first_out = the("runner_send_first_processed_segment", messages)
    assert first_in["timestamp"] == START_MS + 1500
    assert first_out["timestamp"] == START_MS + 1750
    assert gateway.sees(replace(ACTIVE, first_input_age_s=2.0), 0.5) == []


def test_an_error_is_told_with_its_cause() -> None:
    """F58: at once, once, and it stays in the status."""
    gateway = Gateway()
    gateway.sees(STARTING)
    failing = replace(STARTING, problem="connection refused", problem_code="comfystream_down")
    messages = gateway.sees(failing, 1.0)
    error = the("error", messages)
    assert (error["message"], error["code"]) == ("connection refused", "comfystream_down")
    assert error["time"] == START_MS + 1000
    inference = the("status", messages)["inference_status"]
    assert inference["last_error"] == "connection refused"
    assert inference["last_error_time"] == START_MS + 1000
    assert the("status", messages)["state"] == "DEGRADED_INFERENCE"
    assert gateway.sees(failing, 1.0) == []
    recovered = the("status", gateway.sees(ACTIVE, 1.0))
    assert recovered["inference_status"]["last_error"] == "connection refused"


def test_a_new_connection_is_a_restart() -> None:
    """Counted, with its time."""
    gateway = Gateway()
    gateway.sees(ACTIVE)
    messages = gateway.sees(replace(ACTIVE, reconnects=1), 4.0)
    assert the("restart", messages)["restart_count"] == 1
    inference = the("status", messages)["inference_status"]
    assert (inference["restart_count"], inference["last_restart_time"]) == (1, START_MS + 4000)


def test_parameters_are_sent_on_change_only() -> None:
    """The gateway keeps the last that were not null; the hash is always there."""
    gateway = Gateway()
    first = the("status", gateway.sees(ACTIVE))["inference_status"]
    assert first["last_params"] == {"width": 512}
    later = the("status", gateway.sees(ACTIVE, 10.0))["inference_status"]
    assert (later["last_params"], later["last_params_hash"]) == (None, first["last_params_hash"])
    messages = gateway.sees(replace(ACTIVE, params={"prompts": []}), 1.0)
    assert the("params_updated", messages)["params"] == {"prompts": []}
    changed = the("status", messages)["inference_status"]
    assert changed["last_params"] == {"prompts": []}
    assert changed["last_params_hash"] != first["last_params_hash"]
    assert changed["last_params_update_time"] == START_MS + 11_000


def test_long_parameters_are_named_by_their_hash() -> None:
    """Readers that stop at 32 KiB a message still get the rest of it."""
    view = replace(ACTIVE, params={"image": "x" * LONGEST_PARAMS})
    inference = the("status", Gateway().sees(view))["inference_status"]
    assert inference["last_params"] is None
    assert inference["last_params_hash"]


def test_the_end_is_told_with_its_reason() -> None:
    """OFFLINE for one that was to end, ERROR for one that failed."""
    for state, word in ((SessionState.STOPPED, "OFFLINE"), (SessionState.FAILED, "ERROR")):
        gateway = Gateway()
        gateway.sees(ACTIVE)
        messages = gateway.sees(replace(ACTIVE, state=state, end_reason="input_ended"), 1.0)
        assert the("stream_stopped", messages)["reason"] == "input_ended"
        assert the("status", messages)["state"] == word


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("health", [None, *Health])
@pytest.mark.parametrize("problem_code", [None, "comfystream_unreachable"])
def test_every_state_and_health_has_a_word(
    state: SessionState, health: Health | None, problem_code: str | None
) -> None:
    """F55: no combination is without one, and ONLINE is said only of a stream that is well."""
    word = stream_state(replace(ACTIVE, state=state, health=health, problem_code=problem_code))
    assert word in StreamState
    if word is StreamState.ONLINE:
        assert state is SessionState.ACTIVE
        assert health in (None, Health.OK)
    if state.final:
        assert word in (StreamState.OFFLINE, StreamState.ERROR)


def test_every_time_is_a_whole_number_of_milliseconds() -> None:
    """Gateways refuse others: of every event that a stream may send, also nested."""
    gateway = Gateway()
    view = replace(ACTIVE, input_age_s=0.0123456, output_age_s=0.7654321, problem_code=None)
    broken = replace(view, problem="it broke", problem_code="comfystream_unreachable")
    messages = [*gateway.sees(view), *gateway.sees(broken, 0.1), *gateway.sees(view, 20.0)]
    messages += gateway.sees(replace(view, reconnects=1, params={"width": 640}), 0.1)
    times: list[tuple[str, object]] = []

    def collect(value: object) -> None:
        for name, inner in value.items() if isinstance(value, dict) else ():
            if name == "time" or name.endswith(("_time", "timestamp")):
                times.append((name, inner))
            collect(inner)

    collect({str(number): message for number, message in enumerate(messages)})
    assert len(times) > 30
    assert [entry for entry in times if type(entry[1]) not in (int, type(None))] == []


def test_the_heartbeat_is_pytrickles() -> None:
    """Every 10 s from the start, with the addresses that there are."""
    reporter = StreamReporter(
        StreamNames("r1"), "session", START_MS, {"subscribe": "http://h/in", "data": "http://h/d"}
    )
    heard = [
        message["event"]
        for second in range(45)
        for message in reporter.report(ACTIVE, float(second), START_MS + 1000 * second)
        if message["queue_event_type"] == "stream_heartbeat"
    ]
    assert [beat["timestamp"] - START_MS for beat in heard] == [0, 10_000, 20_000, 30_000, 40_000]
    assert heard[0] == {
        "type": "heartbeat",
        "timestamp": START_MS,
        "urls": {
            "subscribe": "http://h/in",
            "publish": "",
            "control": "",
            "events": "",
            "data": "http://h/d",
        },
        "dimensions": {"width": 512, "height": 512},
        "fps": {"ingress_video_fps": 30.0, "egress_video_fps": 29.9},
    }


def test_a_status_that_is_asked_for_knows_when_things_happened() -> None:
    """Told of changes in time and asked later; the parameters are in every answer."""
    reporter = StreamReporter(None, "session", START_MS)
    reporter.status(STARTING, START_MS + 1)
    reporter.status(ACTIVE, START_MS + 2000)
    status = reporter.status(ACTIVE, START_MS + 9000)
    assert (status["type"], status["state"]) == ("status", "ONLINE")
    assert status["last_state_update_time"] == START_MS + 2000
    assert status["last_status_timestamp"] == START_MS + 9000
    assert status["inference_status"]["last_params"] == {"width": 512}
