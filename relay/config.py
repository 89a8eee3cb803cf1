"""Every setting of the service, read once at the start and never changed.

Where a value comes from, first match wins: command-line flag, `RELAY_*` in the environment,
`RELAY_*` in `.env` in the working directory, default. `Settings(...)` itself reads nothing: it
takes what it is given, so a test depends on no environment.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from yarl import URL

from relay.errors import RelayError
from relay.redaction import mask_credentials
from relay.session_config import Fit
from relay.validation import LARGEST_SIZE, SMALLEST_SIZE, check_server_url, problem_in_words

PREFIX = "RELAY_"


class LogLevel(StrEnum):
    """The least severe message that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"

    @classmethod
    def _missing_(cls, value: object) -> LogLevel | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    """Console on a terminal, JSON otherwise."""
    CONSOLE = "console"
    JSON = "json"


class EventLoop(StrEnum):
    """Which event loop runs the service."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class IceServer(BaseModel):
    """A STUN or TURN server, as W3C's RTCIceServer writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: Annotated[tuple[str, ...], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
    username: str | None = None
    credential: SecretStr | None = None

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(re.fullmatch(r"(stun|turn)s?:[^\s@/]+", url) for url in value):
            raise ValueError("must be stun:host:port or turn:host:port, one or a list of them")
        return value

    def to_dict(self) -> dict[str, Any]:
        """The plain form, secrets included, without the fields that are not set."""
        plain = self.model_dump(exclude_none=True)
        if self.credential is not None:
            plain["credential"] = self.credential.get_secret_value()
        return plain | {"urls": list(self.urls)}


