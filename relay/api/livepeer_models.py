"""What orchestrators send and are answered, in the shapes of ai-runner, pytrickle and ComfyStream.

Requests are read leniently where those are lenient: what is not known is ignored, numbers may be
text, an empty address is none. What comes out is the same `SessionConfig` that our own API makes,
by the same rules.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from relay.api.models import ChannelUrl, WorkerStart
from relay.comfystream.workflow_check import quoted
from relay.comfystream.workflows import DEFAULT_WORKFLOW
from relay.errors import ValidationFailed
from relay.session_config import SessionConfig, StreamNames
from relay.strict_json import parse_json
from relay.validation import problem_in_words

LONGEST_NAME = 256
_OURS = frozenset(WorkerStart.model_fields) - {
    *("input_stream_url", "output_stream_url", "comfystream_url", "control_url", "data_url"),
    *("prompts", "width", "height", "max_fps"),
}
"""Fields of our own start that `params` may hold as well; no addresses."""
_NOT_FOR_US = frozenset({"detect_out_resolution", "show_loading"})
"""Of pytrickle and ai-runner: the relay fits every picture to the size asked for, and its gateway
sees the source's while the server loads."""
_THEIR_NAMES = {
    "input_stream_url": "subscribe_url",
    "output_stream_url": "publish_url",
    "max_fps": "params.max_framerate",
}
PARAMETERS = ("prompts", "prompt", "width", "height", "max_framerate")
CHANNELS = ("subscribe_url", "publish_url", "control_url", "events_url", "data_url")


def _no_blank(value: object) -> object:
    return None if value == "" else value


def _json_text(value: object) -> object:
    """An object, or the JSON text of one, as gateways get it from their clients."""
    if not isinstance(value, str):
        return value
    return parse_json(value) if value.strip() else None


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")]
OptionalName = Annotated[Name | None, BeforeValidator(_no_blank)]
OptionalUrl = Annotated[ChannelUrl | None, BeforeValidator(_no_blank)]


class StreamStart(BaseModel):
    """Body of `POST /stream/start`. What else it holds is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    subscribe_url: OptionalUrl = Field(
        None, description="The trickle channel with the source; without it black is processed."
    )
    publish_url: OptionalUrl = Field(
        None, description="The trickle channel for the result; without it nobody gets any."
    )
    control_url: OptionalUrl = Field(None, description="Changes of the parameters come on it.")
    events_url: OptionalUrl = Field(None, description="Told how the stream fares.")
    data_url: OptionalUrl = Field(None, description="Gets ComfyStream's text.")
    gateway_request_id: OptionalName = Field(
        None, description="The stream's name in later calls; required without X-Stream-Id."
    )
    request_id: OptionalName = Field(None, description="The same, of ai-runner.")
    stream_id: OptionalName = None
    manifest_id: OptionalName = None
    model_id: Annotated[str | None, Field(max_length=LONGEST_NAME)] = None
    params: Annotated[dict[str, Any] | None, BeforeValidator(_json_text)] = Field(
        None,
        description="width and height, prompts (or prompt) in any shape that /session/start"
        " takes; also as JSON text. Without prompts the picture is inverted.",
    )


class LiveVideoStart(StreamStart):
    """Body of `POST /live-video-to-video`: there is always video both ways."""

    subscribe_url: ChannelUrl = Field(description="The trickle channel with the source.")
    publish_url: ChannelUrl = Field(description="The trickle channel for the result.")


class StreamParams(BaseModel):
    """Body of `POST /stream/params`: parameters as in a start; numbers may be text."""

    model_config = ConfigDict(extra="allow")

    prompts: Any = None
    prompt: Any = None
    width: int | str | None = None
    height: int | str | None = None
    max_framerate: int | str | None = None


class StreamState(BaseModel):
    """pytrickle's state object."""

    status: str = Field(description="LOADING, IDLE, OK or ERROR.")
    state: str
    error_message: str | None = None
    pipeline_ready: bool
    active_streams: int
    startup_complete: bool
    pipeline_state: str
    additional_info: dict[str, Any] = Field(default_factory=dict)


