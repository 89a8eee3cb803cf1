"""The push demuxer: any cut of any bytes, tables that change, losses, segments."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.media import hevc
from relay.media.access_unit import PTS_MODULUS, AccessUnit, ElementaryStream, MediaKind
from relay.media.annexb import START_CODE
from relay.media.demuxer import TsDemuxer
from relay.media.muxer import TsMuxer
from relay.media.psi import PAT_PID, build_pat, build_pmt
from tests.unit.media.h264_bits import slice_of, sps
from tests.unit.media.transport import (
    AAC,
    AUDIO_PID,
    DELIMITER,
    H264,
    IDR_SLICE,
    OPUS,
    P_SLICE,
    PMT_PID,
    SPS_PPS,
    VIDEO_PID,
    PacketWriter,
    audio_unit,
    idr,
    pes,
    picture,
    video_unit,
)

VIDEO, AUDIO = (VIDEO_PID, H264), (AUDIO_PID, AAC)


def essence(units: list[AccessUnit]) -> list[tuple[MediaKind, bytes, int, int, bool, bool]]:
    """Everything about units but when they came."""
    return [(u.stream.kind, u.data, u.pts, u.dts, u.keyframe, u.damaged) for u in units]


def demux(data: bytes, *, end: bool = True) -> list[AccessUnit]:
    demuxer = TsDemuxer()
    units = demuxer.feed(data, 1.0)
    return units + (demuxer.segment_boundary(2.0) if end else [])


def stream(count: int = 12, *, gop: int = 6, seed: int = 1) -> bytes:
    """Video and audio by our muxer, sizes from one packet to many."""
    sizes = random.Random(seed)
    muxer = TsMuxer(H264, AAC)
    data = muxer.begin_segment()
    for n in range(count):
        size = sizes.choice((5, 140, 150, 161, 345, 900, 3000))
        key = n % gop == 0
        access_unit = idr(size, n % 250) if key else picture(size, n % 250)
        data += muxer.mux(video_unit(9000 + 3000 * n, access_unit, keyframe=key))
        data += muxer.mux(audio_unit(8000 + 3000 * n, bytes([n % 250]) * sizes.randint(7, 400)))
    return data


STREAM = stream()
WHOLE = essence(demux(STREAM))


def test_what_was_muxed_comes_out() -> None:
    """Every unit, in order, whole."""
    assert len(WHOLE) == 24
    assert [pts for kind, _, pts, *_ in WHOLE if kind is MediaKind.VIDEO] == [
        9000 + 3000 * n for n in range(12)
    ]
    assert not any(damaged for *_, damaged in WHOLE)


def test_a_unit_comes_out_with_the_feed_that_completes_it() -> None:
    """Not one packet later; and it carries that feed's time."""
    demuxer = TsDemuxer()
    muxer = TsMuxer(H264, AAC)
    demuxer.feed(muxer.begin_segment(), 0.0)
    assert (demuxer.video, demuxer.audio) == (H264, AAC)
    for n in range(40):
        data = muxer.mux(video_unit(3000 * n, idr(97 * n), keyframe=True))
        assert demuxer.feed(data[:-1], float(n)) == []
        (unit,) = demuxer.feed(data[-1:], n + 0.5)
        assert (unit.pts, unit.arrived_at, unit.keyframe) == (3000 * n, n + 0.5, True)


@given(st.lists(st.integers(0, len(STREAM)), max_size=60))
def test_how_the_bytes_are_cut_does_not_matter(cuts: list[int]) -> None:
    """Any cut gives the same units."""
    demuxer = TsDemuxer()
    units = []
    places = [0, *sorted(cuts), len(STREAM)]
    for begin, end in pairwise(places):
        units += demuxer.feed(STREAM[begin:end], 0.0)
    assert essence(units + demuxer.segment_boundary(0.0)) == WHOLE


