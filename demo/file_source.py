"""A media file as a live source: looped, timestamps rising across the loops, paced by them.

    python -m demo.file_source clip.mp4 http://127.0.0.1:3389/live

H.264 that a live encoder could have made (4:2:0, no B-frames, a keyframe every two seconds) is
copied; anything else is decoded and encoded again, as is all sound, so that it has no seam
where the file begins again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from demo.live_encoder import SAMPLE_RATE, SAMPLES_PER_FRAME, LiveEncoder, VideoSettings
from demo.live_publisher import add_publisher_arguments, publish_from_command_line
from demo.segment_writer import CLOCK_RATE, SegmentWriter, SourceChunk

LONGEST_GOP_S = 2.0
"""Of a file that is copied: a viewer, and a relay that lost something, waits that long."""
INSPECTED_PACKETS = 600
"""Of video, when deciding whether to copy: 20 s at 30 fps."""
LARGEST_SIDE = 1920
"""Larger pictures are scaled down to it when they are encoded again."""
START_PTS = 900_000
_SOUND_AHEAD = 3 * SAMPLES_PER_FRAME
"""The encoder keeps one frame, one is its priming, and one has to be later than the picture."""
_HELD_VIDEO_S = 2.0
"""How far video may wait for sound that the file stores later."""


class FileSourceError(Exception):
    """The file can't be streamed; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What `inspect` found out."""

    width: int
    height: int
    fps: Fraction
    codec: str
    has_audio: bool
    copy_video: bool
    why_not_copied: str | None = None


def inspect(path: Path) -> FileFacts:
    """Look whether and how a file can be streamed.

    Raises:
        FileSourceError: it can't be.
    """
    with _open(path) as container:
        video = container.streams.video[0]
        reason = _why_not_copied(container, video)
        facts = FileFacts(
            width=video.width & ~1,
            height=video.height & ~1,
            fps=_frame_rate(video),
            codec=video.codec_context.name,
            has_audio=bool(container.streams.audio),
            copy_video=reason is None,
            why_not_copied=reason,
        )
    with _open(path) as container, suppress(av.FFmpegError):
        for _ in container.decode(video=0):
            return facts
    raise FileSourceError(f"{path}: no picture in it can be decoded")


def generate(
    path: Path, *, loops: int | None = None, segment_s: float = 1.0
) -> Iterator[SourceChunk]:
    """The file as a live stream's bytes; blocks while it reads and encodes.

    Args:
        loops: how often to play it; None for ever.

    Raises:
        FileSourceError: it can't be streamed.
    """
    facts = inspect(path)
    with _open(path) as template, LiveEncoder(_settings(facts), audio=facts.has_audio) as encoder:
        writer = SegmentWriter(
            template.streams.video[0] if facts.copy_video else encoder.video,
            encoder.audio,
            segment_s=segment_s,
        )
        player = _Player(facts, encoder, writer)
        for _ in itertools.count() if loops is None else range(loops):
            with _open(path) as container:
                yield from player.play(container)
        yield from player.end()


