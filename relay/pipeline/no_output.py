"""The last stages of a session without an output: what comes back is counted and let go.

Such a session is run for what a workflow says of the pictures, on its data channel.
"""

from __future__ import annotations

from typing import Any

from relay.copy_switch import CopySwitch
from relay.media.access_unit import AccessUnit
from relay.pipeline.publish import OutputSegment
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue, QueueClosed
from relay.sound.output_audio import OutputAudio
from relay.stats import DelayMeter, MinuteMeter, RateMeter


class NoOutput:
    """Stands where `relay.pipeline.egress.Egress` and `relay.pipeline.publish.Publish` do."""

    def __init__(
        self,
        processed: MediaQueue[ProcessedUnit],
        segments: MediaQueue[OutputSegment],
        copying: CopySwitch,
    ) -> None:
        self.copying = copying
        """Nothing is, as nothing goes out."""
        self.frames = self.encoded = RateMeter()
        """Processed pictures that came back."""
        self.problem: str | None = None
        """Never any."""
        self.keep_channel = False
        self.minute = MinuteMeter()
        self.sound = RateMeter()
        self.delay = DelayMeter()
        self.segment_lost_at: float | None = None
        self.audio = OutputAudio(lambda _: None, lambda: False, lambda: False)
        """Gets no sound: there is nothing to announce it on."""
        self._processed = processed
        self._segments = segments

    async def run(self) -> None:
        """Take all there is, until it has ended."""
        try:
            while True:
                unit = await self._processed.get()
                if not (isinstance(unit, AccessUnit) and unit.hidden):
                    self.frames.tick()
                    self.minute.tick()
        except QueueClosed:
            pass
        finally:
            self.audio.close()
            self._segments.close()

    def close(self) -> None:
        """There is nothing to free."""

    def status(self) -> dict[str, Any]:
        """The output's part of the session status."""
        return {
            "fps": round(self.frames.rate, 1),
            "frames": self.frames.total,
            "segments": 0,
            "segments_lost": 0,
            "bytes": 0,
            "last_seq": None,
            "fps_encoded": 0.0,
            "encoder": None,
            "frames_out_of_order": 0,
            "frames_repeated": 0,
        } | self.audio.status()