@pytest.mark.parametrize("size", [1, 187, 188, 189, 377, 1316])
def test_fixed_cuts_give_the_same_units(size: int) -> None:
    """Byte by byte included, with garbage in the middle."""
    data = STREAM[:5000] + b"\x47garbage\x47" * 30 + STREAM[5000:]
    demuxer = TsDemuxer()
    units = []
    for position in range(0, len(data), size):
        units += demuxer.feed(data[position : position + size], 0.0)
    units += demuxer.segment_boundary(0.0)
    assert essence(units) == essence(demux(data))
    assert demuxer.stats.sync_losses == 1


@given(
    garbage=st.lists(
        st.binary(max_size=700) | st.sampled_from([b"\x47", STREAM[:2000]]), max_size=20
    ),
    data=st.data(),
)
@example(garbage=[b"\x47" * 2000], data=None)
def test_garbage_never_raises_and_takes_no_memory(
    garbage: list[bytes], data: st.DataObject | None
) -> None:
    """Nothing but a packet's rest is kept of bytes that are no stream, and sync is found again."""
    demuxer = TsDemuxer()
    for piece in garbage:
        demuxer.feed(piece, 0.0)
        assert len(demuxer._rest) < 377
        if data is not None and data.draw(st.booleans()):
            demuxer.segment_boundary(0.0)
    demuxer.segment_boundary(0.0)
    units = demuxer.feed(STREAM, 0.0) + demuxer.segment_boundary(0.0)
    assert [u.data for u in units][-24:] == [payload for _, payload, *_ in WHOLE]


@given(st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(1, 255)), max_size=40))
def test_flipped_bytes_never_raise(flips: list[tuple[int, int]]) -> None:
    """Units may be missing, wrong or damaged; the demuxer goes on."""
    data = bytearray(STREAM)
    for position, mask in flips:
        data[position] ^= mask
    demuxer = TsDemuxer()
    demuxer.feed(bytes(data), 0.0)
    demuxer.segment_boundary(0.0)
    units = demuxer.feed(STREAM, 0.0) + demuxer.segment_boundary(0.0)
    # In each stream its order; between the two it may change while the demuxer learns again
    # whether a unit's end can be told before the next one begins.
    for kind in MediaKind:
        whole = [payload for its_kind, payload, *_ in WHOLE if its_kind is kind]
        assert [u.data for u in units if u.stream.kind is kind] == whole


def test_random_loss_damages_up_to_the_next_keyframe_and_no_further() -> None:
    """Every unit that lost a packet, or follows one that did, is marked; no other is."""
    clean = stream(600, gop=30)
    wanted = {u.pts: u.data for u in demux(clean) if u.stream == H264}
    dice = random.Random(7)
    kept = [clean[i : i + 188] for i in range(0, len(clean), 188)]
    kept = kept[:2] + [p for p in kept[2:] if dice.random() > 0.002]
    demuxer = TsDemuxer()
    units = demuxer.feed(b"".join(kept), 0.0) + demuxer.segment_boundary(0.0)
    video = [u for u in units if u.stream.kind is MediaKind.VIDEO]
    assert demuxer.stats.continuity_errors > 3
    last_pts, broken = 6000, False
    for unit in video:
        cut = unit.data != wanted[unit.pts]
        gap = unit.pts != last_pts + 3000
        broken = cut or (not unit.keyframe and (gap or broken))
        assert unit.damaged == broken
        last_pts = unit.pts
    assert any(u.damaged for u in video)
    assert sum(u.damaged for u in video) < len(video) / 2


def test_a_lost_packet_marks_everything_until_a_whole_keyframe() -> None:
    """A keyframe that is itself cut does not count."""
    muxer = TsMuxer(H264)
    data = [muxer.begin_segment()]
    for n in range(9):
        key = n in (0, 3, 6)
        unit = video_unit(3000 * n, idr(900, n) if key else picture(900, n), keyframe=key)
        data.append(muxer.mux(unit))
    for cut in (2, 4):
        data[cut] = data[cut][:188] + data[cut][376:]
    units = demux(b"".join(data))
    assert [u.damaged for u in units] == [False] + [True] * 5 + [False] * 3


