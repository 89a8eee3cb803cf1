"""Whether a session is well, told from ages alone; nothing here is stored.

The state says what a session is doing; its health, what reaches the viewer, and which part of the
path to look at if that is not what should.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FIRST_S = 5.0
"""What a session may take from its start to its first picture, at either end, and be well."""
LATE_S = 3.0
"""A picture that is older than this at a place where they should flow is a fault there."""
STALLED_S = 5.0
LOSS_REMEMBERED_S = 10.0
SEGMENTS_IN_STEP = 2
"""Output segments that may wait: the one under way and the next."""


class Health(StrEnum):
    """What to look at, the nearest cause first."""

    OK = "ok"
    DEGRADED_INPUT = "degraded_input"
    """No pictures come from the input; nothing further on can be judged."""
    STALLED = "stalled"
    """They come, and none leaves: the viewer's picture stands."""
    DEGRADED_PROCESSING = "degraded_processing"
    """They leave unprocessed, or not as often as they should."""
    DEGRADED_OUTPUT = "degraded_output"
    """The output channel takes them too slowly, or lost some."""


@dataclass(frozen=True, slots=True)
class Ages:
    """What `judge` looks at. Seconds; None for what has not happened."""

    started_s: float
    input_s: float | None
    """Since a picture was decoded."""
    output_s: float | None
    """Since a picture was written to the output channel."""
    processing_well: bool
    """Whether processed pictures come back."""
    segments_waiting: int
    segment_lost_s: float | None


def judge(ages: Ages) -> Health:
    """The health of a session that runs."""
    starting = ages.started_s <= FIRST_S
    if not _flows(ages.input_s, LATE_S, starting):
        return Health.DEGRADED_INPUT
    if not _flows(ages.output_s, STALLED_S, starting):
        return Health.STALLED
    if not ages.processing_well and not starting:
        return Health.DEGRADED_PROCESSING
    lost_lately = ages.segment_lost_s is not None and ages.segment_lost_s < LOSS_REMEMBERED_S
    behind = ages.segments_waiting > SEGMENTS_IN_STEP
    if lost_lately or behind or not _flows(ages.output_s, LATE_S, starting):
        return Health.DEGRADED_OUTPUT
    return Health.OK


def _flows(age_s: float | None, limit_s: float, starting: bool) -> bool:
    return starting if age_s is None else age_s <= limit_s
