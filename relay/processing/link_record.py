"""The link from one session to ComfyStream: where it stands, and what has happened on it.

The processor tells of every step; the session's status, figures and metrics are told from it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from relay.errors import ProcessingError
from relay.observe.tally import Tally
from relay.processing.fallback import Fallback
from relay.processing.live_changes import LiveChanges
from relay.processing.server_move import ServerMove
from relay.processing.workflow_watch import WorkflowWatch
from relay.session_health import LATE_S
from relay.webrtc.network import NetworkFigures
from relay.webrtc_client import WebRTCClient


class LinkState(StrEnum):
    """Where the link to the server stands."""

    CONNECTING = "connecting"
    LOADING = "loading"
    """The server has our offer and loads the workflow."""
    CONNECTED = "connected"
    WAITING = "waiting"
    """Between two attempts."""
    CLOSED = "closed"


class LinkRecord:
    """What is known of a session's connections, the present one and those before.

    Args:
        changes: has the configuration in force and the lease.
        move: knows how often the session went to another server.
        fallback: sees what comes, what returns and what is shown.
        on_change: called on the event loop when `state` has changed.
    """

    def __init__(
        self,
        changes: LiveChanges,
        move: ServerMove,
        fallback: Fallback,
        on_change: Callable[[], None],
    ) -> None:
        self.state = LinkState.CONNECTING
        self.last_error: ProcessingError | None = None
        """Why the last attempt failed; None while it works."""
        self.attempts = 0
        self.connections = 0
        self.client: WebRTCClient | None = None
        """Of the last attempt that got as far as having one."""
        self.watch: WorkflowWatch | None = None
        """Of the connection that stands, if there is a workflow to watch."""
        self._changes = changes
        self._move = move
        self._fallback = fallback
        self._on_change = on_change
        self._failures: Counter[str] = Counter()
        self._reconnect_reasons: Counter[str] = Counter()
        self._broken_by = "changed"
        """Why the next connection is wanted: the last failure since the one before, if any."""
        self._network = NetworkFigures()
        self._past = Tally()
        """Of the connections that are over."""
        self._counted: WebRTCClient | None = None
        """The last one of those in `_past`."""

    # -- what happens, as the processor tells it ----------------------------------------------

    def begin_attempt(self) -> None:
        """A connection is tried."""
        self.attempts += 1
        self.set_state(LinkState.CONNECTING)

    def begin_client(self, client: WebRTCClient) -> None:
        """The attempt has its client."""
        self.client = client
        self._network = NetworkFigures()

    def connected(self) -> None:
        """The connection stands."""
        self.connections += 1
        if self.connections > 1:
            self._reconnect_reasons[self._broken_by] += 1
        self._broken_by = "changed"
        self.last_error = None
        self.set_state(LinkState.CONNECTED)

    async def disconnected(self, client: WebRTCClient) -> None:
        """A connection that stood is over, and not closed yet: its counts are kept."""
        await self.measure()
        self._tally_connection(client, self._past)
        self._counted = client

    def failed(self, error: ProcessingError) -> None:
        """An attempt failed, or the connection that stood."""
        self.last_error = error
        self._failures[error.code] += 1
        self._broken_by = error.code
        self.set_state(LinkState.WAITING)

    def set_state(self, state: LinkState) -> None:
        """From now on it stands there."""
        if state is not self.state:
            self.state = state
            self._on_change()

    # -- how it stands ------------------------------------------------------------------------

    @property
    def problem(self) -> ProcessingError | None:
        """What keeps frames from being processed; None while nothing does."""
        lease = self._changes.lease
        waiting = lease.waiting if lease is not None else None
        return waiting or self.last_error or (self.watch.problem if self.watch else None)

    @property
    def well(self) -> bool:
        """Whether processed pictures come back."""
        if self.state is not LinkState.CONNECTED or self.problem is not None:
            return False
        if self._changes.config.paused:
            return True
        unanswered_since = self._fallback.unanswered_since
        return not self._fallback.active and (
            unanswered_since is None or time.monotonic() - unanswered_since <= LATE_S
        )

    @property
    def webrtc_state(self) -> str:
        """W3C's RTCPeerConnectionState of the current connection."""
        return self.client.state if self.client else "new"

    @property
    def reconnects(self) -> int:
        """Connections that stood, after the first."""
        return max(0, self.connections - 1)

    @property
    def first_processed_age_s(self) -> float | None:
        """Seconds since the first processed picture went on; None if there was none."""
        first_at = self._fallback.first_processed_at
        return time.monotonic() - first_at if first_at is not None else None

    @property
    def fps_sent(self) -> float:
        """Pictures a second that are sent now."""
        return self.client.ledger.sent.rate if self.client else 0.0

    @property
    def fps_returned(self) -> float:
        """Pictures a second that come back now."""
        return self.client.ledger.returned.rate if self.client else 0.0

    def figures(self) -> dict[str, Any]:
        """The link's part of `SessionFigures`."""
        problem = self.problem
        return {
            "link": self.state.value,
            "problem": problem.message if problem else None,
            "problem_code": problem.code if problem else None,
            "missing_nodes": problem.details.get("nodes") if problem else None,
            "attempts": self.attempts,
            "reconnects": self.reconnects,
            "fps_sent": self.fps_sent,
            "fps_returned": self.fps_returned,
            "first_processed_age_s": self.first_processed_age_s,
            "fallback_active": self._fallback.active,
        }

    def status(self) -> dict[str, Any]:
        """Plain values for the session's status."""
        ledger = self.client.ledger if self.client else None
        problem = self.problem
        fallback = self._fallback
        return {
            "link": self.state.value,
            "attempts": self.attempts,
            "reconnects": self.reconnects,
            "moves": self._move.moves,
            "error": problem.message if problem else None,
            "error_code": problem.code if problem else None,
            "fallback": fallback.mode.value,
            "fallback_active": fallback.active,
            "frames_processed": fallback.frames_processed,
            "frames_fallback": fallback.frames_fallback,
            "frames_late": fallback.frames_late,
            "fps_sent": round(self.fps_sent, 1),
            "fps_returned": round(self.fps_returned, 1),
            "frames_in_flight": ledger.identifier.in_flight if ledger else 0,
            "frames_abandoned": ledger.abandoned if ledger else 0,
            "frames_unidentified": ledger.identifier.misses if ledger else 0,
            "label_shift": ledger.identifier.label_shift if ledger else 0,
            "round_trip_ms": ledger.round_trip.percentiles_ms() if ledger else None,
        }

    # -- what it counts -----------------------------------------------------------------------

    async def measure(self) -> None:
        """Look at the way to the server, for the next `tally`."""
        if self.client is not None:
            self._network = await self.client.network() or self._network

    def tally(self, tally: Tally) -> None:
        """Add what was counted and measured."""
        fallback = self._fallback
        tally.count("frames_total", "processed", "video", by=fallback.frames_processed)
        tally.count("frames_total", "fallback", "video", by=fallback.frames_fallback)
        tally.count("webrtc_attempts_total", by=self.attempts)
        tally.each("webrtc_failures_total", self._failures)
        tally.each("webrtc_reconnects_total", self._reconnect_reasons)
        tally.stands("sessions_fallback", at=int(fallback.active))
        tally.add_past(self._past)
        if self.client is not None and self.client is not self._counted:
            self._tally_connection(self.client, tally)
            self._tally_present(self.client, tally)

    def _tally_connection(self, client: WebRTCClient, tally: Tally) -> None:
        ledger = client.ledger
        tally.count("frames_total", "sent", "video", by=ledger.sent.total)
        tally.count("frames_total", "returned", "video", by=ledger.returned.total)
        tally.measured("stage_duration_seconds", "send_encode", histogram=ledger.encoding)
        tally.measured(
            "stage_duration_seconds", "comfystream", histogram=ledger.round_trip.histogram
        )
        tally.count("webrtc_packets_lost_total", "sent", by=self._network.lost_sent)
        tally.count("webrtc_packets_lost_total", "received", by=self._network.lost_received)

    def _tally_present(self, client: WebRTCClient, tally: Tally) -> None:
        network = self._network
        tally.stands("webrtc_connections", client.state)
        tally.stands("webrtc_ice_connections", network.ice)
        tally.stands("webrtc_dtls_connections", network.dtls)
        tally.stands("frames_in_flight", at=client.ledger.identifier.in_flight)
        if network.rtt_s is not None:
            tally.at_worst("webrtc_rtt_seconds", at=network.rtt_s)
