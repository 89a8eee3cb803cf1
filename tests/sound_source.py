"""Sound for tests: tones in real codecs and containers, and live channels that carry it.

`tone_units` encodes with libav and muxes with libav's MPEG-TS muxer, so what the relay is given
is another muxer's work; `live_chunks` makes a channel of any units, with gaps and joins where
the test puts them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from demo.segment_writer import SourceChunk
from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream, MediaKind
from relay.media.demuxer import TsDemuxer
from relay.media.segment_muxer import SegmentMuxer

LEFT_HZ, RIGHT_HZ = 1000.0, 1500.0
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}
_ENCODERS = {
    "aac": "fltp",
    "libopus": "s16",
    "mp2": "s16",
    "libmp3lame": "fltp",
    "ac3": "fltp",
}


def tone(rate: int, seconds: float, layout: str = "stereo", level: float = 0.3) -> NDArray[Any]:
    """Float samples, shape (channels, n): 1000 Hz in the left channel, 1500 Hz in the right; in
    one channel or beyond two, 1000 Hz."""
    time_s = np.arange(round(rate * seconds)) / rate
    frequencies = [LEFT_HZ, RIGHT_HZ, *[LEFT_HZ] * 4][: CHANNELS[layout]]
    return np.array([level * np.sin(2 * np.pi * f * time_s) for f in frequencies])


def encode(
    samples: NDArray[Any],
    rate: int,
    layout: str = "stereo",
    codec: str = "aac",
    start_pts: int = 0,
) -> list[AccessUnit]:
    """Samples as the audio units of a channel; the first sample's pts is `start_pts` (90 kHz)."""
    data = io.BytesIO()
    with av.open(data, "w", format="mpegts", options={"pes_payload_size": "0"}) as container:
        stream: Any = container.add_stream(codec, rate, layout=layout)
        container.start_encoding()
        step = stream.codec_context.frame_size or 1024
        sample_format = _ENCODERS[codec]
        for index in range(0, samples.shape[1], step):
            frame = _frame(samples[:, index : index + step], sample_format, layout)
            frame.sample_rate, frame.pts = rate, index
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    demuxer = TsDemuxer()
    units = demuxer.feed(data.getvalue(), 0.0) + demuxer.segment_boundary(0.0)
    # libav moves the first packet, with the encoder's priming in it, to its own origin.
    origin = units[0].pts + priming_ticks(codec, rate)
    for unit in units:
        unit.pts = unit.dts = unit.pts - origin + start_pts
    return units


def priming_ticks(codec: str, rate: int) -> int:
    """By how much the first unit lies before the first sample."""
    context = av.CodecContext.create(codec, "w")
    context.sample_rate, context.layout, context.format = rate, "stereo", _ENCODERS[codec]
    context.time_base = Fraction(1, rate)
    context.open()
    frame_size = context.frame_size
    for index in range(8):
        frame = _frame(np.zeros((2, frame_size)), _ENCODERS[codec], "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, index * frame_size, Fraction(1, rate)
        for packet in context.encode(frame):
            return round(-packet.pts * CLOCK_RATE / rate)
    raise AssertionError(f"{codec} gives no packet")


def tone_units(
    seconds: float,
    *,
    rate: int = 48_000,
    layout: str = "stereo",
    codec: str = "aac",
    start_pts: int = 0,
) -> list[AccessUnit]:
    """A tone as the audio units of a channel."""
    return encode(tone(rate, seconds, layout), rate, layout, codec, start_pts)


def _frame(samples: NDArray[Any], sample_format: str, layout: str) -> av.AudioFrame:
    if sample_format == "fltp":
        array = np.ascontiguousarray(samples, np.float32)
    else:
        array = np.round(samples.T.reshape(1, -1) * 32767).astype(np.int16)
    return av.AudioFrame.from_ndarray(array, format=sample_format, layout=layout)


def live_chunks(
    units: Iterable[AccessUnit],
    *,
    video: ElementaryStream | None = None,
    audio: ElementaryStream | None = None,
    segment_s: float = 0.5,
) -> Iterator[SourceChunk]:
    """Units, in the order to send them, as the chunks of a channel, each due at its own time.

    Args:
        video, audio: what the PMT lists from the start.
    """
    muxer = SegmentMuxer(video, audio, segment_s)
    segment, start = -1, None
    for unit in units:
        start = unit.dts if start is None else start
        for chunk in muxer.add(unit):
            segment += chunk.starts_segment
            yield SourceChunk(chunk.data, segment, (unit.dts - start) / CLOCK_RATE)


def interleaved(*streams: Sequence[AccessUnit]) -> list[AccessUnit]:
    """Units of several streams in the order of their times; video first at the same time."""
    return sorted(
        (unit for stream in streams for unit in stream),
        key=lambda unit: (unit.dts, unit.stream.kind is not MediaKind.VIDEO),
    )