def test_loss_of_audio_does_not_damage_video() -> None:
    """Nor more audio than the packet it hit."""
    muxer = TsMuxer(H264, AAC)
    data = [muxer.begin_segment()]
    for n in range(4):
        data.append(muxer.mux(video_unit(3000 * n, idr(), keyframe=True)))
        data.append(muxer.mux(audio_unit(3000 * n, b"a" * 500)))
    data[4] = data[4][:188] + data[4][376:]
    units = demux(b"".join(data))
    assert [u.damaged for u in units if u.stream == AAC] == [False, True, False, False]
    assert not any(u.damaged for u in units if u.stream == H264)


def test_a_packet_with_the_transport_error_bit_is_not_used() -> None:
    """Its unit is damaged."""
    muxer = TsMuxer(H264)
    head = muxer.begin_segment()
    body = bytearray(muxer.mux(video_unit(0, idr(900), keyframe=True)))
    body[188 + 1] |= 0x80
    demuxer = TsDemuxer()
    (unit,) = demuxer.feed(head + bytes(body), 0.0) + demuxer.segment_boundary(0.0)
    assert unit.damaged
    assert demuxer.stats.transport_errors == 1


def test_a_bad_last_packet_shows_even_at_the_end_of_a_segment() -> None:
    """Where no further packet's counter could tell."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    body = bytearray(writer.pes(VIDEO_PID, pes(idr(300), 0)))
    body[-187] |= 0x80
    demuxer.feed(writer.tables(VIDEO) + bytes(body), 0.0)
    (unit,) = demuxer.segment_boundary(0.0)
    assert unit.damaged


def test_garbage_inside_a_unit_damages_it() -> None:
    """Though the counters go on as if nothing had been lost."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    head = writer.tables(VIDEO)
    body = writer.pes(VIDEO_PID, pes(idr(900), 0))
    units = demuxer.feed(head + body[:376] + b"garbage" + body[376:], 0.0)
    units += demuxer.segment_boundary(0.0)
    assert [u.damaged for u in units] == [True]
    assert demuxer.stats.continuity_errors == 0


def test_a_segment_cut_off_in_a_packet_gives_a_damaged_unit_and_the_next_is_clean() -> None:
    """The partial packet is dropped, and does not spoil the segment that follows."""
    demuxer = TsDemuxer()
    muxer = TsMuxer(H264)
    first = muxer.begin_segment() + muxer.begin_segment()
    first += muxer.mux(video_unit(0, idr(900), keyframe=True))
    assert demuxer.feed(first[:-100], 1.0) == []
    (cut,) = demuxer.segment_boundary(2.0)
    assert cut.damaged
    assert demuxer.stats.skipped_bytes == 88
    again = TsMuxer(H264)
    second = again.begin_segment() + again.mux(video_unit(3000, idr(900), keyframe=True))
    (unit,) = demuxer.feed(second, 3.0)
    assert not unit.damaged
    assert demuxer.stats.continuity_errors == 0


def test_sync_is_kept_through_a_flipped_sync_byte() -> None:
    """One packet is lost, not the stream."""
    data = bytearray(STREAM)
    data[188 * 20] = 0x48
    demuxer = TsDemuxer()
    units = demuxer.feed(bytes(data), 0.0) + demuxer.segment_boundary(0.0)
    assert demuxer.stats.sync_losses == 1
    assert demuxer.stats.skipped_bytes == 188
    assert len(units) >= 23


def test_a_short_tail_in_sync_again_at_the_end_of_a_segment_is_used() -> None:
    """Fewer packets than the search wants are believed if they end with the segment."""
    muxer = TsMuxer(H264)
    head = muxer.begin_segment()
    unit = muxer.mux(video_unit(0, idr(40), keyframe=True))
    demuxer = TsDemuxer()
    assert demuxer.feed(head + b"noise" + unit, 0.0) == []
    (found,) = demuxer.segment_boundary(0.0)
    assert found.data == idr(40)


