"""What happens to a frame between the workflow and the sender: nothing, or the faults in force."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np

from demo.standin.faults import FaultBoard

F = TypeVar("F", av.VideoFrame, av.AudioFrame)


class SenderDied(Exception):
    """Raised in a track, ends its sender; the connection stays as it is."""


class ReturnPath:
    """The way back of one track of one connection.

    Args:
        board: the faults in force.
        force_keyframe: makes the next sent frame a keyframe.
    """

    def __init__(self, board: FaultBoard, force_keyframe: Callable[[], None]) -> None:
        self.frames = 0
        """Frames that came to be sent."""
        self.sent = 0
        """Frames that were handed to the sender."""
        self._board = board
        self._force_keyframe = force_keyframe
        self._rng = np.random.default_rng()

    def video(self, frame: av.VideoFrame) -> av.VideoFrame | av.Packet | None:
        """What to send for `frame`; None to send nothing.

        Raises:
            SenderDied: the fault says so.
        """
        faults = self._board.current
        if self._lost(faults.video_sender_dies_after):
            return None
        pts, time_base = frame.pts, frame.time_base
        if faults.undecodable:
            return self._garbage(pts, time_base)
        width, height = frame.width, frame.height
        if self.frames > faults.output_size_after:
            width = faults.output_width or width
            height = faults.output_height or height
        every = faults.oversized_keyframe_every
        oversized = every is not None and self.frames % every == 0
        if oversized:
            self._force_keyframe()
        if faults.noise or oversized:
            noise = self._rng.integers(0, 256, (height, width, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
        elif (width, height) != (frame.width, frame.height):
            frame = frame.reformat(width=width, height=height, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        self.sent += 1
        return frame

    def audio(self, frame: av.AudioFrame) -> av.AudioFrame | None:
        """What to send for `frame`; None to send nothing. Raises: as `video`."""
        if self._lost(self._board.current.audio_sender_dies_after):
            return None
        self.sent += 1
        return frame

    def _lost(self, dies_after: int | None) -> bool:
        if dies_after is not None and self.sent >= dies_after:
            raise SenderDied("the sender died, as asked")
        self.frames += 1
        return self._board.loses_returned(self.frames)

    def _garbage(self, pts: int | None, time_base: Fraction | None) -> av.Packet:
        """A slice that belongs to no picture: its parameter sets never come."""
        payload = self._rng.integers(1, 256, 300, np.uint8).tobytes()
        packet = av.Packet(b"\x00\x00\x00\x01\x65" + payload)
        packet.pts, packet.time_base = pts, time_base
        self.sent += 1
        return packet
