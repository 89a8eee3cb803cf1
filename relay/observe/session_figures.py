"""What a session measures about itself, at one moment: the ground of its diagnosis and events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.session_health import Health
from relay.session_state import SessionState


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """A moment of one session, in the order the video flows. Ages in seconds, None for what has
    not happened; rates are per second over the last two."""

    state: SessionState
    state_reason: str = ""
    health: Health | None = None
    """None once it ends."""
    started_s: float = 0.0
    paused: bool = False
    workflow: bool = True
    """Whether ComfyStream is to do anything to the frames."""

    fps_in: float = 0.0
    """Pictures decoded."""
    source_fps: float | None = None
    """What the source's own timestamps say there should be."""
    source_pace: float | None = None
    """Seconds of media a second."""
    input_age_s: float | None = None
    first_input_age_s: float | None = None
    input_is_sound: bool = False
    """Whether the input has sound and no pictures."""
    input_problem: str | None = None
    """What keeps the input channel from being read."""
    undecodable: str | None = None
    """What keeps its pictures from being decoded, as far as that can be told."""
    segments_behind: int = 0

    link: str = "connecting"
    problem: str | None = None
    """What keeps frames from being processed, in words."""
    problem_code: str | None = None
    missing_nodes: str | None = None
    """Node classes of a workflow that the server does not run."""
    attempts: int = 0
    reconnects: int = 0
    fps_sent: float = 0.0
    fps_returned: float = 0.0
    first_processed_age_s: float | None = None
    fallback_active: bool = False

    fps_encoded: float = 0.0
    fps_out: float = 0.0
    output_age_s: float | None = None
    first_output_age_s: float | None = None
    output_problem: str | None = None
    """What keeps the output channel from being written."""
    segment_lost_age_s: float | None = None

    codec_load: float = 0.0
    """Share of their time in which the codec threads, which all sessions share, work."""
    queue_sizes: Mapping[str, int] = field(default_factory=dict)
    queue_capacities: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Items not delivered, by queue and reason, since the start."""
    shed: bool = False
    """Whether every second frame is left out because the relay has too much to do."""

    error: str | None = None
    error_code: str | None = None
    end_reason: str | None = None
