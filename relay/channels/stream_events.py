"""What a Livepeer gateway is told of a stream, in the shapes that it reads.

Each message is ``{"event": {...}, "queue_event_type": "..."}``; the gateway adds its own names and
passes it on. The `status` event (queue `ai_stream_events`) is what its status API shows; a gateway
that reads no event for 30 s takes the stream from the worker, so there is one at least every 10 s
from the start, whatever the media does. Times are whole milliseconds since 1970.

Pure: clocks and figures come from outside, nothing here sends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from relay.session_config import StreamNames
from relay.session_health import Health
from relay.session_state import SessionState

STATUS_INTERVAL_S = 10.0
STATS_INTERVAL_S = 20.0
HEARTBEAT_INTERVAL_S = 10.0
LONGEST_PARAMS = 32 * 1024
"""Bytes of JSON of the parameters that a status repeats; longer ones are named by their hash.
Readers of other make stop at 32 KiB a message."""
CHANNELS = ("subscribe", "publish", "control", "events", "data")
PIPELINE = "live-video-to-video"

Message = dict[str, Any]


class StreamState(StrEnum):
    """ai-runner's words, which dashboards of gateways know."""

    LOADING = "LOADING"
    OFFLINE = "OFFLINE"
    ONLINE = "ONLINE"
    DEGRADED_INPUT = "DEGRADED_INPUT"
    DEGRADED_INFERENCE = "DEGRADED_INFERENCE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class StreamView:
    """How a session fares at a moment. Ages in seconds; None for what has not happened."""

    state: SessionState
    health: Health | None
    width: int
    height: int
    fps_in: float = 0.0
    fps_out: float = 0.0
    frames_in: int = 0
    frames_out: int = 0
    frames_waiting: int = 0
    input_age_s: float | None = None
    first_input_age_s: float | None = None
    output_age_s: float | None = None
    first_processed_age_s: float | None = None
    problem: str | None = None
    problem_code: str | None = None
    reconnects: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    end_reason: str | None = None


def stream_state(view: StreamView) -> StreamState:
    """The word for a session's state and health."""
    match view.state:
        case SessionState.FAILED:
            return StreamState.ERROR
        case SessionState.STOPPING | SessionState.STOPPED:
            return StreamState.OFFLINE
        case SessionState.STARTING | SessionState.LOADING if view.problem_code is None:
            return StreamState.LOADING
    if view.health is Health.DEGRADED_INPUT:
        return StreamState.DEGRADED_INPUT
    if view.state is SessionState.ACTIVE and view.health in (None, Health.OK):
        return StreamState.ONLINE
    return StreamState.DEGRADED_INFERENCE