def test_streams_that_come_with_a_later_pmt_are_taken() -> None:
    """Audio alone first, then both, then video moved to another PID, then no audio."""
    writer, demuxer = PacketWriter(), TsDemuxer()

    def feed(data: bytes) -> list[tuple[MediaKind, int]]:
        return [(u.stream.kind, u.pts) for u in demuxer.feed(data, 0.0)]

    sound = writer.tables(AUDIO) + writer.pes(AUDIO_PID, pes(b"a" * 9, 1, bounded=True))
    assert feed(sound) == [(MediaKind.AUDIO, 1)]
    assert (demuxer.video, demuxer.audio) == (None, AAC)
    both = writer.tables(VIDEO, AUDIO, version=1) + writer.pes(VIDEO_PID, pes(idr(), 2))
    assert feed(both) == [(MediaKind.VIDEO, 2)]
    moved = writer.tables((0x123, H264), AUDIO, version=2)
    moved += writer.pes(VIDEO_PID, pes(idr(), 3)) + writer.pes(0x123, pes(idr(), 4))
    assert feed(moved) == [(MediaKind.VIDEO, 4)]
    silent = writer.tables((0x123, H264), version=3)
    silent += writer.pes(AUDIO_PID, pes(b"a" * 9, 5, bounded=True))
    assert feed(silent) == []
    assert demuxer.audio is None


def test_a_codec_that_changes_on_its_pid_ends_the_old_stream() -> None:
    """What was pending comes out as what it was."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    hevc = ElementaryStream(MediaKind.VIDEO, "hevc", 0x24)
    full = pes(DELIMITER + IDR_SLICE + b"a" * (184 - 14 - 12), 1)
    assert len(full) == 184
    assert demuxer.feed(writer.tables(VIDEO) + writer.pes(VIDEO_PID, full), 0.0) == []
    (old,) = demuxer.feed(writer.tables((VIDEO_PID, hevc), version=1), 0.0)
    assert (old.stream, old.pts) == (H264, 1)
    key = b"\x00\x00\x00\x01\x26\x01\x80" + b"x" * 30
    (new,) = demuxer.feed(writer.pes(VIDEO_PID, pes(key, 2)), 0.0)
    assert (new.stream.codec, new.keyframe, new.pts) == ("hevc", True, 2)


def test_the_programme_with_video_is_taken_of_several() -> None:
    """Wherever it stands in the PAT; the tables may take several packets."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    programmes = {n: 0x1000 + n for n in range(1, 60)}
    data = writer.section(PAT_PID, build_pat(1, programmes))
    assert len(data) > 188
    data += writer.section(0x1001, build_pmt(1, AUDIO_PID, [AUDIO]))
    described = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B, b"\x0a\xfa" + b"d" * 250)
    data += writer.section(0x1007, build_pmt(7, 0x700, [(0x700, described), (0x701, OPUS)]))
    demuxer.feed(data, 0.0)
    assert (demuxer.video, demuxer.audio) == (described, OPUS)
    units = demuxer.feed(
        writer.pes(AUDIO_PID, pes(b"other", 1, bounded=True)) + writer.pes(0x700, pes(idr(), 2)),
        0.0,
    )
    assert [u.pts for u in units] == [2]


