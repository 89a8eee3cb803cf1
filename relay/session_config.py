"""What a session was asked for, validated and with every default filled in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fit(StrEnum):
    """How a picture of another shape is brought to the session's width and height."""

    CONTAIN = "contain"
    """All of it, with black bars."""
    COVER = "cover"
    """Fill the frame, cut what hangs over."""
    STRETCH = "stretch"
    """Fill the frame, give up the aspect ratio."""


class OnOverload(StrEnum):
    """What happens to frames that come faster than they are processed."""

    DROP = "drop"
    """The newest goes, the others are skipped: live."""
    WAIT = "wait"
    """Every frame waits its turn, and the input waits with them: complete."""


class FallbackMode(StrEnum):
    """What goes out while nothing comes back from ComfyStream."""

    PASSTHROUGH = "passthrough"
    """The source's frames, unprocessed."""
    REPEAT = "repeat"
    """The last processed picture again, once a source frame."""
    NONE = "none"
    """No pictures."""


class AudioMode(StrEnum):
    """Where the output's sound comes from."""

    AUTO = "auto"
    """`process` if the workflow gives sound back, else `bypass`."""
    BYPASS = "bypass"
    """The source's, around the server, untouched."""
    PROCESS = "process"
    """The server's; the source's own, encoded again, while the server is away."""
    OFF = "off"
    """Nowhere: the output has none."""


class AudioCodec(StrEnum):
    """What processed sound is encoded in."""

    AAC = "aac"
    OPUS = "opus"


class Coding(StrEnum):
    """What becomes of coded pictures at one side of a session."""

    TRANSCODE = "transcode"
    """They are decoded and encoded."""
    COPY = "copy"
    """They are passed on as they are, wherever that is possible."""
    AUTO = "auto"
    """The same, and not soon again where it did not last."""


@dataclass(frozen=True, slots=True)
class StreamNames:
    """What an orchestrator and its gateway call a stream; in what they are told of it."""

    request_id: str
    """The gateway's request; with some of them the stream's name."""
    stream_id: str = ""
    manifest_id: str = ""
    model_id: str = ""
    header_id: str = ""
    """What `X-Stream-Id` called it."""
    digest: str = ""
    """Of the request: the same start sent again has the same."""

    @property
    def all(self) -> frozenset[str]:
        """Everything that later calls may name the stream by."""
        return frozenset({self.request_id, self.stream_id, self.manifest_id, self.header_id} - {""})


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """One session's request. Made by the HTTP border; nothing further in checks it again."""

    input_stream_url: str
    """Empty: no pictures come in, and black ones are processed."""
    output_stream_url: str
    """Empty: what is processed is not published."""
    comfystream_url: str
    """Without a trailing slash; may end in ``/live``. Empty: any of the operator's pool."""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    """API-format workflows, ready for ComfyStream; empty passes frames through."""
    width: int = 512
    height: int = 512
    fit: Fit = Fit.CONTAIN
    segment_seconds: float = 1.0
    fallback: FallbackMode = FallbackMode.PASSTHROUGH
    on_overload: OnOverload = OnOverload.DROP
    output_fps: float = 0.0
    """Pictures a second on the output; 0 as they come."""
    max_fps: float = 0.0
    """Pictures a second that are processed at the most; 0 all."""
    ingest: Coding = Coding.TRANSCODE
    """Of the source's pictures, on their way to ComfyStream."""
    egress: Coding = Coding.TRANSCODE
    """Of what ComfyStream returns, on its way to the output."""
    audio: AudioMode = AudioMode.BYPASS
    """Never `auto` here."""
    audio_codec: AudioCodec = AudioCodec.AAC
    sends_audio: bool = False
    """The workflow takes sound, wherever the output's comes from."""
    control_url: str | None = None
    """The trickle channel that changes of the session come on; None for none."""
    data_url: str | None = None
    """The trickle channel that ComfyStream's text goes out on; None for none."""
    channels_given: bool = False
    """Somebody else made the channels, as an orchestrator does: none is waited for, or made."""
    pooled: bool = False
    """The ComfyStream server is one of the operator's pool: when it fails another one will do."""
    events_url: str | None = None
    """The channel that is told how the session fares; none is."""
    names: StreamNames | None = None
    """Of a stream that an orchestrator started."""
    params: dict[str, Any] = field(default_factory=dict)
    """What that asked for, in its own words."""
    paused: bool = False
    """Processing rests, and the output shows the fallback."""
    warnings: tuple[str, ...] = ()
    """What was understood differently than it may have been meant; shown in the status."""
