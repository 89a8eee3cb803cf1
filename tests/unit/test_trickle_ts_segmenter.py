"""MPEG-TS cut at keyframes and timed, on streams that a real muxer made."""

from __future__ import annotations

import io
from itertools import pairwise

import av
import numpy as np
import pytest

from relay.trickle.ts_packets import (
    PACKET_BYTES,
    PTS_MODULUS,
    Packet,
    PacketAligner,
    begins_with_parameter_sets,
    read_stamp,
    shift_stamps,
    stamp_offsets,
)
from relay.trickle.ts_segmenter import TimedBytes, TsSegmenter
from tests.peers.ts_media import FPS, decode_count, make_ts


def segments_of(parts: list[TimedBytes]) -> list[bytes]:
    segments: list[bytes] = []
    for part in parts:
        if part.begins_segment:
            segments.append(b"")
        segments[-1] += part.data
    return segments


def packets_of(data: bytes) -> list[bytes]:
    return [data[at : at + PACKET_BYTES] for at in range(0, len(data), PACKET_BYTES)]


def pids_of(data: bytes) -> list[int]:
    return [Packet.parse(packet).pid for packet in packets_of(data)]


@pytest.mark.parametrize("piece", [1, 187, 188, 4096, 10**9])
def test_whatever_the_pieces_the_packets_are_the_same(piece: int) -> None:
    """Input may be cut anywhere."""
    data = make_ts(0.5)
    segmenter = TsSegmenter()
    out = b""
    for at in range(0, len(data), piece):
        out += b"".join(part.data for part in segmenter.feed(data[at : at + piece]))
    assert len(out) % PACKET_BYTES == 0
    assert decode_count(out) == decode_count(data)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
@pytest.mark.parametrize("audio", [False, True])
def test_each_segment_begins_with_tables_and_a_keyframe(codec: str, audio: bool) -> None:
    """It can be decoded by itself, and all of them together are the whole stream."""
    data = make_ts(3.0, codec=codec, audio=audio)
    segments = segments_of(TsSegmenter(1.0).feed(data))
    assert len(segments) in ((2, 3) if codec == "mpeg2video" else (3,))
    for segment in segments:
        assert {0x0, 0x1000} <= set(pids_of(segment)[:4])
        assert decode_count(segment) >= (10 if codec == "mpeg2video" else 24)
    assert sum(map(decode_count, segments)) == 75


def test_tables_are_repeated_where_the_muxer_left_them_out() -> None:
    """Once at the start of the file is enough for every segment to have them."""
    data = make_ts(3.0)
    once: list[bytes] = []
    for packet in packets_of(data):
        pid = Packet.parse(packet).pid
        if pid not in (0x0, 0x11, 0x1000) or pid not in {Packet.parse(p).pid for p in once}:
            once.append(packet)
    segments = segments_of(TsSegmenter(1.0).feed(b"".join(once)))
    assert [pids_of(segment)[:4] for segment in segments] == [[0x11, 0x0, 0x1000, 0x100]] * 3


def test_a_segment_lasts_to_the_first_keyframe_after_its_length() -> None:
    """With a keyframe every two seconds, segments of one second are two seconds long."""
    data = make_ts(6.0, gop_s=2.0)
    assert len(segments_of(TsSegmenter(1.0).feed(data))) == 3
    assert len(segments_of(TsSegmenter(3.0).feed(data))) == 2


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("first_s", [0.0, (PTS_MODULUS - 90_000) / 90_000])
def test_parts_are_due_at_their_decoding_time(b_frames: int, first_s: float) -> None:
    """Evenly, also where the timestamps wrap around."""
    parts = TsSegmenter().feed(make_ts(3.0, b_frames=b_frames, first_s=first_s))
    due = sorted({round(part.due_s, 3) for part in parts})
    assert due[0] == 0
    assert due[-1] == pytest.approx(3.0 - 1 / FPS, abs=0.01)
    assert len(due) == 75


def test_a_joined_file_goes_on_without_a_pause_or_a_burst() -> None:
    """A jump of its timestamps is not a time to wait for."""
    data = make_ts(2.0) + make_ts(2.0, first_s=500.0) + make_ts(2.0)
    parts = TsSegmenter().feed(data)
    assert parts[-1].due_s == pytest.approx(6.0, abs=0.2)


def test_playing_again_goes_on_in_time() -> None:
    """Timestamps rise across the seam; the pace is the same."""
    data = make_ts(2.0)
    segmenter = TsSegmenter(1.0)
    parts = segmenter.feed(data)
    segmenter.rewind()
    parts += segmenter.feed(data)
    segmenter.rewind()
    parts += segmenter.feed(data)
    out = b"".join(part.data for part in parts)
    stamps = []
    for packet in packets_of(out):
        header = Packet.parse(packet)
        if header.pid == 0x100 and header.unit_start:
            stamps.append(read_stamp(packet, stamp_offsets(packet, header.payload_at)[-1]))
    steps = {later - earlier for earlier, later in pairwise(stamps)}
    assert steps == {3600}
    assert len(segments_of(parts)) == 6
    assert decode_count(out) == 150


def test_garbage_between_packets_is_passed_over() -> None:
    """And counted; nothing after it is lost."""
    data = make_ts(1.0)
    aligner = PacketAligner()
    packets = list(aligner.feed(b"garbage" + data[: 188 * 10] + b"\x47" * 5 + data[188 * 10 :]))
    assert b"".join(packets) == data
    assert aligner.skipped_bytes == 12


def test_audio_alone_is_cut_by_time() -> None:
    """There is no keyframe to wait for."""
    output = io.BytesIO()
    with av.open(output, "w", format="mpegts") as container:
        stream = container.add_stream("aac", rate=48_000)
        for number in range(150):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            tone.sample_rate, tone.pts = 48_000, number * 1024
            container.mux(stream.encode(tone))
        container.mux(stream.encode())
    segments = segments_of(TsSegmenter(1.0).feed(output.getvalue()))
    assert len(segments) in (3, 4)


def test_a_keyframe_is_found_without_the_random_access_indicator() -> None:
    """Some muxers don't set it: parameter sets at the start tell."""
    data = make_ts(2.0)
    found = []
    for packet in packets_of(data):
        header = Packet.parse(packet)
        if header.pid == 0x100 and header.unit_start:
            found.append(begins_with_parameter_sets(packet, header.payload_at))
            assert found[-1] == header.random_access
    assert (len(found), sum(found)) == (50, 2)


@pytest.mark.parametrize("ticks", [1, 90_000, PTS_MODULUS - 1, PTS_MODULUS // 2])
def test_shifting_stamps_there_and_back_changes_nothing(ticks: int) -> None:
    """Every bit but the timestamps stays, whatever the wrap."""
    for packet in packets_of(make_ts(0.4, b_frames=2)):
        header = Packet.parse(packet)
        moved = bytearray(packet)
        shift_stamps(moved, header, ticks)
        for at in stamp_offsets(packet, header.payload_at) if header.unit_start else ():
            assert read_stamp(moved, at) == (read_stamp(packet, at) + ticks) % PTS_MODULUS
        shift_stamps(moved, header, -ticks)
        assert bytes(moved) == packet
