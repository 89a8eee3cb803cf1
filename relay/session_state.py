"""The states of a session, which may follow which, and why sessions end."""

from __future__ import annotations

from enum import StrEnum


class SessionState(StrEnum):
    """Where a session stands. `STOPPED` and `FAILED` are final."""

    STARTING = "starting"
    """Not connected to ComfyStream yet."""
    LOADING = "loading"
    """ComfyStream has the offer and loads the workflow, which may take minutes."""
    ACTIVE = "active"
    """Connected; frames go through."""
    RECONNECTING = "reconnecting"
    """Was connected, and tries again."""
    STOPPING = "stopping"
    """On its way out: what is under way is published, then everything is closed."""
    STOPPED = "stopped"
    """Ended as it should: on request, or with its input."""
    FAILED = "failed"
    """Ended by an error."""

    @property
    def final(self) -> bool:
        return self in (SessionState.STOPPED, SessionState.FAILED)


TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    SessionState.STARTING: frozenset(
        {SessionState.LOADING, SessionState.ACTIVE, SessionState.STOPPING}
    ),
    SessionState.LOADING: frozenset(
        {
            SessionState.STARTING,
            SessionState.RECONNECTING,
            SessionState.ACTIVE,
            SessionState.STOPPING,
        }
    ),
    SessionState.ACTIVE: frozenset({SessionState.RECONNECTING, SessionState.STOPPING}),
    SessionState.RECONNECTING: frozenset(
        {SessionState.LOADING, SessionState.ACTIVE, SessionState.STOPPING}
    ),
    SessionState.STOPPING: frozenset({SessionState.STOPPED, SessionState.FAILED}),
    SessionState.STOPPED: frozenset(),
    SessionState.FAILED: frozenset(),
}


class EndReason(StrEnum):
    """Why a session ended."""

    REQUESTED = "requested"
    INPUT_ENDED = "input_ended"
    INPUT_TIMEOUT = "input_timeout"
    PROCESSING_FAILED = "processing_failed"
    """ComfyStream could not be used for too long."""
    CONTROL_ENDED = "control_ended"
    """Its control channel was closed or deleted."""
    EVENTS_ENDED = "events_ended"
    """The events channel that a gateway gave it was: the gateway has let go of the stream."""
    OUTPUT_GONE = "output_gone"
    DRAINED = "drained"
    """The relay itself was shut down."""
    INTERNAL_ERROR = "internal_error"
