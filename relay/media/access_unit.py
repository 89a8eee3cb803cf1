"""What the media path carries: elementary streams, access units, frames, and their time.

All times are presentation times in 90 kHz ticks (ISO/IEC 13818-1, 2.4.3.7), unwrapped: the
demuxer adds 2^33 for every wrap, so within a session they are plain integers that the muxer
reduces modulo 2^33 again. `arrived_at` is the event loop's monotonic clock, in seconds, when
the last byte was read from the input channel; it goes with the unit to the end of the path, so
that the true delay of a frame can be told when its last byte leaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import av

CLOCK_RATE = 90_000
"""Ticks a second of every pts and dts here."""
TIME_BASE = Fraction(1, CLOCK_RATE)
PTS_MODULUS = 1 << 33
"""MPEG-TS timestamps have 33 bits."""


class MediaKind(StrEnum):
    VIDEO = "video"
    AUDIO = "audio"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ElementaryStream:
    """One stream of a programme, as its PMT describes it."""

    kind: MediaKind
    codec: str
    """FFmpeg's codec name (``h264``, ``hevc``, ``aac``, ``opus``, ...), ``unknown`` if we
    can't tell."""
    stream_type: int
    """ISO/IEC 13818-1 table 2-34."""
    descriptors: bytes = b""
    """The ES_info descriptors, as they came: what it takes to announce the stream again."""


@dataclass(slots=True)
class AccessUnit:
    """One coded picture, or one PES packet of audio, complete."""

    stream: ElementaryStream
    data: bytes
    """Annex B for H.264 and HEVC; for audio the PES payload, untouched (ADTS for AAC)."""
    pts: int
    dts: int
    keyframe: bool = False
    damaged: bool = False
    """Packets were lost in it, or before it since the last keyframe."""
    arrived_at: float = 0.0
    hidden: bool = False
    """Of a processed picture: to be decoded, because later ones refer to it, and not shown."""
    number: int = 0
    """One more than that of the unit coded right before it, where somebody counts: a step of more
    is a picture that is missing, or another stream."""


@dataclass(slots=True)
class DecodedFrame:
    """One picture on its way through the relay."""

    frame: av.VideoFrame
    """yuv420p, at the session's width and height once the decoder has fitted it."""
    pts: int
    arrived_at: float = 0.0


@dataclass(slots=True)
class CodedFrame:
    """One picture of the source on its way through the relay, not decoded unless somebody has to.

    Attributes:
        unit: H.264; an IDR picture, and only that, is a keyframe, and has its parameter sets.
        picture: decodes it, with all it refers to, and fits it; None if that can't be done, or
            pictures well after it were decoded meanwhile.
    """

    unit: AccessUnit
    picture: Callable[[], Awaitable[DecodedFrame | None]]
    pts: int
    arrived_at: float


SourceFrame = DecodedFrame | CodedFrame
"""A picture of the source."""


@dataclass(frozen=True, slots=True)
class RepeatPicture:
    """The last picture of the output once more, under a time of its own."""

    pts: int
    arrived_at: float = 0.0
    """Of the input frame it stands for; 0.0 if it stands for none, and then it has no delay."""