class StreamConfig(BaseModel):
    """What a stream was started with."""

    subscribe_url: str | None
    publish_url: str | None
    width: int
    height: int


class StreamStarted(BaseModel):
    """Answer to a start. The three addresses are empty, as ai-runner's; nobody reads them."""

    success: bool = True
    status: str = "success"
    message: str = "Stream started successfully"
    request_id: str
    session_id: str = Field(description="The stream's session, for /session/{id}/status.")
    current_state: StreamState
    config: StreamConfig
    warnings: list[str] = Field(default_factory=list)
    subscribe_url: str = ""
    publish_url: str = ""
    control_url: str = ""
    manifest_id: str = Field(description="ComfyStream's first BYOC server has this and the next.")
    input_stream_url: str | None
    output_stream_url: str | None


class StreamDone(BaseModel):
    """Answer to a stop or a change."""

    status: str = "success"
    message: str
    request_id: str
    config: None = None


class StreamDetails(BaseModel):
    """A stream as ComfyStream's trickle API shows one, and some more."""

    request_id: str
    session_id: str
    running: bool
    state: str = Field(description="The session's status, as in /session/{id}/status.")
    health: str | None
    subscribe_url: str | None
    publish_url: str | None
    control_url: str | None
    events_url: str | None
    events_available: bool
    width: int
    height: int
    frame_count: int
    fps_in: float
    fps_out: float
    stats_monitoring_active: bool
    pipeline_ready: bool
    error: str | None
    end_reason: str | None


class CurrentParams(BaseModel):
    """pytrickle's."""

    subscribe_url: str | None
    publish_url: str | None
    gateway_request_id: str


class StreamStatus(StreamState):
    """Answer of `GET /stream/status`: pytrickle's and ComfyStream's in one."""

    client_active: bool
    client_running: bool
    fps: dict[str, float]
    current_params: CurrentParams | None
    processing_active: bool
    stream_count: int
    message: str
    current_stream: StreamDetails | None
    all_streams: dict[str, StreamDetails]


class FpsMeasurement(BaseModel):
    """Of one second."""

    timestamp: float
    fps: float


class FpsReport(BaseModel):
    """A stream's frame rate as ComfyStream's dashboards read it; times in seconds since the first
    picture."""

    timestamp: float
    fps: float
    minute_avg_fps: float
    minute_fps_array: list[FpsMeasurement]


class AllFpsReports(RootModel[dict[str, FpsReport]]):
    """Of every stream that runs, by its name."""


class NoFpsReport(BaseModel):
    """What ComfyStream says, with status 200, of a stream that it does not have."""

    error: str = "Stream not found"


class RunnerStatus(BaseModel):
    """Answer of `GET /api/status`: the status event; times in milliseconds since 1970."""

    type: str
    pipeline: str
    start_time: int
    state: str = Field(
        description="LOADING, OFFLINE, ONLINE, DEGRADED_INPUT, DEGRADED_INFERENCE or ERROR."
    )
    last_state_update_time: int
    input_status: dict[str, Any]
    inference_status: dict[str, Any]
    last_status_timestamp: int
    timestamp: int


class StreamList(BaseModel):
    """Answer of `GET /streams`."""

    streams: dict[str, StreamDetails]
    count: int


