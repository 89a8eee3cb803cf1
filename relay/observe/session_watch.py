"""Tells what has happened to a session from how it was and how it is.

Pure: whoever looks brings the figures and the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay.observe.diagnosis import Diagnosis, diagnose
from relay.observe.event_hub import EventKind
from relay.observe.session_figures import SessionFigures

DROPS_PER_SECOND = 2.0
"""A frame lost now and then is in the counters; more than this is an event."""
DROPS_EVERY_S = 10.0
"""How often drops that go on are told again."""
ASKED_FOR = frozenset({"paused", "resized", "stopped", "output_rate"})
"""Reasons that are what somebody wanted."""

Happening = tuple[EventKind, dict[str, Any]]


@dataclass(slots=True)
class _Drops:
    """Of one queue and reason."""

    seen: int = 0
    told: int = 0
    told_at: float = float("-inf")


class SessionWatch:
    """What has been told of one session."""

    def __init__(self) -> None:
        self._before: SessionFigures | None = None
        self._failure: tuple[str, int] | None = None
        self._diagnosed: Diagnosis | None = None
        self._drops: dict[tuple[str, str], _Drops] = {}
        self._drops_at: float | None = None

    def look(self, figures: SessionFigures, now: float) -> list[Happening]:
        """What has happened since the last look, in order.

        Args:
            now: monotonic seconds.
        """
        happened = [
            *self._state(figures),
            *self._first_frames(figures),
            *self._link(figures),
            *self._health(figures),
            *self._diagnosis(figures),
            *self._dropped(figures, now),
        ]
        self._before = figures
        return happened

    def _state(self, figures: SessionFigures) -> list[Happening]:
        old = self._before.state if self._before else None
        if figures.state is old:
            return []
        data = {
            "old": old.value if old else None,
            "new": figures.state.value,
            "reason": figures.state_reason,
        }
        if figures.state.final:
            data |= {
                "end_reason": figures.end_reason,
                "error": figures.error,
                "error_code": figures.error_code,
            }
        return [(EventKind.STATE, data)]

    def _first_frames(self, figures: SessionFigures) -> list[Happening]:
        before = self._before
        moments = (
            ("input", figures.first_input_age_s, before.first_input_age_s if before else None),
            (
                "processed",
                figures.first_processed_age_s,
                before.first_processed_age_s if before else None,
            ),
            ("output", figures.first_output_age_s, before.first_output_age_s if before else None),
        )
        return [
            (
                EventKind.FIRST_FRAME,
                {"at": place, "after_s": round(max(0.0, figures.started_s - age_s), 3)},
            )
            for place, age_s, age_before_s in moments
            if age_s is not None and age_before_s is None
        ]

    def _link(self, figures: SessionFigures) -> list[Happening]:
        happened: list[Happening] = []
        if figures.reconnects > (self._before.reconnects if self._before else 0):
            happened.append((EventKind.RECONNECT, {"reconnects": figures.reconnects}))
        failure = None
        if figures.problem_code is not None:
            failure = figures.problem_code, figures.attempts
        if failure is not None and failure != self._failure:
            data = {
                "code": figures.problem_code,
                "error": figures.problem,
                "attempt": figures.attempts,
            }
            happened.append((EventKind.ERROR, data))
        self._failure = failure
        return happened

    def _health(self, figures: SessionFigures) -> list[Happening]:
        old = self._before.health if self._before else None
        if figures.health is None or figures.health is old:
            return []
        data = {"old": old.value if old else None, "new": figures.health.value}
        return [(EventKind.HEALTH, data)]

    def _diagnosis(self, figures: SessionFigures) -> list[Happening]:
        before, self._diagnosed = self._diagnosed, diagnose(figures)
        now = self._diagnosed
        # The figures in its words change all the time.
        if (now and (now.stage, now.remedy)) == (before and (before.stage, before.remedy)):
            return []
        return [(EventKind.DIAGNOSIS, {"diagnosis": now.to_dict() if now else None})]

    def _dropped(self, figures: SessionFigures, now: float) -> list[Happening]:
        # Counted over a second at least: looks come also in between.
        if self._drops_at is not None and now - self._drops_at < 1.0:
            return []
        since, self._drops_at = self._drops_at, now
        happened: list[Happening] = []
        for queue, reasons in figures.dropped.items():
            for reason, total in reasons.items():
                if reason in ASKED_FOR:
                    continue
                drops = self._drops.setdefault((queue, reason), _Drops())
                new, drops.seen = total - drops.seen, total
                interval_s = now - since if since is not None else 1.0
                above = new / interval_s > DROPS_PER_SECOND
                if above and now - drops.told_at >= DROPS_EVERY_S:
                    data = {
                        "queue": queue,
                        "reason": reason,
                        "count": total - drops.told,
                        "per_second": round(new / interval_s, 1),
                    }
                    drops.told, drops.told_at = total, now
                    happened.append((EventKind.DROPS, data))
        return happened
