"""What can be made to go wrong, at start and while the stand-in runs.

`Faults` is the whole set, typed and validated; `FaultBoard` holds the one in force and tells
whoever must act at once. The worker thread reads it too: a `Faults` is immutable and replaced as
a whole, so no lock is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number_or_list(value: Any) -> Any:
    """Accept ``40``, ``[10, 40]`` and, from the command line, ``"10,40"``."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,)
    return value


Milliseconds = Annotated[float, Field(ge=0, le=120_000)]
Count = Annotated[int, Field(ge=0)]


class Faults(BaseModel):
    """Every switch, with what an undisturbed ComfyStream v0.1.8 does as the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The worker.
    process_ms: Annotated[
        tuple[Milliseconds, ...], BeforeValidator(_number_or_list), Field(min_length=1)
    ] = Field(
        (0.0,),
        description="time of one workflow run, from taking its frame to its output; "
        "several values are used in turn, one a run",
    )
    pairing_bug: bool = Field(
        True,
        description="output k carries the timestamp of input k, whichever input it shows; "
        "off: every output carries its own (ComfyStream up to v0.1.4)",
    )
    frozen: bool = Field(False, description="start no further workflow runs")
    fail_after_runs: Count | None = Field(
        None, description="a node raises once this many runs of the workflow succeeded"
    )
    output_ratio: float = Field(
        1.0, ge=0, le=4, description="video outputs for one input: 2 doubles, 0.5 halves"
    )
    race: Literal["worst", "chance"] = Field(
        "worst",
        description="a prompt offer beside a silent prompt peer, or too soon after one was "
        "cleaned up: always wedge, or only when the threads happen to meet that way",
    )
    wedged: bool = Field(
        False,
        description="hold the prompt lock: every prompt offer and POST /prompt hangs; "
        "the real server never comes back from it",
    )

    # Signalling.
    offer_delay_s: float = Field(0.0, ge=0, le=120, description="wait before answering /offer")
    offer_failure: Literal["none", "500", "reset"] = Field(
        "none", description="answer /offer with a 500, or reset the connection"
    )
    offer_failures: Count | None = Field(
        None,
        description="how many offers `offer_failure` hits, counted from the last change of "
        "either; without it, all",
    )
    control_silent: bool = Field(False, description="never answer on the control channel")
    control_delay_s: float = Field(0.0, ge=0, le=120, description="answer that much later")

    # Media on its way in.
    drop_inputs: Count = Field(
        0, description="frames lost at the start of a connection, before the workflow sees them"
    )
    drop_input_every: int | None = Field(
        None, ge=1, description="every n-th frame lost, before the workflow sees it"
    )
    ignore_pli: bool = Field(False, description="send no keyframe when asked for one")

    # Media on its way out.
    withhold_media: bool = Field(False, description="return nothing, though connected")
    lose_returned: Count = Field(
        0, description="frames lost at the start of a connection, after the workflow"
    )
    lose_returned_every: int | None = Field(
        None, ge=1, description="every n-th frame lost, after the workflow"
    )
    video_sender_dies_after: Count | None = Field(
        None, description="the video sender ends after this many frames, still connected"
    )
    audio_sender_dies_after: Count | None = Field(
        None, description="the audio sender ends after this many frames, still connected"
    )
    output_width: int | None = Field(
        None, ge=1, le=4096, description="width of what returns; odd ends the video sender"
    )
    output_height: int | None = Field(None, ge=1, le=4096, description="height of what returns")
    output_size_after: Count = Field(
        0, description="frames of the connection that keep their size before that"
    )
    noise: bool = Field(False, description="return noise instead of pictures")
    oversized_keyframe_every: int | None = Field(
        None,
        ge=1,
        description="make every n-th returned frame a keyframe of noise (~500 KB at 720p)",
    )
    undecodable: bool = Field(False, description="return H.264 that no decoder can use")
    rtp_origin: int | None = Field(
        None,
        ge=0,
        lt=1 << 32,
        description="RTP timestamp of the first returned frame, for connections made after "
        "this is set; without it, random",
    )


class FaultBoard:
    """The faults in force."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.current = faults if faults is not None else Faults()
        self._listeners: list[Callable[[Faults], None]] = []

    def subscribe(self, listener: Callable[[Faults], None]) -> None:
        """Call `listener` with the faults in force, now and after every change."""
        self._listeners.append(listener)
        listener(self.current)

    def update(self, changes: Mapping[str, Any]) -> Faults:
        """Change the named faults, leave the others.

        Raises:
            pydantic.ValidationError: an unknown name or an impossible value; nothing changed.
        """
        self._set(Faults.model_validate({**self.current.model_dump(), **changes}))
        return self.current

    def drops_input(self, number: int) -> bool:
        """Whether frame `number` of a connection, counted from 1, is lost on its way in."""
        faults = self.current
        return number <= faults.drop_inputs or _nth(number, faults.drop_input_every)

    def loses_returned(self, number: int) -> bool:
        """Whether frame `number` of a connection, counted from 1, is lost on its way back."""
        faults = self.current
        return (
            faults.withhold_media
            or number <= faults.lose_returned
            or _nth(number, faults.lose_returned_every)
        )

    def reset(self) -> Faults:
        """Back to an undisturbed server."""
        self._set(Faults())
        return self.current

    def _set(self, faults: Faults) -> None:
        self.current = faults
        for listener in self._listeners:
            listener(faults)


def _nth(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0
