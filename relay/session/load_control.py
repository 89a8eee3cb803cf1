"""How busy the relay is, and what is done about it: who is let in, and what is left out.

Once a second the load is measured (`observe.load_meter`). It decides whether another session is
admitted (`admission`), and, when even what runs is too much, what is shed, in which order
(`shedding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from relay.codec_executor import CodecExecutor
from relay.config.settings import Settings
from relay.errors import BusyError
from relay.observe.event_hub import EventHub, EventKind
from relay.observe.load_meter import Load, LoadMeter
from relay.observe.loop_lag import LoopLag
from relay.observe.tally import Tally
from relay.session.admission import Admission
from relay.session.session import Session
from relay.session.shedding import Shedding, Step

log = structlog.get_logger(__name__)


class LoadControl:
    """Of one relay. Belongs to the event loop.

    Args:
        events: told when sessions are refused or taken again, and of what is shed.
        running: the sessions that run, oldest first.
    """

    def __init__(
        self, settings: Settings, events: EventHub, running: Callable[[], Sequence[Session]]
    ) -> None:
        self.loop_lag = LoopLag()
        self._settings = settings
        self._events = events
        self._running = running
        self._admission = Admission(settings.max_load)
        self._shedding = Shedding()
        self._codecs: CodecExecutor | None = None
        self._meter: LoadMeter | None = None

    def start(self, codecs: CodecExecutor) -> None:
        """Begin to measure; returns at once."""
        self._codecs = codecs
        self.loop_lag.start()
        self._meter = LoadMeter(codecs, self.loop_lag, self.note)
        self._meter.start()

    async def aclose(self) -> None:
        """End. Idempotent."""
        if self._meter is not None:
            await self._meter.aclose()
        await self.loop_lag.aclose()

    def supervisors(self) -> dict[str, bool]:
        """Its tasks by name, and whether each lives."""
        return {
            "loop_lag": self.loop_lag.alive,
            "load": self._meter is not None and self._meter.alive,
        }

    def refusal(self, sessions: int) -> BusyError | None:
        """Why there is no room for one more than so many sessions; None if there is."""
        return self._admission.refusal(sessions)

    def lagging(self) -> BusyError | None:
        """That the event loop comes late; None if it does not."""
        if not self.loop_lag.lagging:
            return None
        lag_ms = round(self.loop_lag.worst_s * 1000)
        return BusyError(
            f"the relay has too much to do: its event loop comes up to {lag_ms} ms late",
            code="lagging",
        )

    @property
    def taken(self) -> float:
        """How much of what the relay can is taken, by whatever there is less left of."""
        return max(self._now.work, self._now.strain)

    def occupancy(self) -> dict[str, Any]:
        """Its part of `GET /capacity`."""
        now = self._now
        return {
            "event_loop_lag_ms": round(self.loop_lag.worst_s * 1000, 1),
            "max_load": self._settings.max_load or None,
            "cores": round(self._meter.cores, 2) if self._meter is not None else None,
            "cpu": round(now.cpu, 3),
            "event_loop_cpu": round(now.loop, 3),
            "codec_wait_ms": round(now.codec_wait_s * 1000, 1),
            "shed": {
                "previews": self._shedding.previews,
                "sessions": [*self._shedding.sessions],
            },
        }

    def tally(self, tally: Tally) -> None:
        """Add what was measured."""
        tally.measured("event_loop_lag_seconds", histogram=self.loop_lag.histogram)
        if self._meter is not None:
            tally.stands("cores", at=self._meter.cores)
            tally.stands("load", "cpu", at=self._now.cpu)
            tally.stands("load", "event_loop", at=self._now.loop)
            tally.stands("load", "strain", at=self._now.strain)
        tally.stands("shed", "previews", at=int(self._shedding.previews))
        tally.stands("shed", "frames", at=len(self._shedding.sessions))

    @property
    def _now(self) -> Load:
        return self._meter.now if self._meter is not None else Load()

    def note(self, load: Load) -> None:
        """A second's figures."""
        sessions, refused = len(self._running()), self._admission.refusing
        self._admission.note(load, sessions)
        if self._admission.refusing is not refused:
            problem = "overloaded" if self._admission.refusing else None
            self._events.publish(EventKind.RELAY, problem=problem, sessions=sessions)
        if self._settings.shed:
            self._shed(load)

    def _shed(self, load: Load) -> None:
        """Leave out, or bring back, what the load of the last second says."""
        running = {session.session_id: session for session in self._running()}
        steps = self._shedding.look(
            load,
            [*running],
            willing=[name for name, session in running.items() if session.may_be_shed],
            viewers=any(session.viewing.status()["now"] for session in running.values()),
        )
        for step in steps:
            if step.session_id is not None:
                running[step.session_id].shed_frames(step.on)
            elif self._codecs is not None:
                self._codecs.beside_rests = step.on
            self._tell(step, load)

    def _tell(self, step: Step, load: Load) -> None:
        self._events.publish(EventKind.SHED, step.session_id, what=step.what.value, on=step.on)
        facts = {
            "what": step.what.value,
            "session_id": step.session_id,
            "strain": round(load.strain, 2),
            "load": round(load.work, 2),
        }
        if step.on:
            log.warning("relay.shed", **facts)
        else:
            log.info("relay.restored", **facts)
