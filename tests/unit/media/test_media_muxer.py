"""The muxer: packets by the standard, and everything muxed comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.media import h264
from relay.media.access_unit import PTS_MODULUS, AccessUnit, ElementaryStream, MediaKind
from relay.media.demuxer import TsDemuxer
from relay.media.muxer import AUDIO_PID, CLOCK_LEAD_S, PMT_PID, VIDEO_PID, TsMuxer
from relay.media.pes import has_stuffing
from tests.unit.media.transport import AAC, H264, IDR_SLICE, OPUS, audio_unit, idr, video_unit

CLOCK_LEAD = round(CLOCK_LEAD_S * 90_000)


def packets(data: bytes) -> list[bytes]:
    assert len(data) % 188 == 0
    found = [data[i : i + 188] for i in range(0, len(data), 188)]
    assert all(packet[0] == 0x47 for packet in found)
    return found


def pid(packet: bytes) -> int:
    return (packet[1] & 0x1F) << 8 | packet[2]


def clock_reference(packet: bytes) -> int | None:
    """The PCR base in a packet's adaptation field, if there is one."""
    if not packet[3] & 0x20 or not packet[4] or not packet[5] & 0x10:
        return None
    return int.from_bytes(packet[6:12], "big") >> 15


streams = st.sampled_from([H264, AAC, OPUS, ElementaryStream(MediaKind.AUDIO, "ac3", 0x81)])
units = st.builds(
    lambda stream, pts, delay, size, key: AccessUnit(
        stream,
        (h264.ACCESS_UNIT_DELIMITER + IDR_SLICE if stream == H264 else b"\xff") + b"\x55" * size,
        pts,
        pts - (delay if stream == H264 else 0),
        keyframe=key or stream != H264,
    ),
    streams,
    st.integers(-(1 << 34), 1 << 34),
    st.sampled_from([0, 0, 1, 3000]),
    st.one_of(
        st.integers(0, 400), st.integers(400, 5000), st.sampled_from([65_507, 65_530, 70_000])
    ),
    st.booleans(),
)


@given(st.lists(units, max_size=12))
def test_demuxing_gives_back_what_was_muxed(given_units: list[AccessUnit]) -> None:
    """Payload and times modulo 2^33 of every unit, each with its own last byte, all streams."""
    muxer, demuxer = TsMuxer(H264, AAC), TsDemuxer()
    demuxer.feed(muxer.begin_segment(), 0.0)
    for unit in given_units:
        data = muxer.mux(unit)
        packets(data)
        (found,) = demuxer.feed(data, 0.0)
        assert found.data == unit.data
        assert found.stream == unit.stream
        assert (found.pts - unit.pts) % PTS_MODULUS == 0
        assert (found.dts - unit.dts) % PTS_MODULUS == 0
        assert not found.damaged
    assert demuxer.stats.continuity_errors == 0


@given(st.lists(st.sampled_from([0, 1, 90, 150, 184, 185, 368, 2000]), min_size=1, max_size=40))
def test_continuity_counters_run_on_over_segments(sizes: list[int]) -> None:
    """Per PID, one up with every packet, through tables, units and segment starts."""
    muxer = TsMuxer(H264, AAC)
    data = b""
    for n, size in enumerate(sizes):
        if n % 3 == 0:
            data += muxer.begin_segment()
        data += muxer.mux(video_unit(3000 * n, idr(size), keyframe=True))
        data += muxer.mux(audio_unit(3000 * n, b"a" * (size + 1)))
    last: dict[int, int] = {}
    for packet in packets(data):
        counter = packet[3] & 15
        assert counter == (last.get(pid(packet), -1) + 1) & 15
        last[pid(packet)] = counter
    assert set(last) == {0, PMT_PID, VIDEO_PID, AUDIO_PID}


