"""What each media stage costs, and how early a picture leaves the demuxer.

    python -m bench.media_stages [--size 512x512] [--fps 30] [--seconds 10]

Prints CPU microseconds per unit of each stage, on a stream that the ffmpeg command makes, and the
delay between the arrival of a picture's last byte and the moment the demuxer, or libav's, hands it
out, in a live pipe. Figures are medians over the run; compare them with one another, not across
machines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av

from relay.media.access_unit import AccessUnit, DecodedFrame, MediaKind
from relay.media.decoder import VideoDecoder
from relay.media.demuxer import TsDemuxer
from relay.media.encoder import H264_STREAM, VideoEncoder
from relay.media.fitter import FrameFitter
from relay.media.muxer import TsMuxer

T = TypeVar("T")
NETWORK_CHUNK = 16 * 1024
"""About what a trickle body brings at a time when it is behind; live, it brings one picture."""


def make_stream(size: str, fps: int, seconds: int, *options: str) -> bytes:
    """A test picture with tone, as ffmpeg muxes it: PES packets without length."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.ts"
        source = f"testsrc2=size={size}:rate={fps}:duration={seconds}"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source]
        command += ["-f", "lavfi", "-i", f"sine=sample_rate=48000:duration={seconds}"]
        command += [
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-b:v",
            "1M",
            "-g",
            "60",
            "-bf",
            "0",
            "-c:a",
            "aac",
        ]
        subprocess.run([*command, *options, "-f", "mpegts", str(path)], check=True)
        return path.read_bytes()


