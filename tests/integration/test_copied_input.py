"""Real streams: which of their pictures stay undecoded, and that each can be decoded later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from typing import Any

import pytest

from demo import barcode
from demo.live_encoder import LiveEncoder, VideoSettings
from relay.codec_executor import CodecExecutor
from relay.copy_switch import CopySwitch, Obstacle
from relay.media import decode_backlog, h264
from relay.media.access_unit import AccessUnit, CodedFrame, DecodedFrame
from relay.media.encoder import H264_STREAM
from relay.media.frame_limit import FrameLimit
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.pipeline import copied_input
from relay.pipeline.copied_input import CopiedInput
from relay.pipeline.late_decoder import LateDecoder
from relay.session_config import Coding, Fit

SIZE = 128
GOP = 10


def stream(count: int, first: int = 0, **settings: Any) -> Iterator[AccessUnit]:
    """Numbered pictures as an encoder of the field codes them."""
    size = settings.pop("size", SIZE)
    video = VideoSettings(size, size, Fraction(30), gop=GOP, **settings)
    with LiveEncoder(video, audio=False) as encoder:
        packets = []
        for number in range(first, first + count):
            packets += encoder.encode(barcode.draw(number, size, size), 90_000 + 3000 * number)
        for packet in packets + encoder.encode(None):
            assert packet.pts is not None
            assert packet.dts is not None
            yield AccessUnit(H264_STREAM, bytes(packet), packet.pts, packet.dts, packet.is_keyframe)


class Source:
    """The first stages, as far as they decide what is decoded."""

    def __init__(self, codecs: CodecExecutor, mode: Coding = Coding.COPY, **options: Any) -> None:
        self.switch = CopySwitch(mode)
        self.decoder = TrickleStreamDecoder(SIZE, SIZE)
        self.late = LateDecoder(self.decoder, codecs)
        self.limit = FrameLimit(0)
        self.copied = CopiedInput(self.switch, SIZE, SIZE, Fit.CONTAIN, self.limit, **options)
        self.coded: list[CodedFrame] = []
        self.decoded: list[DecodedFrame] = []

    async def take(self, units: Iterator[AccessUnit]) -> None:
        for unit in units:
            if self.copied.takes(unit):
                self.coded.append(self.late.pass_by(unit))
            else:
                self.decoded += await self.late.decode(unit)

    @property
    def obstacle(self) -> str | None:
        return self.switch.reason


@pytest.fixture
async def codecs() -> AsyncIterator[CodecExecutor]:
    executor = CodecExecutor(1)
    yield executor
    executor.close()


def number_in(picture: DecodedFrame | None) -> int | None:
    assert picture is not None
    reading = barcode.read(picture.frame)
    return reading.number if reading else None


def numbers(pictures: list[DecodedFrame]) -> list[int | None]:
    return [number_in(picture) for picture in pictures]


@pytest.mark.parametrize(
    "settings",
    [
        {"profile": "baseline"},
        {"profile": "main", "preset": "superfast"},
        {"profile": "high", "preset": "superfast", "slices": 4},
    ],
    ids=["baseline", "main", "high-slices"],
)
async def test_what_every_peer_decodes_stays_as_it_is(
    codecs: CodecExecutor, settings: dict[str, Any]
) -> None:
    """All of it, and nothing is decoded."""
    source = Source(codecs)
    await source.take(stream(25, **settings))
    assert len(source.coded) == 25
    assert source.decoded == []
    assert [frame.unit.keyframe for frame in source.coded] == [n % GOP == 0 for n in range(25)]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"profile": "main", "b_frames": 2, "preset": "superfast"}, "b_frames"),
        ({"size": 192}, "size"),
    ],
)
async def test_what_would_have_to_be_changed_is_decoded(
    codecs: CodecExecutor, settings: dict[str, Any], reason: str
) -> None:
    """Every picture, at the session's size, and the status says why."""
    source = Source(codecs)
    await source.take(stream(25, **settings))
    source.decoded += await source.late.flush()
    assert source.coded == []
    assert source.obstacle == reason
    assert sorted(number or 0 for number in numbers(source.decoded)) == list(range(25))
    assert {(p.frame.width, p.frame.height) for p in source.decoded} == {(SIZE, SIZE)}


async def test_a_profile_that_not_every_peer_decodes_is_transcoded(codecs: CodecExecutor) -> None:
    """Extended, in this case."""
    source = Source(codecs)
    units = list(stream(3))
    units[0].data = units[0].data.replace(b"\x01\x67\x42", b"\x01\x67\x58")
    assert [source.copied.takes(unit) for unit in units] == [False] * 3
    assert source.obstacle == "profile"