class StreamReporter:
    """Turns views of one session into the messages that are due.

    Args:
        session_id: stands for the gateway's name of the stream where that gave none.
        started_ms: when the stream was asked for.
        channels: the addresses that a heartbeat shows, by pytrickle's names, without credentials.
    """

    def __init__(
        self,
        names: StreamNames | None,
        session_id: str,
        started_ms: int,
        channels: Mapping[str, str] | None = None,
    ) -> None:
        self._request_id = names.request_id if names else session_id
        self._pipeline = (names.model_id if names else "") or PIPELINE
        self._started_ms = started_ms
        self._state: StreamState | None = None
        self._state_ms = started_ms
        self._status_at: float | None = None
        self._stats_at: float | None = None
        self._heartbeat_at: float | None = None
        self._channels = dict.fromkeys(CHANNELS, "") | dict(channels or {})
        self._traced: set[str] = set()
        self._problem_code: str | None = None
        self._last_error: str | None = None
        self._last_error_ms: int | None = None
        self._reconnects = 0
        self._restart_ms: int | None = None
        self._params: str | None = None
        self._params_ms: int | None = None

    def report(self, view: StreamView, now: float, now_ms: int) -> list[Message]:
        """What is to be sent now, in order; often nothing.

        Args:
            now: monotonic seconds.
            now_ms: the wall clock.
        """
        messages = self._traces(view, now_ms)
        changed = self._note_state(view, now_ms)
        if error := self._note_problem(view, now_ms):
            messages.append(error)
            changed = True
        if restart := self._note_reconnects(view, now_ms):
            messages.append(restart)
            changed = True
        params = self._note_params(view, now_ms)
        if params and self._status_at is not None:
            messages.append(
                _event({"type": "params_updated", "timestamp": now_ms, "params": params})
            )
        due = self._status_at is None or now - self._status_at >= STATUS_INTERVAL_S
        if changed or params is not None or due:
            self._status_at = now
            messages.append(self._status(view, params, now_ms))
        if self._stats_at is None or now - self._stats_at >= STATS_INTERVAL_S:
            self._stats_at = now
            messages.append(self._stats(view, now_ms))
        if self._heartbeat_at is None or now - self._heartbeat_at >= HEARTBEAT_INTERVAL_S:
            self._heartbeat_at = now
            messages.append(self._heartbeat(view, now_ms))
        return messages

    def status(self, view: StreamView, now_ms: int) -> Message:
        """The `status` event as it is now, parameters included; for a reporter that is asked.

        Whatever else would be due is taken for told.
        """
        self._note_state(view, now_ms)
        self._note_problem(view, now_ms)
        self._note_reconnects(view, now_ms)
        self._note_params(view, now_ms)
        event: Message = self._status(view, dict(view.params), now_ms)["event"]
        return event

    def _traces(self, view: StreamView, now_ms: int) -> list[Message]:
        moments: list[tuple[str, float | None]] = [
            ("runner_receive_stream_request", (now_ms - self._started_ms) / 1000),
            ("runner_receive_first_ingest_segment", view.first_input_age_s),
            ("runner_send_first_processed_segment", view.first_processed_age_s),
            ("stream_stopped", 0.0 if view.state.final else None),
        ]
        traces = []
        for kind, age_s in moments:
            if age_s is not None and kind not in self._traced:
                self._traced.add(kind)
                trace: Message = {"type": kind, "timestamp": _before(now_ms, age_s)}
                trace["request_id"] = self._request_id
                if kind == "stream_stopped":
                    trace["reason"] = view.end_reason
                traces.append(_event(trace, "stream_trace"))
        return traces

    def _note_state(self, view: StreamView, now_ms: int) -> bool:
        state = stream_state(view)
        if state is self._state:
            return False
        self._state, self._state_ms = state, now_ms
        return True

    def _note_problem(self, view: StreamView, now_ms: int) -> Message | None:
        before, self._problem_code = self._problem_code, view.problem_code
        if view.problem_code is None or view.problem_code == before:
            return None
        self._last_error, self._last_error_ms = view.problem, now_ms
        return _event(
            {
                "type": "error",
                "pipeline": self._pipeline,
                "message": view.problem,
                "code": view.problem_code,
                "time": now_ms,
                "timestamp": now_ms,
            }
        )

    def _note_reconnects(self, view: StreamView, now_ms: int) -> Message | None:
        if view.reconnects == self._reconnects:
            return None
        self._reconnects, self._restart_ms = view.reconnects, now_ms
        return _event(
            {
                "type": "restart",
                "pipeline": self._pipeline,
                "restart_count": view.reconnects,
                "restart_time": now_ms,
                "restart_logs": None,
                "timestamp": now_ms,
            }
        )

    def _note_params(self, view: StreamView, now_ms: int) -> dict[str, Any] | None:
        """The parameters if they are new; an empty object for some that are too long."""
        text = json.dumps(dict(view.params), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if digest == self._params:
            return None
        self._params, self._params_ms = digest, now_ms
        return dict(view.params) if len(text) <= LONGEST_PARAMS else {}

    def _status(self, view: StreamView, params: dict[str, Any] | None, now_ms: int) -> Message:
        return _event(
            {
                "type": "status",
                "pipeline": self._pipeline,
                "start_time": self._started_ms,
                "state": self._state,
                "last_state_update_time": self._state_ms,
                "input_status": {
                    "last_input_time": _moment(now_ms, view.input_age_s),
                    "fps": view.fps_in,
                },
                "inference_status": {
                    "last_output_time": _moment(now_ms, view.output_age_s),
                    "fps": view.fps_out,
                    "last_params_update_time": self._params_ms,
                    "last_params": params or None,
                    "last_params_hash": self._params,
                    "last_error_time": self._last_error_ms,
                    "last_error": self._last_error,
                    "last_restart_time": self._restart_ms,
                    "last_restart_logs": None,
                    "restart_count": self._reconnects,
                },
                "last_status_timestamp": now_ms,
                "timestamp": now_ms,
            }
        )

    def _stats(self, view: StreamView, now_ms: int) -> Message:
        return _event(
            {
                "type": "stream_stats",
                "request_id": self._request_id,
                "timestamp": now_ms,
                "processor": {
                    "frame_count": view.frames_out,
                    "pipeline_ready": view.state is SessionState.ACTIVE,
                    "buffer_stats": {"frames_waiting": view.frames_waiting},
                    "last_processed_frame_available": view.first_processed_age_s is not None,
                },
                "stream": {
                    "running": not view.state.final,
                    "width": view.width,
                    "height": view.height,
                    "frames_in": view.frames_in,
                    "fps_in": view.fps_in,
                    "fps_out": view.fps_out,
                },
            },
            "stream_stats",
        )

    def _heartbeat(self, view: StreamView, now_ms: int) -> Message:
        return _event(
            {
                "type": "heartbeat",
                "timestamp": now_ms,
                "urls": self._channels,
                "dimensions": {"width": view.width, "height": view.height},
                "fps": {"ingress_video_fps": view.fps_in, "egress_video_fps": view.fps_out},
            },
            "stream_heartbeat",
        )


def _event(event: Message, queue: str = "ai_stream_events") -> Message:
    return {"event": event, "queue_event_type": queue}


def _before(now_ms: int, age_s: float) -> int:
    return now_ms - round(age_s * 1000)


def _moment(now_ms: int, age_s: float | None) -> int | None:
    return None if age_s is None else _before(now_ms, age_s)
