"""Audio access units to sound: any codec, any framing, each frame with its source's time.

A PES packet holds any number of coded frames, and may begin in the middle of one. Its timestamp is
that of the first frame that begins in it (ISO/IEC 13818-1, 2.4.3.7); the others follow by their
length.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
from av.audio.codeccontext import AudioCodecContext

from relay.errors import MediaError
from relay.media import adts, opus_ts
from relay.media import arrays as np
from relay.media.access_unit import CLOCK_RATE, TIME_BASE, AccessUnit, ElementaryStream
from relay.media.decoder import padded_packet

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CODED_FRAME_BYTES = 1 << 16
"""More than any codec's largest frame; a remainder that grows beyond is garbage."""
MAX_MARKS = 64
"""Timestamps whose frames have not come out yet; more means that none will."""


@dataclass(slots=True)
class PcmFrame:
    """Decoded sound, in the format it was coded in."""

    frame: av.AudioFrame
    pts: int
    """90 kHz ticks, unwrapped, of its first sample."""
    arrived_at: float = 0.0


class AudioDecoder:
    """Decodes one audio stream, also when it becomes another in the middle.

    Not thread-safe: one call at a time, from any thread.
    """

    def __init__(self) -> None:
        self.errors = 0
        """Coded frames the decoder could not make anything of."""
        self.unknown = 0
        """Access units of a codec that there is no decoder for."""
        self._stream: ElementaryStream | None = None
        self._context: AudioCodecContext | None = None
        self._rest = b""
        self._fed = 0
        self._parsed = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._next_pts = 0

    def decode(self, unit: AccessUnit) -> list[PcmFrame]:
        """The sound that `unit` completes."""
        if unit.stream != self._stream:
            self._open(unit.stream)
        if self._context is None:
            self.unknown += 1
            return []
        self._marks.append((self._fed, unit.pts))
        decoded: list[PcmFrame] = []
        for begin, coded in self._split(unit.data):
            while self._marks and self._marks[0][0] <= begin:
                self._next_pts = self._marks.popleft()[1]
            self._decode(coded, unit.arrived_at, decoded)
        if unit.damaged:
            self._rest = b""  # what follows is not its other half
        while len(self._marks) > MAX_MARKS:
            self._marks.popleft()
        return decoded

    def reset(self) -> None:
        """Forget everything; the next unit is a beginning."""
        self._stream = None
        self._context = None
        self._rest = b""
        self._fed = self._parsed = 0
        self._marks.clear()

    def _open(self, stream: ElementaryStream) -> None:
        self.reset()
        self._stream = stream
        try:
            self._context = _open_decoder(stream)
        except (av.FFmpegError, ValueError):
            self._context = None

    def _split(self, data: bytes) -> list[tuple[int, bytes]]:
        """The coded frames that are whole now, and where each begins, counted from the stream's
        first byte."""
        assert self._stream is not None
        begin = self._fed - len(self._rest)
        self._fed += len(data)
        if self._stream.codec not in ("aac", "opus"):
            return self._parse(data)
        data = self._rest + data
        if self._stream.codec == "aac":
            spans = [(first, first, end) for first, end in adts.frames(data)]
        else:
            spans = list(opus_ts.packets(data))
        rest = data[spans[-1][2] :] if spans else data
        self._rest = rest if len(rest) <= MAX_CODED_FRAME_BYTES else b""
        return [(begin + head, data[first:end]) for head, first, end in spans]

    def _parse(self, data: bytes) -> list[tuple[int, bytes]]:
        """Frames as libav's parser finds them, some of which it gives out with the next only."""
        assert self._context is not None
        found: list[tuple[int, bytes]] = []
        for packet in self._context.parse(data):
            found.append((self._parsed, bytes(packet)))
            self._parsed += packet.size
        return found

    def _decode(self, coded: bytes, arrived_at: float, decoded: list[PcmFrame]) -> None:
        """Decode one coded frame, whose pts is `_next_pts`."""
        assert self._context is not None
        packet = padded_packet(coded)
        packet.pts = packet.dts = self._next_pts
        packet.time_base = TIME_BASE
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError:
            self.errors += 1
            return
        for frame in frames:
            decoded.append(PcmFrame(frame, self._next_pts, arrived_at))
            self._next_pts += round(frame.samples * CLOCK_RATE / frame.sample_rate)


class OpusDecoder:
    """Raw Opus packets to 48 kHz stereo, for what comes back over WebRTC."""

    def __init__(self) -> None:
        self.errors = 0
        context: Any = av.CodecContext.create("libopus", "r")
        context.format, context.layout, context.sample_rate = "s16", "stereo", 48_000
        self._context: AudioCodecContext = context

    def decode(self, packet: bytes) -> NDArray[np.int16] | None:
        """The packet's samples, shape (n, 2); None if it can't be decoded."""
        try:
            frames = self._context.decode(padded_packet(packet))
        except av.FFmpegError:
            self.errors += 1
            return None
        if not frames:
            return None
        samples = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames])
        return samples.astype(np.int16, copy=False)


def _open_decoder(stream: ElementaryStream) -> AudioCodecContext:
    name = "libopus" if stream.codec == "opus" else stream.codec
    context = av.CodecContext.create(name, "r")
    if not isinstance(context, AudioCodecContext):
        raise MediaError(f"{stream.codec} is no audio codec", code="no_decoder")
    if stream.codec == "opus":
        count = opus_ts.channels(stream)
        context.extradata = opus_ts.identification_header(count)
    context.open()
    return context
