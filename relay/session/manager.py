"""Every session of this process: admit, find, list, stop, drain."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from relay.config.settings import Settings, VideoEncoderName, host_rules
from relay.config.values import parse_ports
from relay.errors import BusyError, RelayError, RequestError
from relay.host_rules import HostNotAllowedError
from relay.media.encoder_choice import choose_encoder
from relay.observe.event_hub import EventHub, EventKind
from relay.observe.session_logs import SessionLogs
from relay.observe.tally import Tally
from relay.observe.watcher import Watcher
from relay.outbound_http import RuledResolver, open_http
from relay.processing.server_choice import ServerChoice
from relay.resources import PipelineResources
from relay.session.journal import SessionJournal, close_channels
from relay.session.load_control import LoadControl
from relay.session.session import Session
from relay.session_config import SessionConfig
from relay.session_state import EndReason, SessionState
from relay.validation import channel_key
from relay.webrtc import aiortc_internals
from relay.webrtc.answer_candidates import AnswerCandidates

log = structlog.get_logger(__name__)

ENDED_KEPT = timedelta(minutes=10)
"""How long a session that has ended can still be asked why."""
ENDED_MOST = 200
_ADDRESSES = (
    *("input_stream_url", "output_stream_url", "comfystream_url"),
    *("control_url", "data_url", "events_url"),
)
"""Fields of a session's configuration that hold addresses of the caller's."""


class SessionManager:
    """Owns the sessions and what they share: the HTTP client and the codec threads.

    Args:
        logs: keeps the log lines of the sessions, if it is told of them.
    """

    def __init__(self, settings: Settings, logs: SessionLogs | None = None) -> None:
        self.events = EventHub()
        self.logs = logs or SessionLogs()
        self._settings = settings
        self._watcher = Watcher(self.events, self.list, self._relay_status)
        self._load = LoadControl(settings, self.events, self.list)
        self._past = Tally()
        """Of the sessions that have ended."""
        self._reserved = 0
        self._began_at = time.monotonic()
        self._resolver: RuledResolver | None = None
        self._sessions: dict[str, Session] = {}
        self._deleted: set[str] = set()
        self._resources: PipelineResources | None = None
        self._draining = False
        self._servers: ServerChoice | None = None
        self._journal: SessionJournal | None = None

    async def start(self) -> None:
        """Open what the sessions share."""
        aiortc_internals.shorten_consent()
        if self._settings.udp_ports:
            ports = parse_ports(self._settings.udp_ports)
            aiortc_internals.limit_udp_ports(asyncio.get_running_loop(), ports)
        self._resolver = RuledResolver(host_rules(self._settings))
        http = open_http(
            self._resolver,
            tls_ca_file=self._settings.tls_ca_file,
            tls_insecure=self._settings.tls_insecure,
        )
        self._resources = resources = PipelineResources(
            self._settings,
            http,
            self.events,
            AnswerCandidates(self._resolver),
            video_encoder=await self._choose_encoder(),
        )
        self._servers = ServerChoice(self._settings, resources.leases, http)
        self._servers.start()
        self._watcher.start()
        self._load.start(resources.codecs)
        self._journal = SessionJournal(resources.journal)
        await self._take_over(self._journal, resources)

    def begin_drain(self) -> None:
        """Take no more sessions, from now on for good; those that run go on."""
        if not self._draining:
            self._draining = True
            self.events.publish(EventKind.RELAY, problem="draining", sessions=len(self.list()))

    async def wait_empty(self) -> None:
        """Return when no session runs."""
        while running := self.list():
            await running[0].wait_ended()

    def why_not_ready(self) -> BusyError | None:
        """What a session that is started now would be told: draining, full or overloaded."""
        return self._why_not_another(len(self.list()) + self._reserved)

    def _why_not_another(self, sessions: int) -> BusyError | None:
        """Why there could not be one more than `sessions`."""
        if self._resources is None or self._draining:
            return BusyError("the relay is not taking sessions now; try again", code="draining")
        limit = self._settings.max_sessions
        if limit and len(self.list()) >= limit:
            return BusyError(f"all {limit} sessions are taken; stop one or try later", code="full")
        return self._load.refusal(sessions)

    def why_unready(self) -> BusyError | None:
        """Why no session should be sent here now: as `why_not_ready`, or the event loop lags."""
        return self.why_not_ready() or self._load.lagging()

    def dead_supervisors(self) -> builtins.list[str]:
        """Tasks of the relay's own that should run and do not; empty while all is well."""
        if self._resources is None:
            return []
        supervisors = {
            "watcher": self._watcher.alive,
            **self._load.supervisors(),
            "server_pool": self._servers is not None and self._servers.alive,
        }
        return [name for name, alive in supervisors.items() if not alive]

    def occupancy(self) -> dict[str, Any]:
        """How much is taken, for those who spread sessions over several relays."""
        active, most = len(self.list()), self._settings.max_sessions
        codec_load = self._resources.codecs.load if self._resources is not None else 0.0
        taken = (active + self._reserved) / most if most else 0.0
        problem = self.why_not_ready()
        return {
            "active": active,
            "reserved": self._reserved,
            "max": most or None,
            "load": round(min(1.0, max(taken, codec_load, self._load.taken)), 3),
            "codec_load": round(codec_load, 3),
            "problem": problem.code if problem else None,
            **self._load.occupancy(),
        }

    def health(self) -> dict[str, Any]:
        """How the relay and its sessions fare, in a few figures."""
        problem = self.why_unready() or self.why_no_server()
        healths = Counter(session.summary()["health"] or "ending" for session in self.list())
        return {
            "uptime_s": round(time.monotonic() - self._began_at, 1),
            "ready": problem is None,
            "problem": problem.code if problem else None,
            "sessions_by_health": dict(healths),
            "dead_supervisors": self.dead_supervisors(),
        }

    async def measure(self) -> None:
        """Look at what only asking tells, for the next `tallies`; never waits for anything."""
        for session in self.list():
            await session.report.measure()

    async def tallies(self) -> builtins.list[tuple[str, Tally]]:
        """Everything counted and measured: the relay's own with that of ended sessions, under no
        name, and that of each session that runs. Frames come in between."""
        running = self.list()
        found = [("", self._own_tally())]
        for session in running:
            # One that has ended meanwhile is not in the relay's own yet.
            found.append((session.session_id, session.report.tally()))
            await asyncio.sleep(0)
        return found

    def _own_tally(self) -> Tally:
        own = Tally()
        own.add_past(self._past)
        own.stands("ready", at=int(self.why_unready() is None))
        for state in SessionState:
            if not state.final:
                own.stands("sessions", state.value, at=0)
        if self._settings.max_sessions:
            own.stands("sessions_max", at=self._settings.max_sessions)
        self._load.tally(own)
        own.stands("event_listeners", at=self.events.listeners)
        own.count("event_listeners_dropped_total", by=self.events.listeners_too_slow)
        if self._resources is not None:
            codecs = self._resources.codecs
            own.stands("video_encoder", self._resources.video_encoder)
            own.stands("codec_threads", at=codecs.threads)
            own.stands("codec_calls", at=codecs.calls)
            own.count("codec_busy_seconds_total", by=codecs.busy_s)
            own.measured("codec_wait_seconds", histogram=codecs.waiting)
        for server in self.servers():
            own.stands("servers", server["state"])
        return own

    async def aclose(self, *, timeout_s: float | None = None) -> None:
        """Take no more, end every session, close what they share. Idempotent.

        Where the next run is to take the sessions up again they are left for it: their channels
        open, and in the journal.
        """
        self.begin_drain()
        hand_over = self._settings.resume and self._journal is not None and self._journal.kept
        if self._journal is not None:
            self._journal.flush()
        limit_s = self._settings.stop_timeout_s if timeout_s is None else timeout_s
        await asyncio.gather(
            *(
                session.stop(EndReason.DRAINED, timeout_s=limit_s, hand_over=hand_over)
                for session in self._sessions.values()
            )
        )
        if self._servers is not None:
            await self._servers.aclose()
        await self._watcher.aclose()
        await self._load.aclose()
        self.events.close()
        resources, self._resources = self._resources, None
        if resources is not None:
            await resources.aclose()

    async def start_session(self, config: SessionConfig) -> Session:
        """Make a session and return when it is written down; it connects in the background.

        Raises:
            BusyError: full, overloaded, starting or draining; no server of the pool is free.
            RequestError: 403 `host_not_allowed`; 409 `output_in_use`: another session writes
                that channel.
        """
        self._reserved += 1
        try:
            return await self._start(config)
        except BusyError as error:
            self._past.count("sessions_refused_total", error.code, by=1)
            raise
        finally:
            self._reserved -= 1

    async def _start(self, config: SessionConfig, session_id: str | None = None) -> Session:
        self._require_ready()
        await self._check_hosts(config)
        assert self._servers is not None
        assert self._journal is not None
        config = await self._servers.settle(config)
        resources = self._require_ready()  # no await from here to the session's place in the list
        self._require_free(config.output_stream_url)
        session = Session(
            config, resources, session_id, other_servers=self._servers if config.pooled else None
        )
        self._journal.began(session.session_id, config)
        self._sessions[session.session_id] = session
        self._servers.note_use(config.comfystream_url, session.session_id)
        self._past.count("sessions_started_total", by=1)
        self.logs.begin(session.session_id)
        session.observers += [self._note_server, self._keep_journal, self._note_end]
        session.start()
        await self._journal.written()
        return session

    async def stop_session(self, session_id: str) -> None:
        """End a session. It can still be asked about for some minutes, and not be stopped again.

        Raises:
            RequestError: 404 `session_not_found`.
        """
        session = self.get(session_id)
        if session_id in self._deleted:
            raise RequestError(
                f"session {session_id} is stopped already; GET /session/{session_id}/status has"
                " how it ended",
                code="session_not_found",
                http_status=404,
            )
        await session.stop(timeout_s=self._settings.stop_timeout_s)
        self._deleted.add(session_id)
        if self._journal is not None:
            await self._journal.written()

    def get(self, session_id: str) -> Session:
        """A session that runs, or ended within the last minutes.

        Raises:
            RequestError: 404 `session_not_found`.
        """
        self._forget_old()
        session = self._sessions.get(session_id)
        if session is None:
            raise RequestError(
                f"no session {session_id}: it never started here, or ended a while ago;"
                " GET /sessions lists them, also with ?ended=true",
                code="session_not_found",
                http_status=404,
            )
        return session

    def list(self, *, ended: bool = False) -> list[Session]:
        """The sessions that run, oldest first; with `ended` those that ended lately instead."""
        self._forget_old()
        return [s for s in self._sessions.values() if s.state.final == ended]

    def servers(self) -> builtins.list[dict[str, Any]]:
        """The ComfyStream servers of the pool and how they are; empty without a pool."""
        return self._servers.status() if self._servers is not None else []

    def why_no_server(self) -> BusyError | None:
        """Why no server would be given to a session with prompts now, by what was last seen of
        them; None if one would, or the operator gave none to choose from."""
        return self._servers.why_none_free() if self._servers is not None else None

    @property
    def servers_there(self) -> int | None:
        """How many servers of the pool answered last; None without a pool."""
        return self._servers.reachable if self._servers is not None else None

    @property
    def warm(self) -> bool:
        """Whether a session that comes now finds a server that is there, and has its models."""
        return self._servers is not None and self._servers.ready

    async def _choose_encoder(self) -> str:
        wanted = self._settings.video_encoder
        if wanted is VideoEncoderName.LIBX264:
            return wanted.value  # needs no proof
        return (await asyncio.to_thread(choose_encoder, wanted.value)).name

    async def _take_over(self, journal: SessionJournal, resources: PipelineResources) -> None:
        """Deal with what a process that was killed left: take its sessions up again, where the
        operator wants that, and close the channels of all others."""
        for left in journal.left_overs():
            if self._settings.resume:
                try:
                    await self._start(left.config, left.session_id)
                except RelayError as error:
                    log.warning(
                        "session.not_resumed", session_id=left.session_id, error=error.message
                    )
                else:
                    log.info("session.resumed", session_id=left.session_id)
        gone = [left for left in journal.left_overs() if left.session_id not in self._sessions]
        await close_channels(resources.http, [url for left in gone for url in left.channels])
        for left in gone:
            journal.ended(left.session_id)
        await journal.written()

    def _keep_journal(self, session: Session) -> None:
        assert self._journal is not None
        if session.handed_over:
            return
        if session.state.final:
            self._journal.ended(session.session_id)
        else:
            self._journal.changed(session.session_id, session.config)

    def _note_end(self, session: Session) -> None:
        if session.state.final:
            self.logs.ended(session.session_id)
            self._past.add_past(session.report.tally())
            reason = session.end_reason.value if session.end_reason else "unknown"
            self._past.count("sessions_ended_total", reason, by=1)

    def _relay_status(self) -> dict[str, Any]:
        problem = self.why_not_ready()
        return {
            "sessions": len(self.list()),
            "max_sessions": self._settings.max_sessions or None,
            "problem": problem.code if problem else None,
            "event_loop_lag_ms": round(self._load.loop_lag.worst_s * 1000, 1),
            "codec_load": self.occupancy()["codec_load"],
            "listeners": self.events.listeners,
            "listeners_too_slow": self.events.listeners_too_slow,
        }

    def _note_server(self, session: Session) -> None:
        assert self._servers is not None
        url = session.config.comfystream_url
        if session.state.final:
            self._servers.note_end(session.session_id)
            return
        self._servers.note_use(url, session.session_id)
        if session.report.problem is not None:
            self._servers.note_failure(url, session.report.problem)

    def _require_ready(self) -> PipelineResources:
        problem = self._why_not_another(len(self.list()) + max(0, self._reserved - 1))
        if problem is not None:
            raise problem
        assert self._resources is not None
        return self._resources

    def _require_free(self, output_url: str) -> None:
        if not output_url:
            return
        channel = channel_key(output_url)
        for other in self.list():
            taken = other.config.output_stream_url
            if taken and channel_key(taken) == channel:
                raise RequestError(
                    f"session {other.session_id} already publishes to that output_stream_url;"
                    " stop it or choose another",
                    code="output_in_use",
                    http_status=409,
                )

    async def _check_hosts(self, config: SessionConfig) -> None:
        assert self._resolver is not None
        faults = []
        for field in _ADDRESSES:
            try:
                if url := getattr(config, field):
                    await self._resolver.check_url(url)
            except HostNotAllowedError as error:
                faults.append({"field": field, "problem": error.strerror})
        if faults:
            shown = "; ".join(f"{fault['field']}: {fault['problem']}" for fault in faults)
            raise RequestError(shown, code="host_not_allowed", http_status=403, details=faults)

    def _forget_old(self) -> None:
        horizon = datetime.now(UTC) - ENDED_KEPT
        ended = [s for s in self._sessions.values() if s.state.final]
        surplus = ended[: max(0, len(ended) - ENDED_MOST)]
        for session in ended:
            if session in surplus or (session.ended_at and session.ended_at < horizon):
                del self._sessions[session.session_id]
                self._deleted.discard(session.session_id)
                self.logs.forget(session.session_id)
