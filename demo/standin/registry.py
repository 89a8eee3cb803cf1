"""What the connections of one server share, and what they did that a client must not do."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from demo.standin.faults import FaultBoard
from demo.standin.pipeline import Pipeline
from demo.standin.settings import StandInSettings
from demo.standin.stats import StreamGauge
from relay.tasks import cancel_and_wait

if TYPE_CHECKING:
    from demo.standin.connection import Connection
    from demo.standin.tracks import PipelineVideoTrack

SILENT_PEER_S = 0.25
"""A prompt peer that sent nothing for this long may be dead: its sender still waits for an
output, and the next warm-up's is the one it gets."""
KEPT_ENDED = 50


@dataclass(frozen=True, slots=True)
class Hazard:
    """Something that can wedge or disturb the server, whether or not it did this time."""

    kind: str
    """``offer_beside_silent_peer``, ``offer_beside_live_peer`` or ``offer_too_soon``."""
    gap_s: float
    """Since the last frame of that peer, or since the last prompt peer was cleaned up."""


class Registry:
    """The connections of one server, and everything that is one for all of them."""

    def __init__(self, settings: StandInSettings, board: FaultBoard) -> None:
        self.settings = settings
        self.board = board
        self.pipeline = Pipeline(board, audio_timeout_s=settings.audio_timeout_s)
        self.gauge = StreamGauge()
        self.connections: set[Connection] = set()
        self.ended: deque[dict[str, Any]] = deque(maxlen=KEPT_ENDED)
        self.hazards: list[Hazard] = []
        self.video_tracks: dict[str, PipelineVideoTrack] = {}
        """Prompt-mode video by the peer's own track id."""
        self.text_tasks: set[asyncio.Task[None]] = set()
        self.prompt_peer_cleaned_up_at: float | None = None
        self.offers = 0
        self.requests: set[asyncio.Task[Any]] = set()
        """Handlers in progress; one that hangs outlives its client's connection."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what must go on after the connection that asked for it."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, connection: Connection) -> None:
        """A connection ended; its last report is kept."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.ended.append(connection.report())

    def stop_text(self) -> None:
        """End text forwarding, for every connection."""
        for task in self.text_tasks:
            task.cancel()

    def hazards_of_prompt_offer(self) -> list[Hazard]:
        """What is dangerous about applying prompts now; recorded."""
        now = time.monotonic()
        found = []
        peers = [peer for peer in self.connections if not peer.noop and peer.was_connected]
        if peers:
            gap_s = self.pipeline.media.last_frame_age_s
            kind = "offer_beside_silent_peer" if gap_s > SILENT_PEER_S else "offer_beside_live_peer"
            found.append(Hazard(kind, gap_s))
        if self.prompt_peer_cleaned_up_at is not None:
            gap_s = now - self.prompt_peer_cleaned_up_at
            if gap_s < self.settings.safe_reoffer_gap_s:
                found.append(Hazard("offer_too_soon", gap_s))
        self.hazards.extend(found)
        return found

    def will_wedge(self, hazards: list[Hazard]) -> bool:
        """Whether the worst case is asked for and one of these has one."""
        dangerous = {"offer_beside_silent_peer", "offer_too_soon"}
        return self.board.current.race == "worst" and any(
            hazard.kind in dangerous for hazard in hazards
        )

    async def aclose(self) -> None:
        """End requests that hang, close every connection, then the pipeline."""
        await cancel_and_wait(self.requests)
        await asyncio.gather(*(connection.aclose() for connection in list(self.connections)))
        pending = set(self._tasks)
        if pending:
            await asyncio.wait(pending, timeout=2.0)
        await cancel_and_wait(self._tasks | self.text_tasks)
        await self.pipeline.aclose()

    def report(self) -> dict[str, Any]:
        """The truth about the process, for ``/standin/state``."""
        pipeline = self.pipeline
        ended = list(self.ended)
        return {
            "pipeline": {
                "state": str(pipeline.state),
                "wedged": pipeline.wedged,
                "width": pipeline.width,
                "height": pipeline.height,
                "prompts": pipeline.runner.workflows,
                "fell_back": pipeline.runner.fallen_back,
                "running": pipeline.runner.running,
            },
            "frames": {
                "received": pipeline.media.frames_received,
                "last_received_s": pipeline.media.last_frame_age_s,
                "replaced": pipeline.engine.image_inputs.replaced,
                "returned": pipeline.media.frames_returned,
                "runs": pipeline.engine.runs,
            },
            "queues": pipeline.media.queue_lengths(),
            "retained_bytes": pipeline.media.retained_bytes(),
            "offers": self.offers,
            "connections": [connection.report() for connection in self.connections],
            "ended": ended,
            "last_close_clean": not ended[-1]["lost"] if ended else None,
            "hazards": [asdict(hazard) for hazard in self.hazards],
            "faults": self.board.current.model_dump(mode="json"),
        }