def _split(value: object) -> object:
    """A list from JSON or from text separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _decode(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _decode(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("must be a list in JSON") from None


def _check_origin(value: str) -> str:
    if value == "*":
        raise ValueError("must not be '*': name the origins, as in https://app.example.com")
    try:
        url = URL(value)
        origin = url.origin()
    except ValueError:
        raise ValueError("must be origins, as in https://app.example.com:8443") from None
    if url.scheme not in ("http", "https") or url != origin or url.raw_user is not None:
        raise ValueError("must be origins: http:// or https://, a host, perhaps a port, no path")
    return str(origin)  # as browsers write it: without the scheme's own port


def _check_even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even: H.264 pictures have half as many chroma samples a side")
    return value


Size = Annotated[int, Field(ge=SMALLEST_SIZE, le=LARGEST_SIZE), AfterValidator(_check_even)]
Capacity = Annotated[int, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
ServerUrl = Annotated[str, AfterValidator(check_server_url)]


class Settings(BaseSettings):
    """What an operator can set. Frozen; `load_settings` makes it from flags and environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True
    )

    host: str = Field("0.0.0.0", min_length=1, description="Address to listen on.")
    port: int = Field(8890, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: LogLevel = Field(
        LogLevel.INFO, description="Least severe message that is logged: DEBUG to CRITICAL."
    )
    log_format: LogFormat = Field(
        LogFormat.AUTO,
        description="`console`, `json`, or `auto`: console on a terminal, JSON lines otherwise.",
    )
    comfystream_url: ServerUrl = Field(
        "http://localhost:8889",
        description="ComfyStream server of sessions that name none.",
    )
    width: Size = Field(512, description="Picture width of sessions that name none; even, pixels.")
    height: Size = Field(
        512, description="Picture height of sessions that name none; even, pixels."
    )
    fit: Fit = Field(
        Fit.CONTAIN,
        description="How a picture of another shape is brought to that size: `contain` (black"
        " bars), `cover` (cut) or `stretch`.",
    )
    segment_seconds: float = Field(
        1.0, ge=0.2, le=10, allow_inf_nan=False, description="Length of output segments."
    )
    decoded_frames_capacity: Capacity = Field(
        100, description="Most decoded frames that wait for ComfyStream."
    )
    processed_frames_capacity: Capacity = Field(
        100, description="Most processed frames that wait for the encoder."
    )
    output_segments_capacity: Capacity = Field(
        50, description="Most output segments that wait for the publisher."
    )
    max_sessions: int = Field(
        0, ge=0, description="Most sessions at a time; more are answered 503. 0: no limit."
    )
    text_workflow: Path | None = Field(
        None,
        description='File with the workflow, in API format, that `{"text"}` prompts are put'
        " into, in place of `{{prompt}}`. Without one they run the default workflow.",
    )
    video_bitrate: int = Field(
        0, ge=0, le=200_000_000, description="Of the output, bits per second; 0 chooses by size."
    )
    codec_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads that decode and encode, all sessions together; 0: one a CPU core.",
    )
    input_timeout_s: Seconds = Field(
        60.0,
        description="How long an input channel that is not there yet, or can't be reached, is"
        " waited for.",
    )
    media_timeout_s: Seconds = Field(
        2.0,
        description="A ComfyStream connection that returns nothing for this long while frames"
        " are under way is replaced.",
    )
    offer_timeout_s: Seconds = Field(
        300.0,
        description="Longest wait for ComfyStream's answer to an offer; loading models counts.",
    )
    reconnect_first_wait_s: Seconds = Field(
        1.0, description="Wait before the second attempt to connect; doubles from there on."
    )
    reconnect_longest_wait_s: Seconds = Field(
        15.0, description="Longest wait between two attempts to connect."
    )
    stop_timeout_s: Seconds = Field(
        2.0, description="Time to end a session, or on shutdown all of them, in good order."
    )
    ice_servers: Annotated[tuple[IceServer, ...], NoDecode, BeforeValidator(_decode)] = Field(
        (),
        description="STUN and TURN servers, as JSON:"
        ' `[{"urls": "turn:host:3478", "username": "...", "credential": "..."}]`.',
    )
    early_delimiter: bool = Field(
        True,
        description="Announce the next frame at once, so that ComfyStream decodes a frame"
        " without waiting for the one after it.",
    )
    marker_release: bool = Field(
        True,
        description="Take a returned frame when its last packet is here, instead of when the"
        " next frame begins.",
    )
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...],
        NoDecode,
        BeforeValidator(_split),
    ] = Field((), description="Web origins whose pages may call the API, separated by commas.")
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="Largest request body."
    )
    event_loop: EventLoop = Field(
        EventLoop.ASYNCIO, description="`asyncio`, or `uvloop` for a little less CPU."
    )

    @model_validator(mode="after")
    def _check_waits(self) -> Settings:
        if self.reconnect_longest_wait_s < self.reconnect_first_wait_s:
            raise ValueError(
                f"{variable_name('reconnect_longest_wait_s')} must not be shorter than"
                f" {variable_name('reconnect_first_wait_s')}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor was given; `load_settings` reads the other sources itself,
        which is how it knows the origin of each value."""
        return (init_settings,)


class SettingsError(RelayError):
    """The settings can't be used.

    Args:
        faults: each names its setting and says what to do.
    """

    code = "invalid_settings"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By setting: ``flag``, ``env``, ``.env`` or ``default``."""
    warnings: tuple[str, ...]
    """What was found but is not a setting."""


def variable_name(setting: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + setting.upper()


def load_settings(
    flags: Mapping[str, Any] | None = None, env_file: Path = Path(".env")
) -> LoadedSettings:
    """Read every source and validate the result once.

    Args:
        flags: what the command line gave, by setting; None stands for not given.

    Raises:
        SettingsError: with every fault.
    """
    given: dict[str, Any] = {k: v for k, v in (flags or {}).items() if v is not None}
    origins = dict.fromkeys(given, "flag")
    from_file = _read_env_file(env_file)
    for origin, values in (
        ("env", EnvSettingsSource(Settings)()),
        (".env", {name: from_file[name] for name in from_file if name in Settings.model_fields}),
    ):
        for name, value in values.items():
            if name not in given:
                given[name] = value
                origins[name] = origin
    try:
        settings = Settings(**given)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise SettingsError([_fault(fault, given, origins) for fault in faults]) from None
    full = {name: origins.get(name, "default") for name in Settings.model_fields}
    return LoadedSettings(settings, full, tuple(_unknown_variables(from_file)))


def print_lines(loaded: LoadedSettings) -> list[str]:
    """One line for each setting: variable, value with secrets masked, origin."""
    rows = [
        (variable_name(name), shown_value(getattr(loaded.settings, name)), loaded.origins[name])
        for name in Settings.model_fields
    ]
    name_width = max(len(row[0]) for row in rows)
    value_width = min(48, max(len(row[1]) for row in rows))
    return [f"{n:<{name_width}}  {v:<{value_width}}  {origin}" for n, v, origin in rows]


def settings_table() -> str:
    """The settings as a Markdown table; README.md holds it between its settings markers."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = shown_value(field.default)
        shown = f"`{default}`" if default else "none"
        lines.append(f"| `{variable_name(name)}` | {shown} | {field.description} |")
    return "\n".join(lines)


def shown_value(value: object) -> str:
    """A setting's value as one would write it in `.env`, secrets masked."""
    match value:
        case None | ():
            return ""
        case bool():
            return str(value).lower()
        case (IceServer(), *_):
            assert isinstance(value, tuple)
            return json.dumps([s.model_dump(mode="json", exclude_none=True) for s in value])
        case tuple():
            return ",".join(str(part) for part in value)
        case float():
            return f"{value:g}" if value != int(value) else f"{value:.1f}"
        case _:
            return mask_credentials(str(value))


def _read_env_file(path: Path) -> dict[str, Any]:
    """What a `.env` file sets, under setting names where they are settings."""
    if not path.is_file():
        return {}
    try:
        return DotEnvSettingsSource(Settings, env_file=path, env_file_encoding="utf-8")()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError([f"{path} can't be read: {reason}"]) from None


def _fault(error: Mapping[str, Any], given: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    problem = problem_in_words(error)
    if not error["loc"]:
        return problem
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        return f"{name} is not a setting"
    inner = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"][1:])
    match origins[name]:
        case "flag":
            where = f"--{name.replace('_', '-')}"
        case ".env":
            where = f"{variable_name(name)}{inner} in .env"
        case _:
            where = f"{variable_name(name)}{inner} in the environment"
    value = given[name]
    if _shows_input(Settings.model_fields[name]) and isinstance(value, str | int | float):
        problem += f", not {mask_credentials(str(value))[:60]!r}"
    if isinstance(value, str) and value.startswith("tcp://"):
        problem += (
            " (Kubernetes sets this for a Service named relay:"
            " rename it, or set enableServiceLinks: false)"
        )
    return f"{where} {problem}"


def _shows_input(field: FieldInfo) -> bool:
    """Lists of servers hold credentials, and long problems speak for themselves."""
    return field.annotation in (int, float, bool, LogLevel, LogFormat, EventLoop, Fit)


_OTHERS_VARIABLES = re.compile(
    r"RELAY_((PORT|SERVICE)_.*"  # Kubernetes links to a Service named relay
    r"|IMAGE|CONTAINER)"  # docker-build.sh and docker-compose.yml
)


def _unknown_variables(from_file: Mapping[str, Any]) -> list[str]:
    known = {variable_name(name) for name in Settings.model_fields}
    found = {name.upper(): "the environment" for name in os.environ}
    found |= {name.upper(): ".env" for name in from_file}
    warnings = []
    for name, where in sorted(found.items()):
        if not name.startswith(PREFIX) or name in known or _OTHERS_VARIABLES.fullmatch(name):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        warnings.append(f"{name} in {where} is not a setting{hint}")
    return warnings
