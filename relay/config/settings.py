"""Every setting of the service, read once at the start and never changed.

Where a value comes from, first match wins: command-line flag, `RELAY_*` in the environment,
`RELAY_*` in `.env` in the working directory, default. `Settings(...)` itself reads nothing: it
takes what it is given, so a test depends on no environment; `relay.config.sources` reads.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from relay.config.values import (
    CaFile,
    Capacity,
    Hosts,
    IceServers,
    Origins,
    OutputFps,
    Ports,
    Seconds,
    ServerUrl,
    ServerUrls,
    Size,
    Token,
)
from relay.host_rules import HostRules
from relay.session_config import AudioCodec, AudioMode, Coding, FallbackMode, Fit, OnOverload

PREFIX = "RELAY_"
OWN_NAMES = {
    "twilio_account_sid": "TWILIO_ACCOUNT_SID",
    "twilio_auth_token": "TWILIO_AUTH_TOKEN",
    "orch_url": "ORCH_URL",
    "orch_secret": "ORCH_SECRET",
    "orch_tls_insecure": "ORCH_TLS_INSECURE",
    "capability_name": "CAPABILITY_NAME",
    "capability_description": "CAPABILITY_DESCRIPTION",
    "capability_url": "CAPABILITY_URL",
    "capability_capacity": "CAPABILITY_CAPACITY",
    "capability_price_per_unit": "CAPABILITY_PRICE_PER_UNIT",
    "capability_price_scaling": "CAPABILITY_PRICE_SCALING",
    "capability_currency": "CAPABILITY_CURRENCY",
}
"""Settings whose variable has a name that others gave it: ComfyStream, pytrickle."""


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

    AUTO = "auto"
    """uvloop where it is installed."""
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class IceTransportPolicy(StrEnum):
    """Which ways media may take, W3C's RTCIceTransportPolicy."""

    ALL = "all"
    RELAY = "relay"
    """Through a TURN server only."""


class VideoEncoderName(StrEnum):
    """Which H.264 encoder runs, by FFmpeg's name."""

    AUTO = "auto"
    """The first of a graphics card that works, else x264."""
    LIBX264 = "libx264"
    H264_NVENC = "h264_nvenc"
    H264_QSV = "h264_qsv"
    H264_AMF = "h264_amf"


