"""A session service that runs nothing, for tests of the HTTP border."""

from __future__ import annotations

import asyncio
import builtins
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import av

from relay.changes.session_change import ChangeResult, RequestedChange
from relay.channels.stream_events import StreamReporter, StreamView
from relay.channels.text_output import TextOutput
from relay.codec_executor import CodecExecutor
from relay.errors import BusyError, RelayError, RequestError
from relay.media.access_unit import DecodedFrame
from relay.observe.event_hub import EventHub
from relay.observe.session_logs import SessionLogs
from relay.observe.tally import Tally
from relay.pipeline.viewing import Viewing
from relay.session_config import SessionConfig
from relay.session_health import Health
from relay.session_state import SessionState

T = TypeVar("T")


PICTURE = DecodedFrame(av.VideoFrame(64, 36, "yuv420p"), 0)


class InlineExecutor(CodecExecutor):
    """Runs what runs beside the codecs where it is called."""

    async def run_beside(self, call: Callable[..., T], *args: object) -> T:
        return call(*args)


class FakeSession:
    """What the API shows of a session."""

    def __init__(self, config: SessionConfig) -> None:
        self.session_id = str(uuid.uuid4())
        self.config = config
        self.state = "active"
        self.text = TextOutput(None)
        self.viewing = Viewing(InlineExecutor())
        self.viewing.input.show(PICTURE)
        self.viewing.output.show(PICTURE)
        self.changes: list[dict[str, Any]] = []
        self.change_error: RelayError | None = None
        self.change_result: ChangeResult | RelayError = ChangeResult.APPLIED
        self.change_warnings: tuple[str, ...] = ()
        self.asked: list[dict[str, Any]] = []
        self.reply: dict[str, Any] | RelayError | None = None

    async def request_change(
        self, params: Mapping[str, object], *, lenient: bool = False
    ) -> RequestedChange:
        if self.change_error is not None:
            raise self.change_error
        self.changes.append(dict(params))
        result: asyncio.Future[ChangeResult] = asyncio.get_running_loop().create_future()
        if isinstance(self.change_result, RelayError):
            result.set_exception(self.change_result)
        elif self.change_result is not ChangeResult.HELD:
            result.set_result(self.change_result)
        return RequestedChange(result, self.change_warnings)

    async def ask_comfystream(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if isinstance(self.reply, RelayError):
            raise self.reply
        self.asked.append(message)
        return self.reply

    def summary(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "status": self.state,
            "input_stream_url": self.config.input_stream_url,
            "output_stream_url": self.config.output_stream_url,
            "created_at": "2024-01-01T12:00:00",
        }

    def stream_status(self) -> dict[str, Any]:
        view = StreamView(SessionState.ACTIVE, Health.OK, self.config.width, self.config.height)
        return StreamReporter(self.config.names, self.session_id, 1).status(view, 2)

    def fps_report(self) -> dict[str, Any]:
        return {"timestamp": 0.0, "fps": 0.0, "minute_avg_fps": 0.0, "minute_fps_array": []}

    def status(self) -> dict[str, Any]:
        return self.summary() | {
            "comfystream_url": self.config.comfystream_url,
            "width": self.config.width,
            "height": self.config.height,
            "queue_sizes": {"decoded_frames": 0, "processed_frames": 0, "output_segments": 0},
            "webrtc_state": "connected",
            "warnings": list(self.config.warnings),
        }


class FakeSessions:
    """Admits, lists and stops sessions like `relay.session.manager.SessionManager`.

    Args:
        capacity: how many it takes before it is busy.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.events = EventHub()
        self.logs = SessionLogs()
        self.dead: builtins.list[str] = []
        self.measured = 0
        self.session_tallies: dict[str, Tally] = {}
        self.sessions: dict[str, FakeSession] = {}
        self.started: builtins.list[FakeSession] = []
        """Every session that ever was."""
        self.ended: builtins.list[FakeSession] = []
        self.running = False
        self.warm = True
        self.no_server: BusyError | None = None
        self.servers_there: int | None = None
        self.draining = False
        self.drain_timeout_s: float | None = None
        self.fails_with: Exception | None = None
        """Raised by `start_session`, for faults that are ours."""
        self.entered = asyncio.Event()
        """Set when a start is under way."""
        self.may_start = asyncio.Event()
        """A start waits for it."""
        self.may_start.set()
        self.stopped = asyncio.Event()
        """Set when a session was stopped."""

    async def start(self) -> None:
        self.running = True

    def begin_drain(self) -> None:
        self.draining = True

    async def wait_empty(self) -> None:
        while self.sessions:
            self.stopped.clear()
            await self.stopped.wait()

    def why_not_ready(self) -> BusyError | None:
        if self.draining or not self.running:
            return BusyError("not now", code="draining")
        if len(self.sessions) >= self.capacity:
            return BusyError("all sessions are taken", code="full", retry_after_s=7)
        return None

    def why_no_server(self) -> BusyError | None:
        return self.no_server

    def why_unready(self) -> BusyError | None:
        return self.why_not_ready()

    def dead_supervisors(self) -> builtins.list[str]:
        return self.dead

    def occupancy(self) -> dict[str, Any]:
        return {
            "active": len(self.sessions),
            "reserved": 0,
            "max": self.capacity,
            "load": 0.0,
            "codec_load": 0.0,
            "event_loop_lag_ms": 0.0,
            "problem": None,
            "max_load": None,
            "cores": 2.0,
            "cpu": 0.0,
            "event_loop_cpu": 0.0,
            "codec_wait_ms": 0.0,
            "shed": {"previews": False, "sessions": []},
        }

    def health(self) -> dict[str, Any]:
        return {
            "uptime_s": 1.0,
            "ready": self.why_unready() is None,
            "problem": None,
            "sessions_by_health": {},
            "dead_supervisors": self.dead,
        }

    async def measure(self) -> None:
        self.measured += 1

    async def tallies(self) -> builtins.list[tuple[str, Tally]]:
        return [("", Tally()), *self.session_tallies.items()]

    async def aclose(self, *, timeout_s: float | None = None) -> None:
        self.running = False
        self.drain_timeout_s = timeout_s
        self.events.close()
        self.sessions.clear()

    async def start_session(self, config: SessionConfig) -> FakeSession:
        self.entered.set()
        await self.may_start.wait()
        if self.fails_with is not None:
            raise self.fails_with
        if problem := self.why_not_ready():
            raise problem
        for other in self.sessions.values():
            if other.config.output_stream_url == config.output_stream_url:
                raise RequestError("taken", code="output_in_use", http_status=409)
        session = FakeSession(config)
        self.sessions[session.session_id] = session
        self.started.append(session)
        return session

    async def stop_session(self, session_id: str) -> None:
        if session_id not in self.sessions:
            raise RequestError("stopped", code="session_not_found", http_status=404)
        session = self.sessions.pop(session_id)
        session.state = "stopped"
        self.ended.append(session)
        self.stopped.set()

    def get(self, session_id: str) -> FakeSession:
        for session in (*self.sessions.values(), *self.ended):
            if session.session_id == session_id:
                return session
        raise RequestError(
            f"no session {session_id[:80]}", code="session_not_found", http_status=404
        )

    def servers(self) -> builtins.list[dict[str, Any]]:
        return []

    def list(self, *, ended: bool = False) -> builtins.list[FakeSession]:
        return [*self.ended] if ended else [*self.sessions.values()]
