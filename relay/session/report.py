"""What a session tells of itself: status, figures, counts, health, and what a gateway is told.

It looks at the session and changes nothing. When the session ends, the last answers are kept and
the parts that they came from are let go.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Protocol

from relay.changes.session_change import ChangeQueue
from relay.channels.channels import SessionChannels
from relay.channels.stream_events import StreamReporter, StreamView
from relay.channels.text_output import TextOutput
from relay.errors import ProcessingError, RelayError
from relay.observe.diagnosis import diagnose
from relay.observe.session_figures import SessionFigures
from relay.observe.tally import Tally
from relay.pipeline.pipeline import Pipeline
from relay.processing.link_record import LinkRecord
from relay.redaction import mask_credentials
from relay.session_config import SessionConfig
from relay.session_health import Health, judge
from relay.session_state import EndReason, SessionState

_OVERVIEW = (
    *("session_id", "status", "health", "diagnosis", "input_stream_url", "output_stream_url"),
    *("comfystream_url", "width", "height", "created_at", "ended_at", "mode", "paused"),
    *("queue_sizes", "queue_capacities", "frames_dropped"),
    *("fps_in", "fps_out", "delay_ms", "webrtc_state"),
    *("processing", "input", "output", "end_reason", "error", "error_code"),
)
"""Fields of the status that `SessionReport.overview` has too."""
_CHANGED_PARAMS = ("prompts", "width", "height")


class ReportedSession(Protocol):
    """A session, as far as its report is concerned."""

    session_id: str
    config: SessionConfig
    """In force now."""
    state: SessionState
    state_reason: str
    created_at: datetime
    ended_at: datetime | None
    end_reason: EndReason | None
    error: RelayError | None
    text: TextOutput


class SessionReport:
    """Of one session.

    Args:
        session: with the configuration that it was asked for.
        link: to its ComfyStream server.
        changes: those that wait, and what became of the others.
    """

    def __init__(
        self,
        session: ReportedSession,
        pipeline: Pipeline,
        link: LinkRecord,
        channels: SessionChannels,
        changes: ChangeQueue,
    ) -> None:
        self._session = session
        self._asked = session.config
        self._pipeline = pipeline
        self._link = link
        self._channels = channels
        self._changes = changes
        self._stream_reporter = self.new_stream_reporter()
        """For `stream_status`; asked after every change, so that it knows when."""
        self._final_status: dict[str, Any] | None = None
        self._final_stream_status: dict[str, Any] | None = None
        self._final_tally: Tally | None = None

    # -- the end ------------------------------------------------------------------------------

    @property
    def final(self) -> bool:
        """Whether the answers are the last ones."""
        return self._final_status is not None

    def finish(self) -> None:
        """The session has ended: what it tells stays as it is now."""
        past = Tally()
        past.add_past(self.tally())
        self._final_tally = past
        self._final_status = self.status()
        self._final_stream_status = self.stream_status()

    def let_go(self) -> None:
        """Hold nothing but the last answers: not codecs and queues. After `finish`."""
        del self._pipeline, self._link

    # -- for people ---------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """The session's entry in `GET /sessions`."""
        session = self._session
        return {
            "session_id": session.session_id,
            "status": session.state.value,
            "input_stream_url": mask_credentials(session.config.input_stream_url),
            "output_stream_url": mask_credentials(session.config.output_stream_url),
            "created_at": _timestamp(session.created_at),
            "health": self._health_word(),
            "end_reason": _value(session.end_reason),
        }

    def status(self) -> dict[str, Any]:
        """The `session` object of `GET /session/{id}/status`."""
        if self._final_status is not None:
            return self._final_status
        session, config = self._session, self._session.config
        error = session.error
        diagnosis = diagnose(self.figures())
        return {
            "session_id": session.session_id,
            "status": session.state.value,
            "health": self._health_word(),
            "diagnosis": diagnosis.to_dict() if diagnosis else None,
            "input_stream_url": mask_credentials(config.input_stream_url),
            "output_stream_url": mask_credentials(config.output_stream_url),
            "comfystream_url": mask_credentials(config.comfystream_url),
            "width": config.width,
            "height": config.height,
            "created_at": _timestamp(session.created_at),
            "queue_sizes": self._pipeline.queue_sizes(),
            "webrtc_state": self._link.webrtc_state,
            "fit": config.fit.value,
            "segment_seconds": config.segment_seconds,
            "on_overload": config.on_overload.value,
            "output_fps": config.output_fps or None,
            "mode": "workflow" if config.prompts else "passthrough",
            "ended_at": _timestamp(session.ended_at) if session.ended_at else None,
            "end_reason": _value(session.end_reason),
            "error": error.message if error else None,
            "error_code": error.code if error else None,
            "warnings": list(config.warnings),
            "paused": config.paused,
            "changes": self._changes.status(),
            "channels": self._channels.status(),
            "text": session.text.status(),
            "processing": self._link.status(),
            **self._pipeline.status(),
        }

    def overview(self) -> dict[str, Any]:
        """What a list of sessions shows of it, once a second."""
        status = self.status()
        return {name: status[name] for name in _OVERVIEW}

    def fps_report(self) -> dict[str, Any]:
        """The output's frame rate as ComfyStream's `/streams/stats` has it; while it runs."""
        return self._pipeline.minute()

    # -- for diagnosis, events and metrics ----------------------------------------------------

    @property
    def problem(self) -> ProcessingError | None:
        """What keeps its frames from being processed now."""
        return None if self._session.state.final else self._link.problem

    def figures(self) -> SessionFigures:
        """What it measures now; until it has ended."""
        session = self._session
        return SessionFigures(
            state=session.state,
            state_reason=session.state_reason,
            health=self._health(),
            started_s=self._started_s(),
            paused=session.config.paused,
            workflow=bool(session.config.prompts),
            error=session.error.message if session.error else None,
            error_code=session.error.code if session.error else None,
            end_reason=_value(session.end_reason),
            **self._pipeline.figures(),
            **self._link.figures(),
        )

    async def measure(self) -> None:
        """Look at what only asking tells, for the next `tally`; never waits."""
        if not self.final:
            await self._link.measure()

    def tally(self) -> Tally:
        """What it has counted and measured."""
        if self._final_tally is not None:
            return self._final_tally
        tally, figures = Tally(), self.figures()
        tally.stands("sessions", figures.state.value)
        if figures.health is not None:
            tally.stands("sessions_health", figures.health.value)
        if (diagnosis := diagnose(figures)) is not None:
            tally.stands("sessions_bottleneck", diagnosis.stage.value)
        counts = self._changes.counts
        tally.count("changes_total", "applied", by=counts.applied)
        tally.count("changes_total", "superseded", by=counts.superseded)
        tally.count("changes_total", "failed", by=counts.failed)
        viewers = self._pipeline.viewing.status()
        tally.stands("viewers", at=viewers["now"])
        tally.count("viewers_dropped_total", by=viewers["dropped"])
        self._pipeline.tally(tally)
        self._link.tally(tally)
        return tally

    # -- for gateways -------------------------------------------------------------------------

    def view(self) -> StreamView:
        """The session as a gateway is told of it; until it has ended."""
        session, pipeline, link = self._session, self._pipeline, self._link
        problem = session.error or self.problem
        return StreamView(
            state=session.state,
            health=self._health(),
            width=session.config.width,
            height=session.config.height,
            fps_in=round(pipeline.frames_in.rate, 1),
            fps_out=round(link.fps_returned, 1),
            frames_in=pipeline.frames_in.total,
            frames_out=pipeline.frames_out.total,
            frames_waiting=sum(pipeline.queue_sizes().values()),
            input_age_s=pipeline.frames_in.age_s,
            first_input_age_s=pipeline.frames_in.first_age_s,
            output_age_s=pipeline.frames_out.age_s,
            first_processed_age_s=link.first_processed_age_s,
            problem=problem.message if problem else None,
            problem_code=problem.code if problem else None,
            reconnects=link.reconnects,
            params=self._params(),
            end_reason=_value(session.end_reason),
        )

    def stream_status(self) -> dict[str, Any]:
        """The session in the words of ai-runner's status object."""
        if self._final_stream_status is not None:
            return self._final_stream_status
        return self._stream_reporter.status(self.view(), round(time.time() * 1000))

    def new_stream_reporter(self) -> StreamReporter:
        """What turns views of the session into a gateway's messages; each remembers what it told.

        Only with the configuration that the session was asked for.
        """
        config = self._asked
        urls = {
            "subscribe": config.input_stream_url,
            "publish": config.output_stream_url,
            "control": config.control_url or "",
            "events": config.events_url or "",
            "data": config.data_url or "",
        }
        return StreamReporter(
            config.names,
            self._session.session_id,
            round(self._session.created_at.timestamp() * 1000),
            {name: mask_credentials(url) for name, url in urls.items()},
        )

    def _params(self) -> dict[str, Any]:
        """What an orchestrator asked for, and what was changed since."""
        now, asked = self._session.config, self._asked
        changed = [n for n in _CHANGED_PARAMS if getattr(now, n) != getattr(asked, n)]
        return {**now.params, **{name: getattr(now, name) for name in changed}}

    # -- for all of them ----------------------------------------------------------------------

    def _health(self) -> Health | None:
        state = self._session.state
        if state is SessionState.STOPPING or state.final:
            return None
        started_s = self._started_s()
        return judge(self._pipeline.ages(started_s=started_s, processing_well=self._link.well))

    def _health_word(self) -> str | None:
        health = self._health()
        return health.value if health else None

    def _started_s(self) -> float:
        return (datetime.now(UTC) - self._session.created_at).total_seconds()


def _value(reason: EndReason | None) -> str | None:
    return reason.value if reason else None


def _timestamp(moment: datetime) -> str:
    """UTC without zone, to the second, as the HTTP contract shows it."""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds")
