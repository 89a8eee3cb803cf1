"""One relay session: its state, its pipeline, why it ended."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from relay.changes.change_request import ChangeRequest, read_change
from relay.changes.session_change import ChangeResult, RequestedChange
from relay.channels.channels import SessionChannels
from relay.channels.events_channel import EventsChannel
from relay.channels.text_output import TextOutput
from relay.comfystream.leases import ServerLease
from relay.errors import RelayError, RequestError
from relay.log_limit import LimitedLog
from relay.observe.event_hub import EventKind
from relay.observe.session_watch import SessionWatch
from relay.pipeline.pipeline import Pipeline
from relay.processing.comfystream_processor import ComfyStreamProcessor
from relay.processing.link_record import LinkState
from relay.processing.server_move import OtherServers
from relay.resources import PipelineResources
from relay.session.report import SessionReport
from relay.session_config import OnOverload, SessionConfig
from relay.session_state import TRANSITIONS, EndReason, SessionState
from relay.sound.server_sound import ServerSound
from relay.tasks import cancel_and_wait
from relay.trickle.publisher_options import CreatePolicy

log = structlog.get_logger(__name__)


class Session:
    """A stream from one input channel through ComfyStream to one output channel.

    Made by `SessionManager`. Runs in a task of its own; nothing that goes wrong in it leaves
    it other than as its state, its reason and its error.

    Args:
        session_id: of a session that is taken up again; None makes a new one.
        other_servers: where it may go when its ComfyStream server fails; None stays.
    """

    def __init__(
        self,
        config: SessionConfig,
        resources: PipelineResources,
        session_id: str | None = None,
        *,
        other_servers: OtherServers | None = None,
    ) -> None:
        self.session_id = session_id or str(uuid.uuid4())
        self.config = config
        self.state = SessionState.STARTING
        self.state_reason = "requested"
        self.created_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self.end_reason: EndReason | None = None
        self.error: RelayError | None = None
        """The first error that ended it."""
        self.handed_over = False
        """It ended for the relay's next run to take it up again."""
        self.observers: list[Callable[[Session], None]] = []
        """Called on the event loop when its state or its configuration has changed, or an attempt
        to connect failed."""
        self._log = log.bind(session_id=self.session_id)
        self._limited_log = LimitedLog(self._log)
        self._hub = resources.events
        self._watch = SessionWatch()
        self._channels = SessionChannels(
            config,
            resources.http,
            self._handle_control,
            lambda: self._on_channel_end(EndReason.CONTROL_ENDED),
            lambda: self._on_given_end(EndReason.OUTPUT_GONE),
            wait_for_channel_s=resources.settings.input_timeout_s,
        )
        self.text = TextOutput(self._channels.data.send if self._channels.data else None)
        """What ComfyStream says beside the pictures."""
        server_sound = resources.make_server_sound(config)
        lease = (
            resources.leases.acquire(config.comfystream_url, self.session_id)
            if config.prompts
            else None
        )
        try:
            self._processor = self._make_processor(
                config, resources, lease, other_servers, server_sound
            )
            self._pipeline = Pipeline(config, resources, self._processor, server_sound)
        except BaseException:
            if lease is not None:
                lease.release()
            raise
        self.viewing = self._pipeline.viewing
        """Its pictures and its stream, for people."""
        self._changes = self._processor.changes.queue
        self.report = SessionReport(
            self, self._pipeline, self._processor.link, self._channels, self._changes
        )
        """What it tells of itself."""
        self.observers.append(Session._note_change)
        self._events: EventsChannel | None = None
        if config.events_url:
            self._events = self._make_events(config, config.events_url, resources)
        self._normalize = resources.prompts.normalize
        self._reading_change = asyncio.Lock()
        self._has_sound = server_sound is not None
        self._stopping: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Begin; returns at once."""
        if self._events is not None:
            self._events.start()
        self.look()
        self._task = asyncio.create_task(self._run(), name=f"session-{self.session_id}")

    async def stop(
        self,
        reason: EndReason = EndReason.REQUESTED,
        *,
        timeout_s: float = 2.0,
        hand_over: bool = False,
    ) -> None:
        """End it and wait until it has: what is under way is published, the peer connection is
        closed, the open segment finished, the output channel closed. Idempotent.

        Args:
            timeout_s: after so long whatever still runs is cancelled.
            hand_over: leave its channels open: the relay's next run goes on with it.
        """
        if self._task is None:
            return
        if not self.state.final and self.state is not SessionState.STOPPING:
            self.end_reason = reason
            self._set_state(SessionState.STOPPING, reason.value)
            self.handed_over = hand_over
            self._pipeline.stop(keep_output=hand_over)
        done, _ = await asyncio.wait([self._task], timeout=timeout_s)
        if not done:
            self._log.warning("session.stop_timeout", timeout_s=timeout_s)
            await cancel_and_wait([self._task])

    async def request_change(
        self, params: Mapping[str, object], *, lenient: bool = False
    ) -> RequestedChange:
        """Ask for a change of prompts, size or pause.

        Args:
            lenient: read `params` as a control channel's message.

        Raises:
            RequestError: 422 `validation_failed`; 409 `session_ended`.
        """
        if self.state is SessionState.STOPPING or self.state.final:
            raise _session_ended()
        async with self._reading_change:  # first come, first submitted
            # It may hold megabytes of workflows to be checked, and media runs on this loop.
            request = await asyncio.to_thread(
                read_change, params, self._normalize, has_sound=self._has_sound, lenient=lenient
            )
            return self._submit(request)

    def _submit(self, request: ChangeRequest) -> RequestedChange:
        if not request.change.names:
            raise RequestError(
                "the message holds nothing that can be changed", code="validation_failed"
            )
        result = self._changes.submit(request.change)
        names = sorted(request.change.names)
        result.add_done_callback(lambda done: self._tell_change(names, done))
        return RequestedChange(result, request.warnings)

    async def ask_comfystream(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Pass a message on to ComfyStream's control channel, of whatever type.

        Returns:
            Its reply; None if it sends none, as it does for what it does not know.

        Raises:
            RelayError: there is no connection, or no answer in time.
        """
        if self.state is SessionState.STOPPING or self.state.final:
            raise _session_ended()
        return await self._processor.ask(message)

    async def wait_ended(self) -> None:
        """Return when the session has ended, for whatever reason."""
        await self._ended.wait()

    def summary(self) -> dict[str, Any]:
        """See `SessionReport.summary`."""
        return self.report.summary()

    def status(self) -> dict[str, Any]:
        """See `SessionReport.status`."""
        return self.report.status()

    def overview(self) -> dict[str, Any]:
        """See `SessionReport.overview`."""
        return self.report.overview()

    def fps_report(self) -> dict[str, Any]:
        """See `SessionReport.fps_report`."""
        return self.report.fps_report()

    def stream_status(self) -> dict[str, Any]:
        """See `SessionReport.stream_status`."""
        return self.report.stream_status()

    @property
    def may_be_shed(self) -> bool:
        """Whether frames may be left out when the relay has too much to do."""
        if self.state.final or self.config.on_overload is not OnOverload.DROP:
            return False
        return not self._pipeline.copies_input

    def shed_frames(self, shed: bool) -> None:
        """Whether every second frame is left out from now on."""
        if not self.state.final:
            self._pipeline.halve_rate(shed)

    def look(self) -> None:
        """Publish what has happened since the last look."""
        if not self.report.final:
            for kind, data in self._watch.look(self.report.figures(), time.monotonic()):
                self._hub.publish(kind, self.session_id, **data)

    async def _run(self) -> None:
        structlog.contextvars.bind_contextvars(session_id=self.session_id)
        self._log.info(
            "session.start",
            input_stream_url=self.config.input_stream_url,
            output_stream_url=self.config.output_stream_url,
            comfystream_url=self.config.comfystream_url,
            width=self.config.width,
            height=self.config.height,
            workflows=len(self.config.prompts),
        )
        final = SessionState.STOPPED
        self._channels.start()
        try:
            reason = await self._pipeline.run()
            self.end_reason = self.end_reason or reason
        except RelayError as error:
            self.error = error
            self.end_reason = (
                self.end_reason or self._pipeline.end_reason or EndReason.INTERNAL_ERROR
            )
            final = SessionState.FAILED
            self._log.warning("session.failed", code=error.code, error=error.message)
        except asyncio.CancelledError:
            self.end_reason = self.end_reason or EndReason.DRAINED
            raise
        except Exception as error:
            self.error = RelayError(
                "the relay failed; its log has the cause", code="internal_error"
            )
            self.end_reason = EndReason.INTERNAL_ERROR
            final = SessionState.FAILED
            self._log.exception("session.internal_error", error=str(error))
        finally:
            self.ended_at = datetime.now(UTC)
            self._processor.changes.close()
            self.text.close()
            if self.state is not SessionState.STOPPING:
                self._set_state(SessionState.STOPPING, _value(self.end_reason))
            self._set_state(final, _value(self.end_reason))
            self.report.finish()
            try:
                # Side by side: time may run out in the middle of either.
                closing = [self._channels.aclose(keep_channels=self.handed_over)]
                if self._events is not None:
                    closing.append(self._events.aclose(keep_channel=self.handed_over))
                await asyncio.gather(*closing)
            finally:
                self._let_go()

    def _let_go(self) -> None:
        # What is kept for the ten minutes is what can still be asked: not codecs and queues.
        self._events = None
        self.observers.clear()
        self.report.let_go()
        del self._pipeline, self._processor
        self._hub.end_of(self.session_id)
        self._ended.set()

    def _note_change(self) -> None:
        self.report.stream_status()

    def _make_processor(
        self,
        config: SessionConfig,
        resources: PipelineResources,
        lease: ServerLease | None,
        other_servers: OtherServers | None,
        sound: ServerSound | None,
    ) -> ComfyStreamProcessor:
        return ComfyStreamProcessor(
            config,
            resources.webrtc_options,
            resources.reconnect_policy,
            resources.http,
            resources.codecs,
            resources.make_uplink_encoder,
            lease,
            on_change=self._follow_link,
            acquire_lease=lambda url: resources.leases.acquire(url, self.session_id),
            other_servers=other_servers,
            on_config=self._follow_config,
            text=self.text,
            sound=sound,
        )

    def _make_events(
        self, config: SessionConfig, url: str, resources: PipelineResources
    ) -> EventsChannel:
        events = EventsChannel(
            url,
            resources.http,
            self.report.new_stream_reporter(),
            self.report.view,
            create=CreatePolicy.NEVER if config.channels_given else CreatePolicy.IF_MISSING,
            on_end=lambda: self._on_given_end(EndReason.EVENTS_ENDED),
        )
        self.observers.append(lambda _: events.note_change())
        return events

    def _follow_link(self) -> None:
        if self.state is SessionState.STOPPING or self.state.final:
            return
        link = self._processor.link
        match link.state:
            case LinkState.CONNECTED:
                self._set_state(SessionState.ACTIVE, "connected")
            case LinkState.LOADING:
                self._set_state(SessionState.LOADING, "offered")
            case LinkState.WAITING:
                state = SessionState.RECONNECTING if link.connections else SessionState.STARTING
                problem = link.problem
                self._set_state(state, problem.code if problem else "changed")
                self._tell_observers()

    def _follow_config(self, config: SessionConfig) -> None:
        if (config.width, config.height) != (self.config.width, self.config.height):
            self._pipeline.resize(config.width, config.height)
        self._pipeline.limit_rate(config.max_fps)
        self._pipeline.set_coding(ingest=config.ingest, egress=config.egress)
        self.config = config
        self._tell_observers()

    async def _handle_control(self, message: dict[str, Any]) -> None:
        try:
            requested = await self.request_change(message, lenient=True)
        except RelayError as error:
            self._limited_log.warning(
                "channel.control_refused", code=error.code, error=error.message
            )
            self._channels.note_bad(error.message)
            return
        requested.result.add_done_callback(self._channels.note_result)

    def _on_channel_end(self, reason: EndReason) -> None:
        """A channel is gone, and with it whoever the stream is for."""
        if self._stopping is None and not self.state.final:
            self._stopping = asyncio.create_task(self.stop(reason))

    def _on_given_end(self, reason: EndReason) -> None:
        """One that we publish to: an orchestrator makes none anew, others may."""
        if self.config.channels_given:
            self._on_channel_end(reason)

    def _set_state(self, state: SessionState, reason: str) -> None:
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"no transition from {self.state} to {state}")
        self._log.info("session.state", old=self.state.value, new=state.value, reason=reason)
        self.state = state
        self.state_reason = reason
        self._tell_observers()

    def _tell_change(self, names: list[str], result: asyncio.Future[ChangeResult]) -> None:
        if result.cancelled():
            return
        error = result.exception()
        data: dict[str, Any] = {"fields": names}
        if isinstance(error, RelayError):
            data |= {"result": "failed", "error": error.message, "code": error.code}
        else:
            data |= {"result": result.result().value}
        self._hub.publish(EventKind.CHANGE, self.session_id, **data)

    def _tell_observers(self) -> None:
        self.look()
        for observer in self.observers:
            observer(self)


def _session_ended() -> RequestError:
    return RequestError("the session has ended", code="session_ended", http_status=409)


def _value(reason: EndReason | None) -> str:
    return reason.value if reason else "unknown"