def test_a_pmt_with_a_wrong_crc_changes_nothing() -> None:
    """It is counted, and the streams stay."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    demuxer.feed(writer.tables(VIDEO), 0.0)
    bad = bytearray(writer.tables((0x200, H264), version=1)[188:])
    bad[15] ^= 1
    demuxer.feed(bytes(bad), 0.0)
    assert demuxer.stats.crc_errors == 1
    assert [u.pts for u in demuxer.feed(writer.pes(VIDEO_PID, pes(idr(), 2)), 0.0)] == [2]


def test_timestamps_go_on_over_the_wrap_for_both_streams() -> None:
    """Audio that lags behind video over the wrap stays comparable."""
    muxer, data = TsMuxer(H264, AAC), b""
    start = PTS_MODULUS - 9000
    data += muxer.begin_segment()
    for n in range(8):
        data += muxer.mux(video_unit(start + 3000 * n, idr(), keyframe=True))
        data += muxer.mux(audio_unit(start - 5000 + 3000 * n))
    units = demux(data)
    assert [u.pts for u in units if u.stream == H264] == [start + 3000 * n for n in range(8)]
    assert [u.pts for u in units if u.stream == AAC] == [start - 5000 + 3000 * n for n in range(8)]


@pytest.mark.parametrize("jump", [1000 * 90_000, -100 * 90_000, 7200 * 90_000])
def test_jumps_come_out_as_jumps(jump: int) -> None:
    """Forward, back, and beyond the hour that one timestamp alone is not believed for."""
    muxer = TsMuxer(H264)
    times = [90_000_000 + 3000 * n for n in range(4)]
    times += [times[-1] + jump + 3000 * n for n in range(1, 5)]
    data = muxer.begin_segment()
    for time in times:
        data += muxer.mux(video_unit(time, idr(), keyframe=True))
    assert [u.pts for u in demux(data)] == times


def test_b_frames_keep_pts_and_dts() -> None:
    """Both fields of the header, in decoding order."""
    muxer = TsMuxer(H264)
    times = [(6000, 0), (15_000, 3000), (9000, 6000), (12_000, 9000), (18_000, 12_000)]
    data = muxer.begin_segment()
    for pts, dts in times:
        data += muxer.mux(video_unit(pts, picture(300), dts=dts))
    assert [(u.pts, u.dts) for u in demux(data)] == times


def test_several_pictures_in_one_pes_are_cut_apart() -> None:
    """The first gets the timestamp, each next one a frame interval more."""
    writer = PacketWriter()
    data = writer.tables(VIDEO)
    data += writer.pes(VIDEO_PID, pes(idr(), 0, bounded=True))
    data += writer.pes(VIDEO_PID, pes(picture(), 3600, bounded=True))
    three = picture(10, 1) + picture(20, 2) + picture(30, 3)
    data += writer.pes(VIDEO_PID, pes(three, 7200, bounded=True))
    data += writer.pes(VIDEO_PID, pes(picture(), None, bounded=True))
    data += writer.pes(VIDEO_PID, pes(picture(), 21_600, bounded=True))
    data += writer.pes(VIDEO_PID, pes(picture(), None, bounded=True))
    units = demux(data)
    assert [u.pts for u in units] == [3600 * n for n in range(8)]
    assert [u.dts for u in units] == [3600 * n for n in range(8)]
    assert b"".join(u.data for u in units[2:5]) == three


def test_a_pes_without_timestamp_goes_on_from_the_one_before() -> None:
    """And one with nothing before it is dropped."""
    writer = PacketWriter()
    data = writer.tables(VIDEO, AUDIO)
    data += writer.pes(VIDEO_PID, pes(idr(), None, bounded=True))
    for pts in (0, 3600, None, None, 14_400):
        data += writer.pes(VIDEO_PID, pes(picture(), pts, bounded=True))
    for pts in (0, 1920, None, 5760):
        data += writer.pes(AUDIO_PID, pes(b"audio", pts, bounded=True, stream_id=0xC0))
    demuxer = TsDemuxer()
    units = demuxer.feed(data, 0.0)
    assert [u.pts for u in units if u.stream == H264] == [0, 3600, 7200, 10_800, 14_400]
    assert [u.pts for u in units if u.stream == AAC] == [0, 1920, 3840, 5760]
    assert demuxer.stats.dropped_units == {"no_timestamp": 1}


def test_parameter_sets_in_a_pes_of_their_own_join_their_picture() -> None:
    """Behind its delimiter, and the picture is a keyframe for them."""
    writer = PacketWriter()
    data = writer.tables(VIDEO)
    data += writer.pes(VIDEO_PID, pes(DELIMITER + SPS_PPS, 0, bounded=True))
    data += writer.pes(VIDEO_PID, pes(DELIMITER + IDR_SLICE + b"a" * 9, 0, bounded=True))
    (unit,) = demux(data)
    assert unit.data == DELIMITER + SPS_PPS + IDR_SLICE + b"a" * 9
    assert unit.keyframe


def test_hevc_parameter_sets_join_their_picture_behind_its_own_delimiter() -> None:
    """H.265 numbers its NAL units otherwise than H.264."""
    stream = ElementaryStream(MediaKind.VIDEO, "hevc", 0x24)
    sets = b"".join(START_CODE + bytes((kind << 1, 1)) + b"\x01" * 9 for kind in (32, 33, 34))
    key = START_CODE + b"\x26\x01\xaf" + b"a" * 9
    delimiter = hevc.ACCESS_UNIT_DELIMITER
    writer = PacketWriter()
    data = writer.tables((VIDEO_PID, stream))
    data += writer.pes(VIDEO_PID, pes(delimiter + sets, 0, bounded=True))
    data += writer.pes(VIDEO_PID, pes(delimiter + key, 0, bounded=True))
    (unit,) = demux(data)
    assert unit.data == delimiter + sets + key
    assert hevc.with_delimiter(unit.data) == unit.data
    assert hevc.with_delimiter(sets + key) == unit.data
    assert unit.keyframe


def test_slices_in_pes_packets_of_their_own_are_joined() -> None:
    """From the second picture on; the first one showed that it is so, and is short."""
    writer = PacketWriter()
    more = b"\x00\x00\x01\x41\x4a\x24" + b"m" * 20
    data = writer.tables(VIDEO)
    for n in range(5):
        start = idr(20, n + 3) if n == 3 else picture(20, n + 3)
        data += writer.pes(VIDEO_PID, pes(start, 3000 * n, bounded=True))
        data += writer.pes(VIDEO_PID, pes(more, None, bounded=True))
        data += writer.pes(VIDEO_PID, pes(more, None, bounded=True))
    units = demux(data)
    assert [u.pts for u in units] == [3000 * n for n in range(5)]
    assert [len(u.data) for u in units[1:]] == [
        len(idr() if n == 3 else picture()) - (20 if n == 3 else 0) + 2 * len(more)
        for n in range(1, 5)
    ]
    assert [u.damaged for u in units[1:]] == [True, True, False, False]


def test_a_long_run_keeps_nothing() -> None:
    """After a thousand units of both kinds, what the demuxer holds is what it held after ten."""
    demuxer = TsDemuxer()
    data = stream(40)
    demuxer.feed(data, 0.0)
    demuxer.segment_boundary(0.0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(25):
            demuxer.feed(data, 0.0)
            demuxer.segment_boundary(0.0)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000


def test_pmt_pid_that_moves_is_followed() -> None:
    """The old PID's tables are no longer read."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    demuxer.feed(writer.tables(VIDEO), 0.0)
    moved = writer.tables((0x200, H264), version=1, pmt_pid=0x1234)
    demuxer.feed(moved, 0.0)
    stale = writer.section(PMT_PID, build_pmt(1, VIDEO_PID, [VIDEO, AUDIO], version=2))
    demuxer.feed(stale, 0.0)
    assert demuxer.audio is None
    assert [u.pts for u in demuxer.feed(writer.pes(0x200, pes(P_SLICE + b"abc", 9)), 0.0)] == [9]


