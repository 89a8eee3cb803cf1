"""Whole pictures in memory."""

from __future__ import annotations

import av


def copy_of(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture in memory of its own, without pts or time base.

    Two encoders on two threads may not share a frame: each writes its own pts and picture type
    onto it while it encodes.

    Args:
        frame: yuv420p.
    """
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    pairs = list(zip(copy.planes, frame.planes, strict=True))
    if any(ours.line_size != theirs.line_size for ours, theirs in pairs):
        return av.VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)
    for ours, theirs in pairs:
        ours.update(bytes(theirs))
    return copy


def black_picture(width: int, height: int) -> av.VideoFrame:
    """yuv420p, in limited range (ITU-R BT.601: black is Y 16, without colour 128).

    Args:
        width, height: even.
    """
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (16, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame
