"""The seam where frames become other frames.

The pipeline gives a processor the source's frames in one queue and takes media units from another.
Today that is a ComfyStream server over WebRTC; a Python function would fit the same two queues.
"""

from __future__ import annotations

from typing import Protocol

from relay.copy_switch import CopySwitch
from relay.media.access_unit import (
    AccessUnit,
    CodedFrame,
    DecodedFrame,
    RepeatPicture,
    SourceFrame,
)
from relay.media.audio_grid import SoundBlock
from relay.queues import MediaQueue
from relay.sound.placement import ReturnedPacket, SentSound

ProcessedUnit = AccessUnit | DecodedFrame | CodedFrame | RepeatPicture
"""A processed picture, still encoded (H.264) or decoded, or one of the source's in its place, or
the last one of them again; each carries a source pts. A repeat before the first picture is
nothing."""


class SoundExchange(Protocol):
    """The same seam for sound, where the server gets some: one connection after another takes
    blocks from a queue and gives back packets. All methods belong to the event loop."""

    blocks: MediaQueue[SoundBlock]
    returns: bool
    """Whether it is looked at what comes back."""

    def connected(self, sent: SentSound) -> None:
        """A connection stands and will send what is put into `blocks`, noting it in `sent`."""

    def skipped(self, pts: int) -> None:
        """The block at `pts` was not sent."""

    def returned(self, packet: ReturnedPacket) -> None:
        """A packet came back on the connection that stands."""

    def disconnected(self) -> None:
        """The connection is gone; nothing more comes back. Idempotent."""


class FrameProcessor(Protocol):
    """Frames in, frames out, in order, each output with the pts of the input it shows."""

    copying: CopySwitch
    """Whether frames that come coded are taken as they are."""

    async def run(
        self, frames: MediaQueue[SourceFrame], processed: MediaQueue[ProcessedUnit]
    ) -> None:
        """Process until `frames` is closed and what is under way has come back.

        Frames are taken newest first when they come faster than they can be processed. A
        cancel ends it and releases what it holds.

        Raises:
            ProcessingError: it can't go on and won't recover by itself.
        """

    def see_decoded(self, decodable: bool) -> None:
        """Whether the unit put into `processed` last, if it was encoded, gave a picture."""

    def request_keyframe(self) -> None:
        """Ask for the next unit, if it comes encoded, to be one that decoding can begin with. It
        may come late, or not at all."""
