"""What the handlers find in the application, and what they ask of the sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from relay.changes.session_change import RequestedChange
from relay.channels.text_output import TextOutput
from relay.comfystream.prompt_library import PromptLibrary
from relay.config.settings import Settings
from relay.errors import BusyError
from relay.observe.event_hub import EventHub
from relay.observe.session_logs import SessionLogs
from relay.observe.tally import Tally
from relay.pipeline.viewing import Viewing
from relay.session_config import SessionConfig


class SessionView(Protocol):
    """A session, as far as the API is concerned."""

    @property
    def session_id(self) -> str: ...

    @property
    def config(self) -> SessionConfig:
        """What it was asked for."""
        ...

    def status(self) -> dict[str, Any]:
        """The `session` object of `GET /session/{id}/status`."""
        ...

    @property
    def text(self) -> TextOutput:
        """What ComfyStream says beside the pictures."""
        ...

    @property
    def viewing(self) -> Viewing:
        """Its pictures and its stream, for people."""
        ...

    async def request_change(
        self, params: Mapping[str, object], *, lenient: bool = False
    ) -> RequestedChange:
        """Ask for a change of what runs."""
        ...

    async def ask_comfystream(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Pass a message on to ComfyStream."""
        ...

    def fps_report(self) -> dict[str, Any]:
        """An entry of `GET /streams/stats`; of one that runs."""
        ...

    def stream_status(self) -> dict[str, Any]:
        """The status object of ai-runner."""
        ...

    def summary(self) -> dict[str, Any]:
        """The entry in `GET /sessions`."""
        ...


class SessionService(Protocol):
    """Every session of the relay; `relay.session.manager.SessionManager` is the real one."""

    async def start(self) -> None: ...

    def begin_drain(self) -> None:
        """Take no more sessions; those that run go on."""
        ...

    async def wait_empty(self) -> None:
        """Return when no session runs."""
        ...

    def why_not_ready(self) -> BusyError | None:
        """Why a session could not be started now; None if one could."""
        ...

    def why_no_server(self) -> BusyError | None:
        """Why no ComfyStream server could be given to a session now; None if one could."""
        ...

    @property
    def servers_there(self) -> int | None:
        """How many servers of the pool answer; None without a pool."""
        ...

    def why_unready(self) -> BusyError | None:
        """Why no session should be sent here now; None if one may."""
        ...

    def dead_supervisors(self) -> Sequence[str]:
        """The relay's own tasks that should run and do not."""
        ...

    def occupancy(self) -> dict[str, Any]:
        """The answer of `GET /capacity`."""
        ...

    def health(self) -> dict[str, Any]:
        """Further fields of `GET /health`."""
        ...

    async def measure(self) -> None:
        """Look at what only asking tells, before `tallies`."""
        ...

    async def tallies(self) -> Sequence[tuple[str, Tally]]:
        """What is counted and measured, with the session's id, or none."""
        ...

    async def aclose(self, *, timeout_s: float | None = None) -> None: ...

    async def start_session(self, config: SessionConfig) -> SessionView: ...

    async def stop_session(self, session_id: str) -> None: ...

    def get(self, session_id: str) -> SessionView: ...

    def list(self, *, ended: bool = False) -> Sequence[SessionView]: ...

    @property
    def events(self) -> EventHub:
        """What happens."""
        ...

    @property
    def logs(self) -> SessionLogs:
        """The last log lines of the sessions."""
        ...

    def servers(self) -> Sequence[dict[str, Any]]:
        """The ComfyStream servers of the pool; empty without one."""
        ...

    @property
    def warm(self) -> bool:
        """Whether a session that comes now need not wait for a server or its models."""
        ...


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""They change nothing."""

SETTINGS = web.AppKey("settings", Settings)
SESSIONS = web.AppKey("sessions", SessionService)
PROMPTS = web.AppKey("prompts", PromptLibrary)
"""What makes workflows of prompts."""
HTTP_COUNTS: web.AppKey[Counter[tuple[str, str, str]]] = web.AppKey("http_counts")
"""Requests answered, by route, method and status."""
REQUEST_ID = web.RequestKey("request_id", str)
"""Names the request in its answer, in the `X-Request-ID` header and in the log."""
SESSION_ID = web.RequestKey("session_id", str)
"""The session a request is about, once it is known to exist."""


def session_of(request: web.Request) -> SessionView:
    """The session that the path names.

    Raises:
        RequestError: 404 `session_not_found`.
    """
    session = request.app[SESSIONS].get(request.match_info["session_id"])
    request[SESSION_ID] = session.session_id
    return session