class Stage:
    """CPU time of repeated calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: list[float] = []

    def run(self, work: Callable[[], T], units: int = 1) -> T:
        before = time.thread_time()
        result = work()
        self.times.append((time.thread_time() - before) / max(1, units))
        return result

    def report(self) -> str:
        if not self.times:
            return f"  {self.name:<34} -"
        ordered = sorted(self.times)
        median, high = ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100]
        return f"  {self.name:<34} {median * 1e6:9.1f} {high * 1e6:9.1f}"


def demux_cost(data: bytes, chunk: int) -> tuple[float, list[AccessUnit]]:
    """CPU seconds per access unit, and the units."""
    demuxer = TsDemuxer()
    units: list[AccessUnit] = []
    before = time.thread_time()
    for position in range(0, len(data), chunk):
        units += demuxer.feed(data[position : position + chunk], 0.0)
    units += demuxer.segment_boundary(0.0)
    return (time.thread_time() - before) / len(units), units


def print_costs(data: bytes, width: int, height: int, fps: int) -> None:
    print("demux, CPU us per unit (video and audio), by bytes a feed:")
    for chunk in (188, 1316, NETWORK_CHUNK, 1 << 20):
        cost = min(demux_cost(data, chunk)[0] for _ in range(5))
        print(f"  {chunk:<34} {cost * 1e6:9.1f}")
    _, units = demux_cost(data, NETWORK_CHUNK)
    video = [unit for unit in units if unit.stream.kind is MediaKind.VIDEO]
    audio = [unit for unit in units if unit.stream.kind is MediaKind.AUDIO]
    mean = sum(len(unit.data) for unit in video) / len(video)
    print(f"  ({len(video)} pictures of {mean:.0f} bytes, {len(audio)} audio units)")

    print("per unit, CPU us:                         median       p95")
    stages = {
        name: Stage(name)
        for name in (
            "decode",
            "fit, right already",
            "fit, from 720p",
            "encode superfast",
            "mux video",
            "mux audio",
        )
    }
    decoder, encoder = VideoDecoder("h264"), VideoEncoder(width, height, fps_hint=fps)
    fitter, shrinker = FrameFitter(width, height), FrameFitter(width, height)
    muxer = TsMuxer(H264_STREAM, audio[0].stream if audio else None)
    large = av.VideoFrame(1280, 720, "yuv420p")
    for unit in video:
        frames: list[DecodedFrame] = stages["decode"].run(lambda unit=unit: decoder.decode(unit))
        for frame in frames:
            stages["fit, right already"].run(lambda frame=frame: fitter.fit(frame.frame))
            stages["fit, from 720p"].run(lambda: shrinker.fit(large))
            for made in stages["encode superfast"].run(
                lambda frame=frame: encoder.encode(frame.frame, frame.pts)
            ):
                stages["mux video"].run(lambda made=made: muxer.mux(made))
    for unit in audio:
        stages["mux audio"].run(lambda unit=unit: muxer.mux(unit))
    encoder.close()
    for stage in stages.values():
        print(stage.report())


def release_delays(data: bytes, fps: int) -> tuple[list[float], float]:
    """Seconds from a picture's last byte arriving to the demuxer handing it out; share ended early.

    Bytes are fed a transport packet at a time, pictures at their own pace by a counted clock.
    """
    demuxer = TsDemuxer()
    sent: list[float] = []
    delays: list[float] = []
    clock = 0.0
    # The time of a packet: pictures leave the source one frame interval apart.
    for position in range(0, len(data), 188):
        packet = data[position : position + 188]
        starts = packet[1] & 0x5F == 0x41 and packet[2] == 0
        if starts:
            clock += 1 / fps
            sent.append(clock)
        for unit in demuxer.feed(packet, clock):
            if unit.stream.kind is MediaKind.VIDEO:
                delays.append(clock - sent[len(delays)])
    return delays, delays.count(0.0) / max(1, len(delays))


def libav_delays(data: bytes, fps: int, seconds: float) -> list[float]:
    """The same for libav's demuxer reading a pipe, in real time."""
    pictures: list[bytes] = []
    for position in range(0, len(data), 188):
        packet = data[position : position + 188]
        if (packet[1] & 0x5F == 0x41 and packet[2] == 0) or not pictures:
            pictures.append(b"")
        pictures[-1] += packet
    pictures = pictures[: round(seconds * fps)]
    reading, writing = os.pipe()
    sent: list[float] = []

    def write() -> None:
        begin = time.perf_counter()
        for number, picture in enumerate(pictures):
            time.sleep(max(0.0, begin + number / fps - time.perf_counter()))
            view = memoryview(picture)
            while view:
                view = view[os.write(writing, view) :]
            sent.append(time.perf_counter())
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    delays = []
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        with av.open(pipe, format="mpegts") as container:
            # The first chunk holds the tables and nothing else.
            for number, packet in enumerate(container.demux(video=0), 1):
                if packet.size and number < len(sent):
                    delays.append(time.perf_counter() - sent[number])
    writer.join()
    return delays[len(delays) // 2 :]


def print_release(width: int, height: int, fps: int, seconds: int) -> None:
    print("from a picture's last byte to its access unit, ms (median, p95):")
    for name, options in (
        ("PES without length (FFmpeg's way)", ()),
        ("PES with length", ("-omit_video_pes_length", "0")),
    ):
        data = make_stream(f"{width}x{height}", fps, seconds, "-an", *options)
        delays, early = release_delays(data, fps)
        ordered = sorted(delays)
        print(
            f"  {name:<34} this demuxer {statistics.median(delays) * 1e3:6.1f} "
            f"{ordered[len(ordered) * 95 // 100] * 1e3:6.1f}   ({early:.1%} at once)"
        )
        by_libav = sorted(libav_delays(data, fps, min(seconds, 4)))
        print(
            f"  {'':<34} libav        {statistics.median(by_libav) * 1e3:6.1f} "
            f"{by_libav[len(by_libav) * 95 // 100] * 1e3:6.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    width, height = (int(number) for number in options.size.split("x"))
    print(f"{width}x{height} at {options.fps} frames a second, {options.seconds} s, 1 Mbit/s")
    print_costs(make_stream(options.size, options.fps, options.seconds), width, height, options.fps)
    print_release(width, height, options.fps, options.seconds)


if __name__ == "__main__":
    main()
