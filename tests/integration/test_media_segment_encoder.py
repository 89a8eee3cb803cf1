"""Pictures to segments that anybody's player reads, alone, joined and live."""

from __future__ import annotations

import io
import json
import threading
from itertools import pairwise
from pathlib import Path

import av
import pytest

from relay.errors import MediaError
from relay.media import h264
from relay.media.access_unit import AccessUnit, DecodedFrame, MediaKind
from relay.media.demuxer import TsDemuxer
from relay.media.segment_encoder import SegmentChunk, TrickleSegmentEncoder
from relay.media.stream_decoder import TrickleStreamDecoder
from tests.integration.media_samples import ffmpeg, ffprobe, sample


def decoded(
    name: str, *, size: str = "320x240", width: int = 320, height: int = 240
) -> tuple[TrickleStreamDecoder, list[DecodedFrame | AccessUnit]]:
    """A sample's pictures and audio, in the order they came."""
    decoder = TrickleStreamDecoder(width, height)
    items = decoder.feed(sample(name, size=size), 1.0) + decoder.end_segment(1.0)
    items += decoder.flush()
    return decoder, items


def segments_of(chunks: list[SegmentChunk]) -> list[bytes]:
    segments: list[bytes] = []
    for chunk in chunks:
        if chunk.starts_segment:
            segments.append(b"")
        segments[-1] += chunk.data
    return segments


def transcode(
    name: str, seconds: float = 1.0
) -> tuple[list[DecodedFrame | AccessUnit], list[SegmentChunk]]:
    decoder, items = decoded(name)
    encoder = TrickleSegmentEncoder(320, 240, seconds, audio=decoder.audio, fps_hint=25)
    chunks: list[SegmentChunk] = []
    for item in items:
        chunks += (
            encoder.encode(item) if isinstance(item, DecodedFrame) else encoder.add_audio(item)
        )
    chunks += encoder.finish()
    decoder.close()
    return items, chunks


@pytest.mark.parametrize("name", ["main_b_frames", "high_b_pyramid", "mp3", "ac3", "open_gop"])
def test_the_output_is_clean_to_ffmpeg_and_keeps_every_time(name: str, tmp_path: Path) -> None:
    """ffprobe and ffmpeg have nothing to say; each picture has its source's pts, audio its own."""
    items, chunks = transcode(name)
    path = tmp_path / "out.ts"
    path.write_bytes(b"".join(chunk.data for chunk in chunks))
    assert ffmpeg("-i", path, "-f", "null", "-") == ""
    shown = json.loads(
        ffprobe(
            "-show_entries",
            "packet=codec_type,pts,dts:stream=codec_name,r_frame_rate,avg_frame_rate",
            "-of",
            "json",
            path,
        )
    )
    video = [p["pts"] for p in shown["packets"] if p["codec_type"] == "video"]
    assert video == [i.pts for i in items if isinstance(i, DecodedFrame)]
    assert shown["streams"][0]["avg_frame_rate"] == "25/1"
    demuxer = TsDemuxer()
    units = demuxer.feed(path.read_bytes(), 0.0) + demuxer.segment_boundary(0.0)
    audio = [u for u in units if u.stream.kind is MediaKind.AUDIO]
    source = [i for i in items if isinstance(i, AccessUnit)]
    assert [(u.pts, u.data, u.stream) for u in audio] == [(u.pts, u.data, u.stream) for u in source]


def test_each_segment_can_be_played_alone() -> None:
    """PAT, PMT, IDR first; libav decodes every picture of every segment."""
    items, chunks = transcode("main_b_frames", 0.5)
    segments = segments_of(chunks)
    pictures = [i.pts for i in items if isinstance(i, DecodedFrame)]
    assert len(segments) == 5
    shown: list[int] = []
    for segment in segments:
        assert segment[:3] == b"\x47\x40\x00"
        first = TsDemuxer().feed(segment, 0.0)[0]
        assert h264.is_idr(first.data)
        with av.open(io.BytesIO(segment), format="mpegts") as container:
            times = [frame.pts for frame in container.decode(video=0)]
        assert times[0] == first.pts
        shown += times
    assert shown == pictures


