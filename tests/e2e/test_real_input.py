"""A file made by the ffmpeg command line, as a camera's encoder would make it."""

from __future__ import annotations

import asyncio
import subprocess
from itertools import dropwhile
from pathlib import Path

import pytest

from demo import barcode
from relay.media.access_unit import DecodedFrame
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.trickle.publisher import TricklePublisher
from tests.e2e.stack import (
    Viewer,
    assert_every_frame_once_with_its_time,
    in_background,
    running_stack,
)

WIDTH, HEIGHT, FPS, FRAMES = 1280, 720, 25, 125
SEGMENT_FRAMES = 25


def make_source(folder: Path) -> list[Path]:
    """Numbered pictures through ffmpeg: 720p25, High profile, B-frames, AAC, cut into segments
    that begin with a keyframe. Returns the segments' files, in order."""
    pictures = folder / "pictures.yuv"
    with pictures.open("wb") as file:
        for number in range(FRAMES):
            for plane in barcode.draw(number, WIDTH, HEIGHT).planes:
                # draw's planes are padded: each line is as wide as the plane, not its stride
                for line in range(plane.height):
                    start = line * plane.line_size
                    file.write(bytes(plane)[start : start + plane.width])
    video = f"-f rawvideo -pix_fmt yuv420p -s {WIDTH}x{HEIGHT} -r {FPS} -i {pictures}"
    audio = "-f lavfi -i sine=frequency=440:sample_rate=44100 -shortest -c:a aac"
    codec = f"-c:v libx264 -profile:v high -bf 3 -g {SEGMENT_FRAMES} -sc_threshold 0 -flags +cgop"
    rate = "-preset veryfast -b:v 3M"
    output = f"-f segment -segment_format mpegts -segment_time 1 {folder}/source-%03d.ts"
    command = f"ffmpeg -v error {video} {audio} {codec} {rate} {output}"
    subprocess.run(command.split(), check=True)
    return sorted(folder.glob("source-*.ts"))


async def publish(url: str, segments: list[Path]) -> None:
    """Each segment in real time, in 4 KiB pieces."""
    loop = asyncio.get_running_loop()
    async with TricklePublisher(url) as publisher:
        start = loop.time()
        for position, path in enumerate(segments):
            data = path.read_bytes()
            writer = await publisher.next_segment()
            for offset in range(0, len(data), 4096):
                due = start + position + offset / len(data)
                await asyncio.sleep(due - loop.time())
                await writer.write(data[offset : offset + 4096])
            await writer.close()


def source_pts(segments: list[Path]) -> dict[int, int]:
    """The pts of each numbered frame, as read from the files."""
    decoder = TrickleStreamDecoder(None, None)
    pts: dict[int, int] = {}
    items = []
    for path in segments:
        items += decoder.feed(path.read_bytes()) + decoder.end_segment()
    items += decoder.flush()
    decoder.close()
    for item in items:
        if isinstance(item, DecodedFrame) and (reading := barcode.read(item.frame)):
            pts[reading.number] = item.pts
    return pts


@pytest.mark.timeout(90)
async def test_720p_high_profile_with_b_frames_into_512(tmp_path: Path) -> None:
    """Fitted with bars, every frame once, inverted, with its source pts; and what is recorded
    of the output is clean for ffprobe, segment by segment and as a whole."""
    segments = await asyncio.to_thread(make_source, tmp_path)
    expected = await asyncio.to_thread(source_pts, segments)
    assert len(expected) == FRAMES
    viewer = Viewer()
    async with running_stack() as stack:
        async with in_background(publish(stack.channel("camera"), segments)) as (source,):
            # ffmpeg puts 0.3 s of sound into a PES packet: only a segment longer than two of
            # them is sure to have one.
            session = await stack.start("camera", segment_seconds=1.0)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await source
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
        server = await stack.comfystream.state()
    assert_every_frame_once_with_its_time(viewer, expected.__getitem__, FRAMES - 1, status, server)
    assert len(viewer.frames) > FRAMES // 4
    assert all(frame.inverted for frame in viewer.frames)
    assert {(frame.width, frame.height) for frame in viewer.frames} == {(512, 512)}
    assert viewer.audio, "the AAC goes along"
    assert_clean(b"".join(viewer.segments), tmp_path / "recorded.ts", len(viewer.frames))
    # The last one may be a single picture without the sound that its tables announce; on a machine
    # so busy that the first picture is long in coming, sound alone begins the output.
    with_pictures = list(dropwhile(lambda data: not has_pictures(data), viewer.segments[:-1]))
    assert len(with_pictures) >= len(viewer.segments) - 2
    for position, data in enumerate(with_pictures):
        assert_clean(data, tmp_path / f"recorded-{position}.ts", None)


def has_pictures(segment: bytes) -> bool:
    decoder = TrickleStreamDecoder(None, None)
    items = decoder.feed(segment) + decoder.end_segment()
    decoder.close()
    return any(isinstance(item, DecodedFrame) for item in items)


def assert_clean(data: bytes, path: Path, frames: int | None) -> None:
    """ffprobe and a full decode by ffmpeg say nothing, not even a warning."""
    path.write_bytes(data)
    count = "-count_frames -select_streams v -show_entries stream=nb_read_frames -of csv=p=0"
    probe = subprocess.run(
        f"ffprobe -v warning -f mpegts {count} {path}".split(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert probe.stderr == ""
    if frames is not None:
        assert int(probe.stdout.split()[0].strip(",")) == frames
    as_it_is = "-fps_mode passthrough -enc_time_base -1"
    decode = subprocess.run(
        f"ffmpeg -v warning -f mpegts -i {path} -map 0 {as_it_is} -f null -".split(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert decode.stderr == ""
