"""What requests may hold, and how they become a `SessionConfig`.

The only place that validates: what leaves here is complete and checked, and whoever sent
something else learns every fault at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from relay.comfystream.prompt_library import PromptLibrary
from relay.comfystream.workflow_check import gives_sound, quoted, takes_sound
from relay.comfystream.workflows import PromptsError
from relay.config.settings import Settings
from relay.errors import TrickleError, ValidationFailed
from relay.session_config import (
    AudioCodec,
    AudioMode,
    Coding,
    FallbackMode,
    Fit,
    OnOverload,
    SessionConfig,
)
from relay.trickle import channel_url
from relay.validation import (
    LARGEST_SIZE,
    SMALLEST_SIZE,
    channel_key,
    check_http_url,
    check_server_url,
    even_size,
    problem_in_words,
)

MOST_FIELDS = 50
"""Of a request; with more it is something else, and is not looked at."""
PROCESSED_SUFFIX = "-processed"


def _whole(value: object) -> object:
    """JSON has one kind of number: 512.0 is whole, true and "512" are not numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _check_channel_url(value: str) -> str:
    check_http_url(value)
    try:
        channel_url.ChannelUrl.parse(value)
    except TrickleError:
        raise ValueError(
            "names no channel; it needs a path, as in http://host:3389/my-stream"
        ) from None
    return value


ChannelUrl = Annotated[str, AfterValidator(_check_channel_url)]
Pixels = Annotated[
    int, Field(strict=True, ge=SMALLEST_SIZE, le=LARGEST_SIZE), BeforeValidator(_whole)
]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Start(BaseModel):
    """What any start may hold. An optional field that is null counts as not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_stream_url: ChannelUrl | None = None
    prompts: Any
    comfystream_url: Annotated[str, AfterValidator(check_server_url)] | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    fit: Fit | None = None
    segment_seconds: Annotated[Seconds, Field(ge=0.2, le=10)] | None = None
    output_stream_url: ChannelUrl | None = None
    fallback: FallbackMode | None = None
    on_overload: OnOverload | None = None
    output_fps: Annotated[Seconds, Field(ge=1, le=120)] | None = None
    ingest: Coding | None = None
    egress: Coding | None = None
    audio: AudioMode | None = None
    audio_codec: AudioCodec | None = None
    control_url: ChannelUrl | None = None
    data_url: ChannelUrl | None = None


class StartRequest(_Start):
    """Body of `POST /session/start`. An optional field that is null counts as not given."""

    input_stream_url: ChannelUrl


class WorkerStart(_Start):
    """What becomes of an orchestrator's start: either channel may be missing, and stays so."""

    max_fps: Annotated[Seconds, Field(ge=1, le=60)] | None = None


def session_config_from(
    body: dict[str, object],
    settings: Settings,
    prompts: PromptLibrary,
    model: type[StartRequest | WorkerStart] = StartRequest,
) -> SessionConfig:
    """What a start request asks for, with the operator's defaults.

    Raises:
        ValidationFailed: with every fault of every field.
    """
    if len(body) > MOST_FIELDS:
        problem = f"has {len(body)} fields; a start request has {len(model.model_fields)}"
        raise ValidationFailed([{"field": "the body", "problem": problem}])
    faults: list[dict[str, str]] = []
    warnings: list[str] = []
    request: StartRequest | WorkerStart | None = None
    try:
        request = model.model_validate(body)
    except ValidationError as error:
        faults.extend(_faults_of(error))
    workflows: list[dict[str, Any]] = []
    if "prompts" in body:
        try:
            normalized = prompts.normalize(body["prompts"])
            workflows = normalized.workflows
            warnings.extend(normalized.warnings)
        except PromptsError as error:
            faults.extend(fault.to_dict() for fault in error.faults)
    input_url = output_url = ""
    if request is not None:
        input_url, output_url = request.input_stream_url or "", request.output_stream_url or ""
        if not output_url and isinstance(request, StartRequest):
            output_url = processed_url(input_url)
        if output_url and input_url and channel_key(output_url) == channel_key(input_url):
            faults.append(
                {
                    "field": "output_stream_url",
                    "problem": "must differ from input_stream_url, or the session feeds itself",
                }
            )
    if request is None or faults:
        raise ValidationFailed(faults)
    width = even_size("width", request.width or settings.width, warnings)
    height = even_size("height", request.height or settings.height, warnings)
    return SessionConfig(
        input_stream_url=input_url,
        output_stream_url=output_url,
        comfystream_url=request.comfystream_url
        or ("" if settings.comfystream_urls else settings.comfystream_url),
        prompts=workflows,
        width=width,
        height=height,
        fit=request.fit or settings.fit,
        segment_seconds=request.segment_seconds or settings.segment_seconds,
        fallback=_fallback(request, settings, warnings) if output_url else FallbackMode.NONE,
        on_overload=request.on_overload or settings.on_overload,
        output_fps=request.output_fps or settings.output_fps,
        max_fps=(request.max_fps or 0.0) if isinstance(request, WorkerStart) else 0.0,
        ingest=request.ingest or settings.ingest,
        egress=request.egress or settings.egress,
        audio=audio_mode(request.audio or settings.audio, workflows)
        if output_url
        else AudioMode.OFF,
        audio_codec=request.audio_codec or settings.audio_codec,
        sends_audio=takes_sound(workflows),
        control_url=request.control_url,
        data_url=request.data_url,
        warnings=tuple(warnings),
    )


def _fallback(request: _Start, settings: Settings, warnings: list[str]) -> FallbackMode:
    """Frames that wait their turn are not stood in for."""
    if (request.on_overload or settings.on_overload) is OnOverload.DROP:
        return request.fallback or settings.fallback
    if request.fallback not in (None, FallbackMode.NONE):
        warnings.append(
            f"fallback {request.fallback} does nothing with on_overload wait: every frame waits"
            " until ComfyStream has processed it"
        )
    return FallbackMode.NONE


def flag_from(query: Mapping[str, str], name: str) -> bool:
    """A yes or no of a query string; False if it is not there.

    Raises:
        ValidationFailed: it is neither.
    """
    match query.get(name, "false").lower():
        case "true" | "1" | "":
            return True
        case "false" | "0":
            return False
    raise ValidationFailed([{"field": name, "problem": "must be true or false"}])


def audio_mode(wanted: AudioMode, workflows: list[dict[str, Any]]) -> AudioMode:
    """The mode in force: `auto` decided by what the workflows give back."""
    if wanted is not AudioMode.AUTO:
        return wanted
    return AudioMode.PROCESS if gives_sound(workflows) else AudioMode.BYPASS


def processed_url(input_url: str) -> str:
    """The output channel of a session that names none: the input's name with `-processed`."""
    address, question_mark, query = input_url.partition("?")
    return f"{address.rstrip('/')}{PROCESSED_SUFFIX}{question_mark}{query}"


def _faults_of(error: ValidationError) -> list[dict[str, str]]:
    faults = []
    for entry in error.errors(include_url=False, include_input=False):
        path = [str(part) for part in entry["loc"]] or ["the body"]
        problem = problem_in_words(entry)
        if entry["type"] == "extra_forbidden":
            close = difflib.get_close_matches(path[0][:40], StartRequest.model_fields, n=1)
            problem += f"; did you mean {close[0]}?" if close else ""
        faults.append({"field": quoted(path[0]), "problem": problem})
    return faults