class _Player:
    """Plays a file over and over into one stream."""

    def __init__(self, facts: FileFacts, encoder: LiveEncoder, writer: SegmentWriter) -> None:
        self._facts = facts
        self._encoder = encoder
        self._writer = writer
        self._number = 0
        self._base = START_PTS
        self._last_video = START_PTS - 1
        self._sound = _SoundLine() if facts.has_audio else None
        if self._sound is not None:
            self._audio_packets = encoder.encode_audio(self._sound.frames(), START_PTS)
        self._held: deque[av.Packet] = deque()
        self._copying = False

    def play(self, container: InputContainer) -> Iterator[SourceChunk]:
        """Play the file once, right after what was played before."""
        video = container.streams.video[0]
        streams = [video, *container.streams.audio[:1]]
        # The first picture follows the last one, whatever sound the file has before it.
        origin = (video.start_time or 0) * video.time_base
        frame_ticks = round(CLOCK_RATE / self._facts.fps)
        resampler = av.AudioResampler("fltp", "stereo", SAMPLE_RATE)
        self._copying = False
        for packet in container.demux(streams):
            with suppress(av.InvalidDataError):
                if packet.stream is not video:
                    self._take_sound(packet, resampler, origin)
                elif self._facts.copy_video:
                    self._copy(packet, origin)
                else:
                    self._encode(packet, origin)
            if self._sound is not None:
                self._encode_sound(self._sound)
            yield from self._write()
        self._base = self._last_video + frame_ticks
        if self._sound is not None:
            # A sound track that is longer than the picture ends with it, a shorter one is
            # filled up: the next loop begins with both.
            self._sound.cut_or_fill(_samples(self._base - START_PTS))

    def end(self) -> Iterator[SourceChunk]:
        """What is still in the encoders."""
        if not self._facts.copy_video:
            self._held += self._encoder.encode(None)
        if self._sound is not None:
            self._encode_sound(self._sound)
        yield from self._write(all_of_it=True)
        yield from self._writer.close()

    def _copy(self, packet: av.Packet, origin: Fraction) -> None:
        if packet.pts is None or packet.dts is None or not packet.size:
            return
        self._copying = self._copying or packet.is_keyframe
        if not self._copying:
            return
        packet.pts = packet.dts = self._next_pts(packet.pts * packet.time_base, origin)
        packet.time_base = Fraction(1, CLOCK_RATE)
        self._held.append(packet)

    def _encode(self, packet: av.Packet, origin: Fraction) -> None:
        for frame in packet.decode():
            if frame.pts is None:
                continue
            pts = self._next_pts(frame.pts * frame.time_base, origin)
            width, height = self._encoder.video.width, self._encoder.video.height
            picture = frame.reformat(width, height, "yuv420p")
            # The decoder's choice of picture types is not the live encoder's.
            picture.pict_type = 0
            self._held += self._encoder.encode(picture, pts)

    def _next_pts(self, time_s: Fraction, origin: Fraction) -> int:
        """Source time to stream time, strictly rising whatever the file says."""
        pts = self._base + round((time_s - origin) * CLOCK_RATE)
        self._last_video = max(pts, self._last_video + 1)
        return self._last_video

    def _take_sound(
        self, packet: av.Packet, resampler: av.AudioResampler, origin: Fraction
    ) -> None:
        assert self._sound is not None
        for frame in packet.decode():
            for resampled in resampler.resample(frame):
                if resampled.pts is not None:
                    time_s = resampled.pts * resampled.time_base - origin
                    ticks = self._base - START_PTS + round(time_s * CLOCK_RATE)
                    self._sound.add(resampled.to_ndarray(), _samples(ticks))

    def _encode_sound(self, sound: _SoundLine) -> None:
        """Up to the picture and a little on; what lies further ahead may yet be cut."""
        limit = _samples(self._last_video - START_PTS) + _SOUND_AHEAD
        while sound.ready and sound.taken <= limit:
            self._writer.add_audio(next(self._audio_packets))

    def _write(self, *, all_of_it: bool = False) -> Iterator[SourceChunk]:
        while self._held:
            oldest, newest = self._held[0], self._held[-1]
            held_s = (newest.dts - oldest.dts) / CLOCK_RATE
            if not all_of_it and held_s < _HELD_VIDEO_S and self._writer.wants_audio(oldest.dts):
                return
            yield from self._writer.write_video(self._held.popleft(), self._number)
            self._number += 1


