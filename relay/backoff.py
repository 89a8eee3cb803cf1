"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Iterator
from random import uniform


def backoff(first_s: float, cap_s: float, *, factor: float = 2.0) -> Iterator[float]:
    """Seconds to wait before each further attempt, without end: `first_s`, then `factor` times
    more up to `cap_s`, each varied by a fifth either way so that many clients of one server
    don't come back in step."""
    delay_s = first_s
    while True:
        yield uniform(0.8, 1.2) * delay_s
        delay_s = min(cap_s, delay_s * factor)