class VideoPreset(StrEnum):
    """How much time x264 takes for a picture of the output, by its own names."""

    ULTRAFAST = "ultrafast"
    SUPERFAST = "superfast"
    VERYFAST = "veryfast"
    FASTER = "faster"


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
    comfystream_urls: ServerUrls = Field(
        (),
        description="Several ComfyStream servers, separated by commas: each session that names"
        " none gets one that is free. Takes precedence over `RELAY_COMFYSTREAM_URL`.",
    )
    warm_pipeline: bool = Field(
        False,
        description="At the start, let the servers above load and run the text workflow, or"
        " without one the default workflow, so that the first session need not wait for it.",
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
    max_load: float = Field(
        0.9,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the CPU that sessions may take; one that would take more is answered"
        " 503, as is one that comes while frames wait too long. 0: no limit.",
    )
    shed: bool = Field(
        True,
        description="While frames wait too long, leave out previews, then every second frame of the"
        " newest sessions.",
    )
    text_workflow: Path | None = Field(
        None,
        description='File with the workflow, in API format, that `{"text"}` prompts are put'
        " into, in place of `{{prompt}}`. Without one they run the default workflow.",
    )
    workflow_dir: Path | None = Field(
        None,
        description="Folder of workflows, `NAME.json` in API format, that prompts may name:"
        ' `{"workflow": "NAME", "text": "..."}`.',
    )
    video_bitrate: int = Field(
        0, ge=0, le=200_000_000, description="Of the output, bits per second; 0 chooses by size."
    )
    video_encoder: VideoEncoderName = Field(
        VideoEncoderName.LIBX264,
        description="`libx264`, or a graphics card's `h264_nvenc` (NVIDIA), `h264_qsv` (Intel),"
        " `h264_amf` (AMD), which is tried at the start and gives way to x264; `auto`: the first of"
        " these that works.",
    )
    video_preset: VideoPreset = Field(
        VideoPreset.SUPERFAST,
        description="How much time x264 takes for a picture of the output: `ultrafast` takes about"
        " half of what `superfast` takes, and the picture is coarser at the same bit rate;"
        " `veryfast` and `faster` take more.",
    )
    codec_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads that decode and encode, all sessions together; 0: one a CPU core that"
        " the process may use.",
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
    update_timeout_s: Seconds = Field(
        30.0,
        description="Longest wait for ComfyStream to confirm new prompts of a session that runs.",
    )
    reconnect_first_wait_s: Seconds = Field(
        1.0, description="Wait before the second attempt to connect; doubles from there on."
    )
    reconnect_longest_wait_s: Seconds = Field(
        15.0, description="Longest wait between two attempts to connect."
    )
    reconnect_limit_s: float = Field(
        3600.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="A session that gets no processed picture for this long ends; 0: never.",
    )
    quarantine_s: Seconds = Field(
        40.0,
        description="How long a ComfyStream server that was left without a goodbye is given no"
        " prompts; it misses a client after 24 to 36 s, and hangs if prompts come before.",
    )
    wedged_retry_s: Seconds = Field(
        300.0,
        description="How long a ComfyStream server that did not answer an offer gets no other,"
        " unless it is seen to restart.",
    )
    state_dir: Path | None = Field(
        None,
        description="Directory for the relay's journal: what its next run has to know after a"
        " crash. Without one, nothing is kept.",
    )
    resume: bool = Field(
        False,
        description="After a crash or an orderly end, the next run takes up the sessions again,"
        " under their ids. Otherwise their output channels are closed.",
    )
    audio: AudioMode = Field(
        AudioMode.AUTO,
        description="Where the output's sound comes from: `bypass` (the source's, untouched),"
        " `process` (ComfyStream's), `off` (none), or `auto`: `process` if the workflow gives"
        " sound back, else `bypass`.",
    )
    audio_codec: AudioCodec = Field(
        AudioCodec.AAC, description="What processed sound is encoded in: `aac` or `opus`."
    )
    fallback: FallbackMode = Field(
        FallbackMode.PASSTHROUGH,
        description="What goes out while nothing comes back from ComfyStream: `passthrough` (the"
        " source's frames), `repeat` (the last processed picture) or `none`.",
    )
    on_overload: OnOverload = Field(
        OnOverload.DROP,
        description="What happens to frames that come faster than they are processed: `drop` (the"
        " newest goes, the others are skipped) or `wait` (each waits its turn, and the input with"
        " it).",
    )
    output_fps: OutputFps = Field(
        0.0,
        description="Pictures a second on the output, 1 to 120: the last one is repeated where none"
        " came, and what is too much is left out. 0: as they come.",
    )
    ingest: Coding = Field(
        Coding.TRANSCODE,
        description="What becomes of the source's pictures on their way to ComfyStream:"
        " `transcode` (decoded and encoded), `copy` (sent as they are, wherever that is possible)"
        " or `auto` (the same, and not soon again where it did not last).",
    )
    egress: Coding = Field(
        Coding.TRANSCODE,
        description="What becomes of the pictures that ComfyStream returns: `transcode` (decoded"
        " and encoded), `copy` (passed on as they are, wherever that is possible) or `auto` (the"
        " same, and not soon again where it did not last).",
    )
    stop_timeout_s: Seconds = Field(
        2.0, description="Time to end a session, or on shutdown all of them, in good order."
    )
    drain_timeout_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long sessions may go on after SIGTERM before they are ended; no new ones"
        " are taken meanwhile.",
    )
    ice_servers: IceServers = Field(
        (),
        description="STUN and TURN servers, as JSON:"
        ' `[{"urls": "turn:host:3478", "username": "...", "credential": "..."}]`.',
    )
    ice_transport_policy: IceTransportPolicy = Field(
        IceTransportPolicy.ALL,
        description="`relay`: media goes through a TURN server only; `all`: it takes what works.",
    )
    udp_ports: Ports | None = Field(
        None,
        description="UDP ports for media, as in `40000-40100`; one a session, two while it"
        " reconnects. None: the system chooses.",
    )
    twilio_account_sid: str | None = Field(
        None, description="With the token: TURN servers of Twilio's for every connection."
    )
    twilio_auth_token: SecretStr | None = Field(None, description="Twilio's secret for it.")
    twilio_api_url: ServerUrl = Field(
        "https://api.twilio.com", description="Where Twilio is asked for TURN credentials."
    )
    orch_url: ServerUrl | None = Field(
        None,
        description="Livepeer orchestrator to register with, together with its secret and the"
        " address below.",
    )
    orch_secret: SecretStr | None = Field(None, description="The orchestrator's secret.")
    orch_tls_insecure: bool = Field(
        False, description="Accept any certificate of the orchestrator; many sign their own."
    )
    capability_name: str = Field(
        "comfystream", min_length=1, description="What is registered, and what clients ask for."
    )
    capability_description: str = Field(
        "Live video through ComfyUI workflows", description="In words."
    )
    capability_url: ServerUrl | None = Field(
        None, description="The relay's own address, as the orchestrator reaches it."
    )
    capability_capacity: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Most streams at a time that the orchestrator is told of. 0: as many as there"
        " are ComfyStream servers, or `RELAY_MAX_SESSIONS` if that is less.",
    )
    capability_price_per_unit: int = Field(0, ge=0, description="Price of a unit.")
    capability_price_scaling: int = Field(1, ge=1, description="Units that the price is for.")
    capability_currency: str = Field(
        "", description="Of the price, one that the orchestrator can convert; none: its own."
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
    udp_bursts: bool = Field(
        True,
        description="Hand a picture's packets to the kernel together (Linux, UDP_SEGMENT); where"
        " that is refused, they leave one by one all the same.",
    )
    api_token: Token | None = Field(
        None,
        description="Secret that every call but `GET /health`, `/healthz` and `/readyz` must bring,"
        " as `Authorization: Bearer TOKEN`. None: everybody who reaches the port may call.",
    )
    requests_per_second: int = Field(
        200,
        ge=0,
        description="Most requests of one client address; more are answered 429. 0: no limit.",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="Hosts that sessions may name in their addresses, separated by commas: names,"
        " `*.names`, addresses, networks (10.0.0.0/8), each perhaps with `:port`. None: all but"
        " link-local and cloud metadata addresses.",
    )
    tls_ca_file: CaFile | None = Field(
        None, description="Certificate authorities to trust beside the system's, PEM."
    )
    tls_insecure: bool = Field(
        False, description="Accept any certificate of trickle servers and ComfyStream."
    )
    metrics_per_session: bool = Field(
        False,
        description="Label what sessions measure with their `session_id`, at `/metrics`: for a few"
        " sessions that run long.",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Another port on which `/metrics` answers, without the token, for scrapers that"
        " can't bring it. 0: none.",
    )
    cors_origins: Origins = Field(
        (), description="Web origins whose pages may call the API, separated by commas."
    )
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="Largest request body."
    )
    event_loop: EventLoop = Field(
        EventLoop.AUTO,
        description="`uvloop`, `asyncio`, or `auto`: uvloop where it is installed.",
    )

    @model_validator(mode="after")
    def _check_waits(self) -> Settings:
        if self.reconnect_longest_wait_s < self.reconnect_first_wait_s:
            raise ValueError(
                f"{variable_name('reconnect_longest_wait_s')} must not be shorter than"
                f" {variable_name('reconnect_first_wait_s')}"
            )
        return self

    @model_validator(mode="after")
    def _check_journal(self) -> Settings:
        if self.resume and self.state_dir is None:
            raise ValueError("RELAY_RESUME takes sessions from a journal: set RELAY_STATE_DIR")
        return self

    @model_validator(mode="after")
    def _check_turn(self) -> Settings:
        if bool(self.twilio_account_sid) != bool(self.twilio_auth_token):
            raise ValueError("TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN go together: set both")
        urls = [url for server in self.ice_servers for url in server.urls]
        turn = self.twilio_account_sid or any(url.startswith("turn") for url in urls)
        if self.ice_transport_policy is IceTransportPolicy.RELAY and not turn:
            raise ValueError(
                "RELAY_ICE_TRANSPORT_POLICY is relay and there is no TURN server: name one in"
                " RELAY_ICE_SERVERS, or use all"
            )
        return self

    @model_validator(mode="after")
    def _check_registration(self) -> Settings:
        if self.orch_url and not (self.orch_secret and self.capability_url):
            raise ValueError(
                "ORCH_URL registers with an orchestrator, which takes ORCH_SECRET and"
                " CAPABILITY_URL as well: set them, or none of the three"
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


def variable_name(setting: str) -> str:
    """The environment variable of a setting."""
    return OWN_NAMES.get(setting) or PREFIX + setting.upper()


def servers(settings: Settings) -> tuple[str, ...]:
    """The ComfyStream servers that the operator named."""
    return settings.comfystream_urls or (settings.comfystream_url,)


def host_rules(settings: Settings) -> HostRules:
    """Where sessions may make the relay connect to; servers the operator named count in."""
    twilio = [settings.twilio_api_url] if settings.twilio_account_sid else []
    return HostRules(settings.allowed_hosts, own=[*servers(settings), *twilio])