def test_chunks_say_what_they_are() -> None:
    """The picture's pts and arrival time go to the end of the path."""
    _, chunks = transcode("main_b_frames")
    video = [c for c in chunks if c.kind is MediaKind.VIDEO]
    assert all(c.arrived_at == 1.0 for c in chunks)
    assert all(b.pts - a.pts == 3600 for a, b in pairwise(video))
    assert [c.pts - video[0].pts for c in chunks if c.starts_segment] == [0, 90_000, 180_000]


def test_a_picture_of_another_size_begins_a_segment_of_that_size() -> None:
    """And the stream goes on, for a decoder too."""
    encoder = TrickleSegmentEncoder(320, 240)
    reader = TrickleStreamDecoder(None, None)
    chunks: list[SegmentChunk] = []
    sizes = []
    for n in range(30):
        width = 320 if n < 10 or n >= 20 else 640
        frame = av.VideoFrame(width, 240, "yuv420p")
        chunks += encoder.encode(DecodedFrame(frame, 3000 * n))
    for segment in segments_of(chunks):
        items = reader.feed(segment) + reader.end_segment()
        sizes.append({item.frame.width for item in items if isinstance(item, DecodedFrame)})
    assert sizes == [{320}, {640}, {320}]
    encoder.finish()
    reader.close()


@pytest.mark.parametrize(
    "times",
    [
        [3000 * n for n in range(12)] + [10**9 + 3000 * n for n in range(12)],
        [10**9 + 3000 * n for n in range(12)] + [3000 * n for n in range(12)],
    ],
)
def test_a_jump_in_time_begins_a_segment(times: list[int], tmp_path: Path) -> None:
    """Forward or back, and each side is one clean segment with its times exact."""
    encoder = TrickleSegmentEncoder(64, 64)
    chunks: list[SegmentChunk] = []
    for pts in times:
        chunks += encoder.encode(DecodedFrame(av.VideoFrame(64, 64, "yuv420p"), pts))
    encoder.finish()
    assert [c.pts for c in chunks if c.starts_segment] == [times[0], times[12]]
    demuxer = TsDemuxer()
    units = demuxer.feed(b"".join(c.data for c in chunks), 0.0)
    assert [u.pts for u in units] == times
    assert sum(b"".join(c.data for c in chunks)[n + 5] >> 7 for n in _clock_packets(chunks)) == 1


def _clock_packets(chunks: list[SegmentChunk]) -> list[int]:
    """Where the packets with a clock reference are."""
    data = b"".join(c.data for c in chunks)
    return [
        n
        for n in range(0, len(data), 188)
        if data[n + 1] & 0x5F == 0x41 and data[n + 3] & 0x20 and data[n + 5] & 0x10
    ]


def test_the_thread_part_and_the_loop_part_make_the_whole() -> None:
    """encode_picture and mux apart give what encode gives."""
    _, items = decoded("baseline")
    frames = [item for item in items if isinstance(item, DecodedFrame)]
    whole, parts = TrickleSegmentEncoder(320, 240), TrickleSegmentEncoder(320, 240)
    for frame in frames:
        together = whole.encode(frame)
        apart = [chunk for unit in parts.encode_picture(frame) for chunk in parts.mux(unit)]
        assert apart == together
    assert whole.segments == parts.segments == 3
    assert whole.finish() == parts.finish() == []
    with pytest.raises(MediaError):
        whole.encode(frames[0])