class _SoundLine:
    """One unbroken line of samples: gaps are filled with silence, overlaps cut."""

    _TOLERANCE = SAMPLE_RATE // 50
    """Timestamps in files are rounded; less than 20 ms is no gap."""

    def __init__(self) -> None:
        self._buffer = np.zeros((2, 0), np.float32)
        self.taken = 0
        """Samples taken off the front so far."""

    @property
    def ready(self) -> bool:
        """Whether a whole frame, and one more for the encoder to keep, can be taken."""
        return self._buffer.shape[1] >= 2 * SAMPLES_PER_FRAME

    def add(self, samples: NDArray[np.float32], position: int) -> None:
        """Put samples, shape (2, n), where they belong on the line."""
        end = self.taken + self._buffer.shape[1]
        gap = position - end
        if gap > self._TOLERANCE:
            samples = np.concatenate([np.zeros((2, gap), np.float32), samples], axis=1)
        elif gap < -self._TOLERANCE:
            samples = samples[:, -gap:]
        self._buffer = np.concatenate([self._buffer, samples], axis=1)

    def cut_or_fill(self, position: int) -> None:
        """Let the line end at `position`, as far as it has not been taken yet."""
        length = max(0, position - self.taken)
        self.add(np.zeros((2, 0), np.float32), position)
        self._buffer = self._buffer[:, :length]

    def frames(self) -> Iterator[NDArray[np.float32]]:
        """Frames of SAMPLES_PER_FRAME, taken off the front; only when `ready`."""
        while True:
            frame = np.ascontiguousarray(self._buffer[:, :SAMPLES_PER_FRAME])
            self._buffer = self._buffer[:, SAMPLES_PER_FRAME:]
            self.taken += SAMPLES_PER_FRAME
            yield frame


def _open(path: Path) -> InputContainer:
    """The file, opened, with a picture in it."""
    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise FileSourceError(f"{path}: there is no such file") from None
    except (OSError, av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileSourceError(f"{path}: not a media file that can be read ({reason})") from None
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not moving or moving[0].index != container.streams.video[0].index:
        container.close()
        raise FileSourceError(f"{path}: there is no moving picture in it")
    return container


def _why_not_copied(container: InputContainer, video: av.VideoStream) -> str | None:
    """None if the video can be sent as it is."""
    if video.codec_context.name != "h264":
        return f"{video.codec_context.name}, not H.264"
    if video.codec_context.pix_fmt not in ("yuv420p", "yuvj420p"):
        return f"pixel format {video.codec_context.pix_fmt}"
    last_pts = last_keyframe = None
    with suppress(av.FFmpegError):
        for packet in itertools.islice(container.demux(video), INSPECTED_PACKETS):
            if packet.pts is None:
                continue
            if last_pts is not None and packet.pts <= last_pts:
                return "B-frames"
            last_pts = packet.pts
            time_s = float(packet.pts * packet.time_base)
            if last_keyframe is None or packet.is_keyframe:
                last_keyframe = time_s
            elif time_s - last_keyframe > LONGEST_GOP_S:
                return f"more than {LONGEST_GOP_S:g} s from keyframe to keyframe"
    return None


def _frame_rate(video: av.VideoStream) -> Fraction:
    rate = video.average_rate or video.guessed_rate
    return rate if rate and 1 <= rate <= 240 else Fraction(25)


def _settings(facts: FileFacts) -> VideoSettings:
    scale = min(1.0, LARGEST_SIDE / max(facts.width, facts.height))
    width, height = (max(2, int(side * scale) & ~1) for side in (facts.width, facts.height))
    # 0.1 bit a pixel: plenty for superfast, within what the relay's hosts have.
    bit_rate = max(500_000, round(width * height * float(facts.fps) * 0.1))
    return VideoSettings(width, height, facts.fps, bit_rate=bit_rate, preset="superfast")


def _samples(ticks: int) -> int:
    return round(ticks * SAMPLE_RATE / CLOCK_RATE)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.file_source", description="Publish a media file as a live stream."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("url", help="trickle channel, e.g. http://127.0.0.1:3389/live")
    parser.add_argument("--loops", type=int, help="how often to play it; without, for ever")
    parser.add_argument("--segment-seconds", type=float, default=1.0)
    add_publisher_arguments(parser)
    arguments = parser.parse_args()
    chunks = generate(arguments.file, loops=arguments.loops, segment_s=arguments.segment_seconds)
    try:
        publish_from_command_line(arguments, chunks)
    except FileSourceError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