@pytest.mark.parametrize("size", [0, 100, 65_000, 65_508, 65_520, 70_000, 70_000 - 70_000 % 184])
def test_a_unit_can_be_released_with_its_last_byte(size: int) -> None:
    """By its length up to 16 bits, beyond by stuffing in its last packet, whatever its size."""
    for extra in range(184 if size > 65_500 else 1):
        muxer = TsMuxer(H264)
        data = muxer.mux(video_unit(1, idr(size + extra), keyframe=True))
        found = packets(data)
        begin = 5 + found[0][4]
        length = int.from_bytes(found[0][begin + 4 : begin + 6], "big")
        if length == 0:
            assert found[-1][3] & 0x20
            assert has_stuffing(found[-1], 4)
        else:
            payload = sum(188 - 4 - (1 + p[4] if p[3] & 0x20 else 0) for p in found)
            assert payload == 6 + length


def test_every_video_unit_carries_the_clock_and_keyframes_say_so() -> None:
    """PCR runs ahead of the dts by the documented lead, modulo 2^33, on the video PID only."""
    muxer = TsMuxer(H264, AAC)
    for dts, key in [(0, True), (3000, False), (6000, False)]:
        unit = video_unit(dts + 3000, idr(500), keyframe=key, dts=dts)
        first, *rest = packets(muxer.mux(unit))
        assert clock_reference(first) == (dts - CLOCK_LEAD) % PTS_MODULUS
        assert bool(first[5] & 0x40) == key
        assert all(clock_reference(packet) is None for packet in rest)
    assert all(clock_reference(p) is None for p in packets(muxer.mux(audio_unit(9000))))
    alone = TsMuxer(None, AAC)
    assert clock_reference(packets(alone.mux(audio_unit(90_000)))[0]) == 90_000 - CLOCK_LEAD


def test_a_new_time_line_is_announced() -> None:
    """A step back, or far forward, sets discontinuity_indicator; a pause of seconds does not."""
    muxer = TsMuxer(H264)
    times = [0, 3000, 3000 + 5 * 90_000, 1000, 4000, 4000 + 1000 * 90_000]
    flagged = [
        bool(packets(muxer.mux(video_unit(t, idr(), keyframe=True)))[0][5] & 0x80) for t in times
    ]
    assert flagged == [False, False, False, True, False, True]


def test_the_tables_repeat_the_announcement_verbatim() -> None:
    """Stream types and descriptors of the audio as it came in."""
    demuxer = TsDemuxer()
    demuxer.feed(TsMuxer(H264, OPUS).begin_segment(), 0.0)
    assert (demuxer.video, demuxer.audio) == (H264, OPUS)


def test_a_stream_that_appears_is_announced_before_its_first_unit() -> None:
    """New tables under a new version, and a reader takes it from its first unit on."""
    muxer, demuxer = TsMuxer(H264), TsDemuxer()
    demuxer.feed(muxer.begin_segment() + muxer.mux(video_unit(0, idr(), keyframe=True)), 0.0)
    assert demuxer.audio is None
    (unit,) = demuxer.feed(muxer.mux(audio_unit(5)), 0.0)
    assert (unit.stream, unit.pts) == (AAC, 5)
    (unit,) = demuxer.feed(muxer.mux(audio_unit(6, stream=OPUS)), 0.0)
    assert unit.stream == OPUS
    assert muxer.set_streams(H264, OPUS) == b""


def test_a_stream_that_is_the_same_is_not_announced_anew() -> None:
    """Whoever describes it: coded pictures come from several places."""
    muxer = TsMuxer(H264)
    tables = muxer.begin_segment()
    unit = muxer.mux(AccessUnit(replace(H264), idr(), 0, 0, keyframe=True))
    assert {pid(packet) for packet in packets(unit)} == {VIDEO_PID}
    muxer.adopt(replace(H264))
    again = packets(muxer.begin_segment())
    assert [packet[4:] for packet in again] == [packet[4:] for packet in packets(tables)]


def test_a_missing_delimiter_is_put_in_front() -> None:
    """MPEG-TS wants one; a unit that has one is left alone."""
    muxer, demuxer = TsMuxer(H264), TsDemuxer()
    demuxer.feed(muxer.begin_segment(), 0.0)
    bare = h264.without_delimiter(idr())
    (unit,) = demuxer.feed(muxer.mux(video_unit(0, bare, keyframe=True)), 0.0)
    assert unit.data == h264.ACCESS_UNIT_DELIMITER + bare
    (unit,) = demuxer.feed(muxer.mux(video_unit(0, idr(), keyframe=True)), 0.0)
    assert unit.data == idr()