def field_of_frame(frame_num: int, *, bottom: bool, key: bool = False) -> bytes:
    """One field, with parameter sets of an interlaced stream in front of a keyframe's first."""
    head = DELIMITER
    if key and not bottom:
        head += b"\x00\x00\x01" + sps(frame_mbs_only=0, poc_type=0, profile=77)
        head += b"\x00\x00\x01\x68\xce\x3c\x80"
    kind = 0x65 if key and not bottom else 0x41
    return head + slice_of(frame_num, field=True, bottom=bottom, kind=kind) + b"f" * 30


def test_two_fields_in_one_pes_are_one_unit() -> None:
    """Though each is an access unit of its own to H.264: what is shown is a frame."""
    writer = PacketWriter()
    data = writer.tables(VIDEO)
    frames = []
    for n in range(4):
        frames.append(field_of_frame(n, bottom=False, key=n == 0) + field_of_frame(n, bottom=True))
        data += writer.pes(VIDEO_PID, pes(frames[-1], 3600 * n, bounded=True))
    units = demux(data)
    assert [u.data for u in units] == frames
    assert [u.pts for u in units] == [0, 3600, 7200, 10_800]


@pytest.mark.parametrize("second_has_pts", [True, False])
def test_fields_in_pes_packets_of_their_own_are_joined(second_has_pts: bool) -> None:
    """From the second frame on, as soon as its second field is there."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    demuxer.feed(writer.tables(VIDEO), 0.0)
    counts = []
    found: list[AccessUnit] = []
    for n in range(4):
        for bottom in (False, True):
            pts = None if bottom and not second_has_pts else 3600 * n + 1800 * bottom
            data = pes(field_of_frame(n, bottom=bottom, key=n == 0), pts, bounded=True)
            units = demuxer.feed(writer.pes(VIDEO_PID, data), float(n))
            counts.append(len(units))
            found += units
    assert counts == [1, 1, 0, 1, 0, 1, 0, 1]
    assert [u.pts for u in found[2:]] == [3600, 7200, 10_800]
    assert found[2].data == field_of_frame(1, bottom=False) + field_of_frame(1, bottom=True)
    assert not any(u.damaged for u in found)
    if second_has_pts:
        return
    late = pes(field_of_frame(9, bottom=False), None, bounded=True)
    later = pes(field_of_frame(9, bottom=True), None, bounded=True)
    (unit,) = demuxer.feed(writer.pes(VIDEO_PID, late) + writer.pes(VIDEO_PID, later), 9.0)
    assert (unit.pts, unit.dts) == (14_400, 14_400)


def test_what_no_video_holds_is_given_up() -> None:
    """A thousand pictures in one PES packet, or a picture that never ends, take no memory."""
    writer, demuxer = PacketWriter(), TsDemuxer()
    demuxer.feed(writer.tables(VIDEO), 0.0)
    crowd = pes(b"\x00\x00\x01\x41\x9a" * 1000, 0)
    assert demuxer.feed(writer.pes(VIDEO_PID, crowd), 0.0) == []
    assert demuxer.stats.dropped_units == {"too_many_pictures": 1}
    more = b"\x00\x00\x01\x41\x4a" + b"m" * 60_000
    for n in range(2):
        demuxer.feed(writer.pes(VIDEO_PID, pes(picture(), 3000 * n, bounded=True)), 0.0)
        demuxer.feed(writer.pes(VIDEO_PID, pes(more, None, bounded=True)), 0.0)
    endless = PacketWriter().pes(VIDEO_PID, pes(more, None, bounded=True))
    for _ in range(100):
        assert demuxer.feed(_renumbered(endless, writer), 0.0) == []
    assert demuxer.stats.dropped_units["too_large"] > 20
    (unit,) = demuxer.feed(writer.pes(VIDEO_PID, pes(idr(), 9000, bounded=True)), 0.0)
    assert (unit.pts, unit.damaged) == (3000, True)
    assert len(unit.data) <= 4 << 20


def _renumbered(packets: bytes, writer: PacketWriter) -> bytes:
    """The packets again, their counters going on from the last."""
    data = bytearray(packets)
    for n in range(0, len(data), 188):
        data[n + 3] = data[n + 3] & 0xF0 | writer.counters[VIDEO_PID]
        writer.counters[VIDEO_PID] = (writer.counters[VIDEO_PID] + 1) & 15
    return bytes(data)
