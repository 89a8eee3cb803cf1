"""Every second frame left out, while the relay has too much to do."""

from __future__ import annotations


class FrameShed:
    """Asked for each frame that would go on to be processed.

    Attributes:
        on: whether frames are left out. May be changed at any time.
    """

    def __init__(self) -> None:
        self.on = False
        self._skipped = False
        """Whether the last frame was."""

    def skips(self) -> bool:
        """Whether this frame is left out."""
        self._skipped = self.on and not self._skipped
        return self._skipped
