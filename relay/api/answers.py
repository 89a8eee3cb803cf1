"""The shapes of our own answers, for those who generate clients; the contract's fields are there.

Handlers answer with plain objects; that those fit is what tests hold them to.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from relay.session_config import Coding


class Answer(BaseModel):
    """Fields may be added at any time."""

    model_config = ConfigDict(extra="allow")


class ErrorAnswer(Answer):
    """What is wrong and what to do; `code` stays the same. The calls of Livepeer orchestrators add
    `status` and `message`."""

    success: Literal[False]
    error: str
    code: str
    request_id: str


class Started(Answer):
    """Answer of `POST /session/start`."""

    success: Literal[True]
    session_id: str


class ChangeBody(BaseModel):
    """Body of `PATCH /session/{id}`: what is to be different, one field at least."""

    prompts: Any = None
    width: int | None = None
    height: int | None = None
    paused: bool | None = None
    ingest: Coding | None = None
    egress: Coding | None = None


class Changed(Answer):
    """Answer to a change."""

    success: Literal[True]
    session_id: str
    result: Literal["applied", "superseded", "held"]


class ControlBody(Answer):
    """A message for ComfyStream's control channel."""

    type: str


class ControlReply(Answer):
    """And what became of it."""

    success: Literal[True]
    reply: dict[str, Any] | None


class Nodes(Answer):
    """Answer of `GET /session/{id}/nodes`."""

    success: Literal[True]
    nodes: dict[str, Any]


class Stopped(Answer):
    """Answer of `DELETE /session/{id}`."""

    success: Literal[True]
    message: str


class QueueSizes(Answer):
    """How many items wait."""

    coded_frames: int = 0
    decoded_frames: int
    processed_frames: int
    output_segments: int


class DiagnosisAnswer(Answer):
    """What keeps a session from doing better."""

    stage: Literal["input", "decoder", "comfystream", "encoder", "output", "relay"]
    problem: str
    remedy: str


class SessionStatus(Answer):
    """docs/api.md explains the fields, and those that are not listed here."""

    session_id: str
    status: str
    diagnosis: DiagnosisAnswer | None = None
    input_stream_url: str
    output_stream_url: str
    comfystream_url: str
    width: int
    height: int
    created_at: str
    queue_sizes: QueueSizes
    webrtc_state: str


class StatusAnswer(Answer):
    """Answer of `GET /session/{id}/status`."""

    success: Literal[True]
    session: SessionStatus


class LogLine(Answer):
    """A line of the log; its other keys depend on the event."""

    timestamp: str
    level: str
    event: str


class LogLines(Answer):
    """Answer of `GET /session/{id}/logs`."""

    success: Literal[True]
    session_id: str
    lines: list[LogLine]
    lines_before: int


class SessionSummary(Answer):
    """An entry of `GET /sessions`."""

    session_id: str
    status: str
    input_stream_url: str
    output_stream_url: str
    created_at: str


class SessionList(Answer):
    """Answer of `GET /sessions`."""

    success: Literal[True]
    sessions: list[SessionSummary]


class PoolServer(Answer):
    """A ComfyStream server of the pool."""

    url: str
    state: str
    sessions: list[str]
    error: str | None
    error_code: str | None


class ServerList(Answer):
    """Answer of `GET /servers`."""

    success: Literal[True]
    servers: list[PoolServer]


class Health(Answer):
    """Answer of `GET /health`."""

    status: Literal["healthy"]
    version: str
    sessions: int
    uptime_s: float
    ready: bool
    problem: str | None
    sessions_by_health: dict[str, int]
    dead_supervisors: list[str]


class Alive(Answer):
    """Answer of `GET /healthz`."""

    status: Literal["alive"]


class ShedParts(Answer):
    """What is left out because there is too much to do."""

    previews: bool
    sessions: list[str]


class Capacity(Answer):
    """Answer of `GET /capacity`."""

    success: Literal[True]
    active: int
    reserved: int
    max: int | None
    load: float
    codec_load: float
    event_loop_lag_ms: float
    problem: str | None
    max_load: float | None
    cores: float | None
    cpu: float
    event_loop_cpu: float
    codec_wait_ms: float
    shed: ShedParts


class Ready(Answer):
    """Answer of `GET /readyz`."""

    status: Literal["ready"]


class WorkerHealth(Answer):
    """Answer of `GET /api/health`."""

    status: Literal["LOADING", "IDLE", "OK"]


class AppVersion(Answer):
    """Answer of `GET /app-version`."""

    version: str


class HardwareInfo(Answer):
    """Answer of `GET /hardware/info`."""

    pipeline: str
    model_id: str
    gpu_info: dict[str, Any]


class HardwareStats(Answer):
    """Answer of `GET /hardware/stats`."""

    pipeline: str
    model_id: str
    gpu_stats: dict[str, Any]


class Version(Answer):
    """Answer of `GET /version`; pytrickle's is within."""

    name: str
    pipeline: str
    model_id: str
    version: str
    commit: str
    python: str
    libraries: dict[str, Any]