async def test_who_asks_gets_the_picture_and_all_it_refers_to(codecs: CodecExecutor) -> None:
    """In any order that a sender or a viewer asks in, also for one that was decoded meanwhile."""
    source = Source(codecs)
    await source.take(stream(25))
    for number in (20, 24, 22, 23, 24):
        assert number_in(await source.coded[number].picture()) == number
    assert await source.coded[3].picture() is None, "of a group that is over"


async def test_from_copying_to_decoding_between_two_pictures(codecs: CodecExecutor) -> None:
    """In the middle of a group, and back with the next one; none is missing."""
    source = Source(codecs)
    units = stream(40)
    for number, unit in enumerate(units):
        if number in (14, 22):
            source.switch.mode = Coding.TRANSCODE if number == 14 else Coding.AUTO
        await source.take(iter([unit]))
    assert [frame.pts for frame in source.coded] == [
        90_000 + 3000 * n for n in (*range(14), *range(30, 40))
    ]
    assert numbers(source.decoded) == list(range(14, 30))


async def test_a_keyframe_without_parameter_sets_gets_those_of_before(
    codecs: CodecExecutor,
) -> None:
    """A stream that sends them once is copied all the same; one that never did is not."""
    units = list(stream(25))
    for unit in units[1:]:
        _strip_parameter_sets(unit)
    source = Source(codecs)
    await source.take(iter(units))
    assert len(source.coded) == 25
    assert all(h264.has_parameter_sets(f.unit.data) for f in source.coded if f.unit.keyframe)
    assert number_in(await source.coded[24].picture()) == 24
    units = list(stream(3))
    _strip_parameter_sets(units[0])
    source = Source(codecs)
    await source.take(iter(units))
    assert source.coded == []
    assert source.obstacle == "no_parameter_sets"


def _strip_parameter_sets(unit: AccessUnit) -> None:
    nals = [h264.nal_bytes(unit.data, nal) for nal in h264.nal_units(unit.data)]
    unit.data = b"".join(b"\x00\x00\x00\x01" + nal for nal in nals if nal[0] & 0x1F in (1, 5))


async def test_the_session_s_size_may_change(codecs: CodecExecutor) -> None:
    """From that picture on they are decoded and fitted, in the middle of a group."""
    source = Source(codecs)
    units = list(stream(25))
    await source.take(iter(units[:15]))
    source.decoder.resize(192, 192)
    source.copied.resize(192, 192)
    await source.take(iter(units[15:]))
    assert len(source.coded) == 15
    assert numbers(source.decoded) == list(range(15, 25))
    assert {p.frame.width for p in source.decoded} == {192}
    assert source.obstacle == "size"


async def test_the_source_s_size_may_change(codecs: CodecExecutor) -> None:
    """Each keyframe's own parameter sets count: what fits is copied before and after what does
    not."""
    source = Source(codecs)
    await source.take(stream(GOP, profile="baseline"))
    assert len(source.coded) == GOP
    await source.take(stream(GOP, GOP, profile="baseline", size=192))
    assert len(source.coded) == GOP
    assert source.obstacle == "size"
    await source.take(stream(GOP, 2 * GOP, profile="baseline"))
    assert len(source.coded) == 2 * GOP


async def test_what_leaves_pictures_out_copies_none(codecs: CodecExecutor) -> None:
    """A frame rate at the most, from the picture on that it comes into force with; `wait`."""
    source = Source(codecs)
    units = list(stream(25))
    await source.take(iter(units[:5]))
    source.limit.fps = 10
    await source.take(iter(units[5:]))
    assert len(source.coded) == 5
    assert source.obstacle == "frame_limit"
    source = Source(codecs, prevented=Obstacle.ON_OVERLOAD)
    await source.take(stream(5))
    assert (source.coded, source.obstacle) == ([], "on_overload")


async def test_a_source_that_makes_no_keyframes_is_decoded_in_time(
    codecs: CodecExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it still can be, from its last one on; none is missing, and the next is copied."""
    monkeypatch.setattr(copied_input, "MOST_UNITS", 6)
    source = Source(codecs)
    await source.take(stream(22))
    assert len(source.coded) == 6 + 6 + 2
    assert numbers(source.decoded) == [*range(6, 10), *range(16, 20)]


async def test_a_group_that_is_too_long_is_not_kept(
    codecs: CodecExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures can't be decoded; those of the next one can."""
    monkeypatch.setattr(decode_backlog, "MOST_UNITS", 6)
    source = Source(codecs)
    await source.take(stream(25))
    assert await source.coded[9].picture() is None
    assert number_in(await source.coded[24].picture()) == 24
    source.switch.mode = Coding.TRANSCODE
    await source.take(stream(12, 25))
    assert numbers(source.decoded) == list(range(25, 37))
