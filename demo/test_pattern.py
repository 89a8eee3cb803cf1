"""A live test pattern with sound, each frame numbered, published on a trickle channel.

    python -m demo.test_pattern http://127.0.0.1:3389/live --seconds 20

`generate` is the pattern as bytes, a chunk a frame, for tests that want to publish, cut or lose
exact frames; the command line paces it in real time.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from demo import barcode
from demo.live_encoder import SAMPLE_RATE, SAMPLES_PER_FRAME, LiveEncoder, VideoSettings
from demo.live_publisher import add_publisher_arguments, publish_from_command_line
from demo.picture import TestCard
from demo.segment_writer import CLOCK_RATE, SegmentWriter, SourceChunk

FLASH_S = 0.1
"""The flash and the beep begin together, on every whole second of media time."""
_BEEP_HZ = (1000, 1500)
"""Left and right, so that swapped channels can be told."""


@dataclass(frozen=True, slots=True)
class PatternOptions:
    """What to generate."""

    width: int = 512
    height: int = 512
    fps: Fraction = Fraction(30)
    frames: int | None = None
    """How many; None for ever."""
    first_number: int = 0
    start_pts: int = 900_000
    """90 kHz pts of the first frame; past 2^33 it wraps on the wire."""
    gop: int | None = None
    """Frames from IDR to IDR; None for a second's worth."""
    segment_s: float = 1.0
    bit_rate: int = 2_000_000
    preset: str = "ultrafast"
    profile: str | None = None
    """H.264 profile, e.g. ``high``; None leaves it to the preset (ultrafast: baseline)."""
    b_frames: int = 0
    slices: int = 1
    """Of each picture."""
    audio: bool = True
    pes_length: bool = False
    """Announce the length of video PES packets, as libavformat by default does not."""
    steps: tuple[int, ...] = ()
    """Ticks from each frame to the next, over and over, for a rate that varies; without, `fps`."""
    plain: bool = False
    """Only the barcode on grey: the cheapest picture to draw and encode."""

    def video_settings(self) -> VideoSettings:
        return VideoSettings(
            self.width,
            self.height,
            self.fps,
            gop=self.gop,
            bit_rate=self.bit_rate,
            preset=self.preset,
            profile=self.profile,
            b_frames=self.b_frames,
            slices=self.slices,
        )

    def pts(self, number: int) -> int:
        """The pts that frame `number` has, in 90 kHz ticks, unwrapped."""
        if self.steps:
            rounds, rest = divmod(number - self.first_number, len(self.steps))
            return self.start_pts + rounds * sum(self.steps) + sum(self.steps[:rest])
        return self.start_pts + round((number - self.first_number) * CLOCK_RATE / self.fps)


def generate(options: PatternOptions) -> Iterator[SourceChunk]:
    """The pattern's bytes, as fast as they are taken; pacing is up to the caller.

    Blocks while it encodes (a few ms a frame at 512x512): not for the event loop's thread.
    Close the iterator to free the encoders early.
    """
    numbers: Iterator[int] = itertools.count(options.first_number)
    if options.frames is not None:
        numbers = iter(range(options.first_number, options.first_number + options.frames))
    card = TestCard(options.width, options.height, plain=options.plain)
    began = datetime.now()
    with LiveEncoder(options.video_settings(), audio=options.audio) as encoder:
        writer = SegmentWriter(
            encoder.video,
            encoder.audio,
            segment_s=options.segment_s,
            pes_length=options.pes_length,
        )
        sound = encoder.encode_audio(_sound(), options.start_pts)
        number_of_pts: dict[int, int] = {}

        def write(packets: list[av.Packet]) -> Iterator[SourceChunk]:
            for packet in packets:
                while writer.wants_audio(packet.dts):
                    writer.add_audio(next(sound))
                yield from writer.write_video(packet, number_of_pts.pop(packet.pts))

        for number in numbers:
            time_s = (number - options.first_number) / float(options.fps)
            frame = card.draw(
                number % (barcode.MAX_NUMBER + 1),
                time_s,
                began + timedelta(seconds=time_s),
                flash=time_s % 1 < FLASH_S,
            )
            pts = options.pts(number)
            number_of_pts[pts] = number
            yield from write(encoder.encode(frame, pts))
        yield from write(encoder.encode(None))
        yield from writer.close()


def _sound() -> Iterator[NDArray[np.float32]]:
    """Sound for ever, shape (2, SAMPLES_PER_FRAME) a frame: a beep each second, else silence."""
    second = np.zeros((2, SAMPLE_RATE), np.float32)
    beep = _beep()
    second[:, : beep.shape[1]] = beep
    for position in itertools.count(0, SAMPLES_PER_FRAME):
        positions = np.arange(position, position + SAMPLES_PER_FRAME)
        yield second.take(positions, axis=1, mode="wrap")


def _beep() -> NDArray[np.float32]:
    """The beep, shape (2, samples), with edges soft enough not to click."""
    time_s = np.arange(round(SAMPLE_RATE * FLASH_S)) / SAMPLE_RATE
    edge = np.clip(np.minimum(time_s, FLASH_S - time_s) / 0.002, 0, 1)
    tones = np.sin(2 * np.pi * np.array(_BEEP_HZ)[:, None] * time_s)
    return (0.3 * edge * tones).astype(np.float32)


def picture_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    size = int(width), int(height)
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise ValueError(text)
    return size


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.test_pattern", description="Publish a live test pattern with sound."
    )
    parser.add_argument("url", help="trickle channel, e.g. http://127.0.0.1:3389/live")
    parser.add_argument("--size", type=picture_size, default=(512, 512), metavar="WIDTHxHEIGHT")
    parser.add_argument("--fps", type=Fraction, default=Fraction(30), help="e.g. 30 or 30000/1001")
    parser.add_argument("--gop", type=int, help="frames from IDR to IDR; a second's worth")
    parser.add_argument("--segment-seconds", type=float, default=1.0)
    parser.add_argument("--bit-rate", type=int, default=2_000_000)
    parser.add_argument("--preset", default="ultrafast", help="of x264")
    parser.add_argument("--profile", help="of H.264: baseline, main, high")
    parser.add_argument("--b-frames", type=int, default=0)
    parser.add_argument("--start-pts", type=int, default=900_000, help="90 kHz")
    parser.add_argument("--frames", type=int, help="end after so many; without, never")
    parser.add_argument("--seconds", type=float, help="end after so much media")
    parser.add_argument("--no-audio", dest="audio", action="store_false")
    add_publisher_arguments(parser)
    arguments = parser.parse_args()
    frames = arguments.frames
    if frames is None and arguments.seconds is not None:
        frames = round(arguments.seconds * arguments.fps)
    width, height = arguments.size
    options = PatternOptions(
        width=width,
        height=height,
        fps=arguments.fps,
        frames=frames,
        start_pts=arguments.start_pts,
        gop=arguments.gop,
        segment_s=arguments.segment_seconds,
        bit_rate=arguments.bit_rate,
        preset=arguments.preset,
        profile=arguments.profile,
        b_frames=arguments.b_frames,
        audio=arguments.audio,
    )
    publish_from_command_line(arguments, generate(options))


if __name__ == "__main__":
    main()
