"""How many inputs a fuzz test tries: few and the same in CI, many and new ones by hand.

    make fuzz

runs them with `HYPOTHESIS_PROFILE=long`; what fails is kept in `.hypothesis` and tried first the
next time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
LONG_FACTOR = 100


def examples(number: int) -> settings:
    """`number` inputs; in the long profile a hundred times as many, other ones each time."""
    return settings(
        max_examples=number * (LONG_FACTOR if LONG else 1),
        derandomize=not LONG,
        database=settings.default.database if LONG and settings.default else None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