def stream_config_from(
    body: dict[str, object],
    header_name: str | None,
    make_config: Callable[[dict[str, object]], SessionConfig],
    model: type[StreamStart] = StreamStart,
) -> SessionConfig:
    """The session that an orchestrator asks for; it has `names`.

    Args:
        header_name: of `X-Stream-Id`.
        make_config: makes a session of a `WorkerStart`.
        model: `LiveVideoStart` makes a name up for a start that gives none.

    Raises:
        ValidationFailed: with every fault, by the names of this API.
    """
    faults: list[dict[str, str]] = []
    start: StreamStart | None = None
    try:
        start = model.model_validate(body | _of_the_first_byoc_server(body))
    except ValidationError as error:
        faults = [
            {"field": quoted(str((*entry["loc"], "the body")[0])), "problem": _problem(entry)}
            for entry in error.errors(include_url=False, include_input=False)
        ]
    if start is None:
        raise ValidationFailed(faults)
    request_id = start.gateway_request_id or start.request_id or header_name
    if request_id is None and model is StreamStart:
        raise ValidationFailed([{"field": "gateway_request_id", "problem": "is required"}])
    if not any(getattr(start, name) for name in CHANNELS):
        problem = "is missing, as are all other channels: there is nothing to do"
        raise ValidationFailed([{"field": "subscribe_url", "problem": problem}])
    names = StreamNames(
        request_id or start.stream_id or start.manifest_id or uuid.uuid4().hex,
        start.stream_id or "",
        start.manifest_id or "",
        start.model_id or "",
        header_name or "",
        hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
    )
    params = _params_of(body, start)
    warnings: list[str] = []
    session = _session_body(start, params, warnings)
    try:
        config = make_config(session)
    except ValidationFailed as error:
        raise ValidationFailed([_by_their_names(f) for f in error.details["details"]]) from None
    return replace(
        config,
        channels_given="stream_url" not in body,
        control_url=start.control_url,
        events_url=start.events_url,
        data_url=start.data_url,
        names=names,
        params=params,
        warnings=(*config.warnings, *warnings),
    )


def _of_the_first_byoc_server(body: Mapping[str, object]) -> dict[str, object]:
    """What ComfyStream's own BYOC server of June 2025 was sent, by the names of now. Nobody made
    the channels for it."""
    source, output = body.get("stream_url"), body.get("output_stream_url")
    if not isinstance(source, str) or not source:
        return {}
    return {"subscribe_url": source, "publish_url": output or f"{source}-out"}


def _params_of(body: Mapping[str, object], start: StreamStart) -> dict[str, Any]:
    """`params`, and what clients of a gateway write beside them."""
    beside = {n: body[n] for n in PARAMETERS if n in body}
    return {**beside, **(start.params or {})}


def _session_body(
    start: StreamStart, params: Mapping[str, Any], warnings: list[str]
) -> dict[str, object]:
    """The start in the words of `POST /session/start`."""
    session: dict[str, object] = {
        "input_stream_url": start.subscribe_url,
        "output_stream_url": start.publish_url,
        "prompts": prompts_of(params) or [DEFAULT_WORKFLOW],
    }
    if params.get("prompts") == []:
        session["prompts"] = []
    if params.get("max_framerate") is not None:
        session["max_fps"] = _number(params["max_framerate"])
    sizes = {n: _number(params[n]) for n in ("width", "height") if params.get(n) is not None}
    if len(sizes) == 1:
        [(name, _)] = sizes.items()
        problem = "needs the other side too: give width and height together"
        raise ValidationFailed([{"field": name, "problem": problem}])
    session |= sizes
    for name, value in params.items():
        if name in _OURS:
            session[name] = value
        elif name not in {*_NOT_FOR_US, *PARAMETERS}:
            warnings.append(f"params.{quoted(name)} is not known here and was ignored")
    del warnings[20:]
    return session


def prompts_of(params: Mapping[str, Any]) -> Any:
    """What the parameters say is to run; None or "" if nothing. Words that are no JSON are a text
    prompt."""
    prompts = params.get("prompts")
    if prompts is None:
        prompts = params.get("prompt")
    if isinstance(prompts, str):
        text = prompts.strip()
        return {"text": prompts} if text and not text.startswith(("{", "[", '"')) else text
    return prompts


def _number(value: object) -> object:
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else value


def _problem(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "string_pattern_mismatch":
        return "must not hold control characters"
    return problem_in_words(entry)


def _by_their_names(fault: dict[str, str]) -> dict[str, str]:
    name = fault["field"]
    renamed = _THEIR_NAMES.get(name, name if name.startswith("params") else f"params.{name}")
    problem = fault["problem"].replace("input_stream_url", "subscribe_url")
    return fault | {"field": renamed, "problem": problem}