@pytest.mark.parametrize("fps", [1, 3, 60])
def test_slow_and_fast_pictures_make_segments_of_the_same_length(fps: int) -> None:
    """One frame a second is one a segment."""
    encoder = TrickleSegmentEncoder(64, 64)
    starts = []
    for n in range(4 * fps):
        frame = DecodedFrame(av.VideoFrame(64, 64, "yuv420p"), n * 90_000 // fps)
        starts += [c.pts for c in encoder.encode(frame) if c.starts_segment]
    encoder.finish()
    assert starts == [0, 90_000, 180_000, 270_000]


class LiveSource:
    """A file that grows while libav reads it, and tells when libav wants more than there is."""

    def __init__(self) -> None:
        self._data = b""
        self._closed = False
        self._changed = threading.Condition()
        self._starved = False

    def read(self, size: int) -> bytes:
        with self._changed:
            while not self._data and not self._closed:
                self._starved = True
                self._changed.notify_all()
                self._changed.wait()
            self._starved = False
            data, self._data = self._data[:size], self._data[size:]
            return data

    def write(self, data: bytes) -> None:
        """Append, and wait until libav has taken it in and asks for more."""
        with self._changed:
            self._data += data
            self._starved = False
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._starved, timeout=10)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@pytest.mark.parametrize(
    ("options", "behind"), [({"fflags": "+noparse+nofillin"}, 0), ({"fpsprobesize": "0"}, 1)]
)
def test_a_libav_reader_has_each_picture_with_its_last_byte(
    options: dict[str, str], behind: int
) -> None:
    """The PES lengths do that; libav's H.264 parser alone wants to see the next picture begin."""
    _, chunks = transcode("open_gop")
    video = [chunk for chunk in chunks if chunk.kind is MediaKind.VIDEO]
    source, out = LiveSource(), []

    def read() -> None:
        with av.open(source, format="mpegts", options=options) as container:
            for packet in container.demux(video=0):
                if packet.pts is not None:
                    out.append(packet.pts)  # noqa: PERF401 (looked at while it grows)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        seen = 0
        for n, chunk in enumerate(video):
            source.write(chunk.data)
            if out:  # it has made up its mind about the streams
                seen += 1
                assert out[-1] == video[n - behind].pts
        assert seen >= 10
    finally:
        source.close()
        reader.join(timeout=10)
    assert out == [chunk.pts for chunk in video]


@pytest.mark.parametrize(
    ("preset", "search"), [("ultrafast", b"subme=0"), ("superfast", b"subme=1")]
)
def test_the_preset_reaches_x264(preset: str, search: bytes) -> None:
    """It writes its options into the first picture."""
    encoder = TrickleSegmentEncoder(64, 64, preset=preset)
    (unit,) = encoder.encode_picture(DecodedFrame(av.VideoFrame(64, 64, "yuv420p"), 0))
    encoder.finish()
    assert search in unit.data


def test_an_output_that_begins_with_sound_goes_on_with_pictures(tmp_path: Path) -> None:
    """The pictures that come later begin a segment with tables that list them; the whole is one
    clean stream, every table packet in its order."""
    decoder, items = decoded("main_b_frames")
    pictures = [i for i in items if isinstance(i, DecodedFrame)]
    sound = [i for i in items if isinstance(i, AccessUnit)]
    encoder = TrickleSegmentEncoder(320, 240, 0.5, audio=sound[0].stream, video=False, fps_hint=25)
    half = pictures[len(pictures) // 2].pts
    chunks: list[SegmentChunk] = []
    for item in sorted(items, key=lambda item: item.pts):
        if isinstance(item, AccessUnit):
            chunks += encoder.add_audio(item)
        elif item.pts >= half:
            chunks += encoder.encode(item)
    encoder.finish()
    decoder.close()
    segments = segments_of(chunks)
    first_with_video = next(c for c in chunks if c.kind is MediaKind.VIDEO)
    assert first_with_video.starts_segment
    alone = TsDemuxer()
    alone.feed(segments[0], 0.0)
    assert (alone.video, alone.audio) == (None, sound[0].stream)
    joined = TsDemuxer()
    units = joined.feed(b"".join(segments), 0.0) + joined.segment_boundary(0.0)
    assert joined.stats.continuity_errors == 0
    assert [u.pts for u in units if u.stream.kind is MediaKind.AUDIO] == [u.pts for u in sound]
    shown = [u.pts for u in units if u.stream.kind is MediaKind.VIDEO]
    assert shown == [p.pts for p in pictures if p.pts >= half]
    path = tmp_path / "late.ts"
    path.write_bytes(b"".join(segments[2:]))
    assert ffmpeg("-i", path, "-f", "null", "-") == ""
