"""Health from ages: the nearest cause is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.session_health import Ages, Health, judge

WELL = Ages(
    started_s=60,
    input_s=0.03,
    output_s=0.03,
    processing_well=True,
    segments_waiting=1,
    segment_lost_s=None,
)


@pytest.mark.parametrize(
    ("change", "health"),
    [
        ({}, Health.OK),
        ({"input_s": 3.5}, Health.DEGRADED_INPUT),
        ({"input_s": None}, Health.DEGRADED_INPUT),
        ({"input_s": 3.5, "output_s": 9.0, "processing_well": False}, Health.DEGRADED_INPUT),
        ({"output_s": 6.0}, Health.STALLED),
        ({"output_s": None}, Health.STALLED),
        ({"output_s": 6.0, "processing_well": False}, Health.STALLED),
        ({"processing_well": False}, Health.DEGRADED_PROCESSING),
        ({"output_s": 4.0}, Health.DEGRADED_OUTPUT),
        ({"segments_waiting": 3}, Health.DEGRADED_OUTPUT),
        ({"segment_lost_s": 5.0}, Health.DEGRADED_OUTPUT),
        ({"segment_lost_s": 15.0}, Health.OK),
        ({"started_s": 2, "input_s": None, "output_s": None}, Health.OK),
        ({"started_s": 2, "processing_well": False}, Health.OK),
    ],
)
def test_health_names_the_nearest_cause(change: dict[str, object], health: Health) -> None:
    """One thing changed about a session that is well, or at its start."""
    assert judge(replace(WELL, **change)) is health  # type: ignore[arg-type]
