"""What a server returns goes out as it came, or encoded anew where that would not do.

Each segment is decoded by itself, by libav, and the numbers drawn in the pictures tell which they
are: none may be missing, none twice, each with its own time to the tick.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import av
import pytest

from demo import barcode
from relay.codec_executor import CodecExecutor
from relay.copy_switch import CopySwitch
from relay.media import h264
from relay.media.access_unit import AccessUnit, DecodedFrame, RepeatPicture
from relay.media.encoder import VideoEncoder
from relay.media.segment_encoder import SegmentChunk, TrickleSegmentEncoder
from relay.pipeline import copied_output
from relay.pipeline.egress import Egress
from relay.pipeline.previews import LatePicture
from relay.pipeline.publish import OutputSegment
from relay.processor import ProcessedUnit
from relay.queues import MediaQueue, QueueClosed
from relay.session_config import Coding

SIZE = 128
STEP = 3000
SEGMENT = 15
"""Pictures."""


def pts_of(number: int) -> int:
    return 90_000 + number * STEP + number % 7


def drawn(number: int, size: int = SIZE) -> DecodedFrame:
    return DecodedFrame(barcode.draw(number, size, size), pts_of(number), 1.0 + number)


class Server:
    """Returns numbered pictures, each made when the output is ready for it."""

    def __init__(self) -> None:
        self.asked = 0
        """How often for a keyframe."""
        self.sent: dict[int, AccessUnit] = {}
        self._encoders: dict[int, VideoEncoder] = {}
        self._wanted = True
        self._unit_number = 7000
        self._script: Iterator[ProcessedUnit] = iter(())

    def request_keyframe(self) -> None:
        self.asked += 1
        self._wanted = True

    def picture(self, number: int, *, size: int = SIZE, deaf: bool = False) -> AccessUnit:
        """The next one, a keyframe if that was asked for; `deaf`: only if it has to be."""
        encoder = self._encoders.get(size)
        if encoder is None:
            encoder = self._encoders[size] = VideoEncoder(size, size, profile="baseline")
        frame = drawn(number, size)
        (unit,) = encoder.encode(frame.frame, frame.pts, force_keyframe=self._wanted and not deaf)
        self._wanted = self._wanted and deaf
        self._unit_number += 1
        unit.number, unit.arrived_at = self._unit_number, frame.arrived_at
        self.sent[number] = replace(unit)
        return unit

    def close(self) -> None:
        for encoder in self._encoders.values():
            encoder.close()

    # What the output knows of it: a queue.

    def play(self, script: Iterator[ProcessedUnit]) -> Server:
        self._script = script
        return self

    async def get(self) -> ProcessedUnit:
        try:
            return next(self._script)
        except StopIteration:
            raise QueueClosed("script") from None


class Output:
    """What came out."""

    def __init__(self, egress: Egress, segments: list[list[SegmentChunk]]) -> None:
        self.egress = egress
        self.segments = segments
        self.shown: list[tuple[int, int | None]] = []
        """pts and number of each picture; every segment decoded by itself."""
        for segment in segments:
            self.shown += _decoded(b"".join(chunk.data for chunk in segment))

    def assert_shows(self, *numbers: int) -> None:
        assert self.shown == [(pts_of(number), number) for number in numbers]

    @property
    def lengths(self) -> list[int]:
        return [len(segment) for segment in self.segments]


def _decoded(segment: bytes) -> list[tuple[int, int | None]]:
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        frames = list(container.decode(video=0))
    assert not any(frame.is_corrupt for frame in frames)
    readings = [(frame.pts, barcode.read(frame)) for frame in frames]
    return [(pts or 0, reading.number if reading else None) for pts, reading in readings]


async def play(
    server: Server,
    script: Iterator[ProcessedUnit],
    mode: Coding | CopySwitch = Coding.COPY,
    *,
    on_picture: Callable[[DecodedFrame | LatePicture], None] = lambda _: None,
    on_egress: Callable[[Egress], None] = lambda _: None,
    clock: Callable[[], float] | None = None,
) -> Output:
    """What becomes of a script."""
    segments: MediaQueue[OutputSegment] = MediaQueue("output_segments", 200)
    codecs = CodecExecutor(1)
    counter = itertools.count()
    egress = Egress(
        server.play(script),  # type: ignore[arg-type]
        segments,
        codecs,
        lambda _video, _audio: TrickleSegmentEncoder(SIZE, SIZE, SEGMENT * STEP / 90_000),
        lambda: True,
        lambda: None,
        copying=mode if isinstance(mode, CopySwitch) else CopySwitch(mode),
        request_keyframe=server.request_keyframe,
        on_picture=on_picture,
        clock=clock or (lambda: next(counter) * 0.01),
    )
    on_egress(egress)
    try:
        await egress.run()
    finally:
        egress.close()
        codecs.close()
        server.close()
    out: list[list[SegmentChunk]] = []
    while len(segments):
        chunks = segments.get_nowait().chunks
        out.append([chunks.get_nowait() for _ in range(len(chunks))])
    return Output(egress, out)


def copied(server: Server, output: Output) -> list[int]:
    """The numbers of the pictures that went out with the server's own bytes."""
    payloads = {c.pts: _payload(c.data) for segment in output.segments for c in segment}
    return [
        number
        for number, unit in server.sent.items()
        if h264.without_delimiter(unit.data) in payloads.get(unit.pts, b"")
    ]


def _payload(data: bytes) -> bytes:
    """The video PES bytes in transport packets."""
    out = b""
    for at in range(0, len(data), 188):
        packet = data[at : at + 188]
        if (packet[1] & 0x1F) << 8 | packet[2] == 0x100:
            begin = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
            out += packet[begin:]
    return out


@pytest.mark.parametrize("mode", [Coding.COPY, Coding.AUTO])
async def test_every_picture_goes_out_as_it_came(mode: Coding) -> None:
    """In segments of the length asked for, each beginning with a keyframe that was asked for."""
    server = Server()
    output = await play(server, (server.picture(n) for n in range(4 * SEGMENT)), mode)
    output.assert_shows(*range(4 * SEGMENT))
    assert copied(server, output) == list(range(4 * SEGMENT))
    assert output.lengths == [SEGMENT] * 4
    assert server.asked == 4, "once a segment, the next one included"
    copying = output.egress.copying
    assert (copying.mode, copying.copies, copying.copied) == (mode, True, 4 * SEGMENT)


async def test_transcoding_copies_nothing() -> None:
    """Nor does it ask for keyframes."""
    server = Server()
    output = await play(server, (server.picture(n) for n in range(20)), Coding.TRANSCODE)
    output.assert_shows(*range(20))
    assert copied(server, output) == []
    assert server.asked == output.egress.copying.copied == 0


async def test_each_access_unit_has_one_delimiter() -> None:
    """Also where the server sends some."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(6):
            unit = server.picture(number)
            unit.data = h264.ACCESS_UNIT_DELIMITER * (number % 3) + unit.data
            yield unit

    output = await play(server, script())
    output.assert_shows(*range(6))
    for segment in output.segments:
        for chunk in segment:
            types = [nal.type for nal in h264.nal_units(_payload(chunk.data))]
            assert types.count(h264.NalType.DELIMITER) == 1
            assert types[1] == h264.NalType.DELIMITER, "right behind the PES header"


def losing(server: Server, lost: range, count: int) -> Iterator[ProcessedUnit]:
    """Pictures of which some never come; the next one is marked, as the receiver does."""
    for number in range(count):
        unit = server.picture(number)
        if number in lost:
            continue
        unit.damaged = number == lost.stop
        yield unit


async def test_after_a_loss_nothing_goes_out_that_can_not_be_decoded() -> None:
    """The rest of the group is encoded anew, with what the loss makes of it, and the next segment
    is copied again."""
    server = Server()
    output = await play(server, losing(server, range(5, 7), 3 * SEGMENT))
    kept = [n for n in range(3 * SEGMENT) if n not in (5, 6)]
    assert [pts for pts, _ in output.shown] == [pts_of(n) for n in kept]
    assert set(copied(server, output)) >= {*range(5), *range(25, 45)}
    assert not {*range(7, 15)} & set(copied(server, output))
    assert output.shown[-15:] == [(pts_of(n), n) for n in kept[-15:]]
    assert output.egress.copying.stops == 1


async def test_a_picture_that_is_missing_shows_by_the_numbers() -> None:
    """Dropped on the way here, without a packet lost: what refers to it is not copied."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(SEGMENT):
            unit = server.picture(number)
            if number != 5:
                yield unit

    output = await play(server, script())
    assert copied(server, output) == [*range(5)]
    assert output.egress.copying.reason == "missing_pictures"
    assert len(output.shown) == SEGMENT - 1


async def test_pictures_not_shown_are_known_to_those_that_are() -> None:
    """What follows a hidden picture refers to it, and is shown all the same, exactly."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(2 * SEGMENT + 2):
            unit = server.picture(number)
            unit.hidden = number in (4, 5)
            yield unit

    output = await play(server, script())
    output.assert_shows(*[n for n in range(2 * SEGMENT + 2) if n not in (4, 5)])
    assert set(copied(server, output)) >= {*range(4), *range(SEGMENT + 6, 2 * SEGMENT + 2)}
    assert not set(range(6, 15)) & set(copied(server, output))


async def test_a_late_picture_is_not_shown_and_breaks_nothing() -> None:
    """It is behind what is out already; those that refer to it are exact."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(12):
            unit = server.picture(number)
            if number == 6:
                unit.pts = unit.dts = pts_of(5)
            yield unit

    output = await play(server, script())
    output.assert_shows(*[n for n in range(12) if n != 6])
    assert output.egress.out_of_order == 1


async def test_the_fallbacks_pictures_stand_between() -> None:
    """Each change is a keyframe and a segment; nothing is missing."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(10):
            yield server.picture(number)
        for number in range(10, 20):
            yield drawn(number)
        server.request_keyframe()
        for number in range(20, 60):
            yield server.picture(number)

    output = await play(server, script())
    output.assert_shows(*range(60))
    assert output.lengths[0] == 10
    assert set(copied(server, output)) >= {*range(10), *range(40, 60)}
    assert not set(copied(server, output)) & {*range(10, 20)}


async def test_a_repeat_shows_what_was_copied() -> None:
    """The picture before it again, though nobody had decoded it."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(5):
            yield server.picture(number)
        for number in range(5, 8):
            yield RepeatPicture(pts_of(number), 1.0)
        yield server.picture(8)

    output = await play(server, script())
    assert [number for _, number in output.shown] == [0, 1, 2, 3, 4, 4, 4, 4, 8]
    assert [pts for pts, _ in output.shown] == [pts_of(n) for n in range(9)]
    assert output.egress.copying.reason == "fallback"


async def test_a_segment_that_ended_early_is_followed_by_one_that_begins_with_a_keyframe() -> None:
    """Encoded at once, so that no picture has to wait for one."""
    server = Server()
    ends: list[Callable[[], None]] = []

    def script() -> Iterator[ProcessedUnit]:
        for number in range(3 * SEGMENT):
            if number == 5:
                ends[0]()
            yield server.picture(number)

    output = await play(server, script(), on_egress=lambda egress: ends.append(egress._end_segment))
    output.assert_shows(*range(3 * SEGMENT))
    assert output.lengths[0] == 5
    assert not {5, 6} & set(copied(server, output))
    assert set(copied(server, output)) >= {*range(5), *range(30, 45)}


async def test_another_size_begins_a_segment() -> None:
    """Each segment has pictures of one size, and they are the server's."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(30):
            yield server.picture(number, size=SIZE if number < 8 else 192)

    output = await play(server, script())
    output.assert_shows(*range(30))
    assert copied(server, output) == list(range(30))
    assert output.lengths[0] == 8


async def test_a_keyframe_without_parameter_sets_gets_them() -> None:
    """So that its segment can be decoded by itself."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(2 * SEGMENT):
            unit = server.picture(number)
            if number == SEGMENT:
                assert unit.keyframe
                nals = [h264.nal_bytes(unit.data, nal) for nal in h264.nal_units(unit.data)]
                slices = [nal for nal in nals if nal[0] & 0x1F == h264.NalType.IDR_SLICE]
                unit.data = b"".join(b"\x00\x00\x00\x01" + nal for nal in slices)
            yield unit

    output = await play(server, script())
    output.assert_shows(*range(2 * SEGMENT))
    assert output.lengths == [SEGMENT, SEGMENT]
    assert output.egress.copying.stops == 0


async def test_a_keyframe_that_is_none_is_not_published() -> None:
    """Nor what refers to it; the output goes on with what can be decoded."""
    server = Server()

    def script() -> Iterator[ProcessedUnit]:
        for number in range(3 * SEGMENT):
            unit = server.picture(number)
            if number == SEGMENT:
                head = unit.data.index(b"\x00\x00\x01\x65") + 5
                unit.data = unit.data[:head] + b"\xff" * (len(unit.data) - head)
            yield unit

    output = await play(server, script())
    assert output.shown[:SEGMENT] == [(pts_of(n), n) for n in range(SEGMENT)]
    assert SEGMENT not in [number for _, number in output.shown]
    assert all(number is not None for _, number in output.shown)
    assert output.shown[-10:] == [(pts_of(n), n) for n in range(3 * SEGMENT - 10, 3 * SEGMENT)]


async def test_a_server_without_keyframes_is_transcoded() -> None:
    """Asked again twice a second, for three seconds; then the output makes its own."""
    server = Server()
    clock = itertools.count()
    output = await play(
        server,
        (server.picture(n, deaf=n > 0) for n in range(6 * SEGMENT)),
        clock=lambda: next(clock) * 0.05,
    )
    output.assert_shows(*range(6 * SEGMENT))
    assert output.egress.copying.reason == "no_keyframes"
    assert output.lengths[1:-1], "more segments than two"
    assert set(output.lengths[1:-1]) == {SEGMENT}
    assert 3 <= server.asked <= 2 + copied_output.PATIENCE_S / copied_output.ASK_AGAIN_S + 1


async def test_the_mode_may_change_at_any_picture() -> None:
    """There and back, and the viewer sees every picture."""
    server, switch = Server(), CopySwitch(Coding.COPY)

    def script() -> Iterator[ProcessedUnit]:
        for number in range(4 * SEGMENT):
            if number in (8, 26):
                switch.mode = Coding.TRANSCODE if number == 8 else Coding.COPY
            yield server.picture(number)

    output = await play(server, script(), switch)
    output.assert_shows(*range(4 * SEGMENT))
    assert set(copied(server, output)) >= {*range(8), *range(45, 60)}
    assert not set(copied(server, output)) & {*range(8, 26)}


async def test_a_picture_is_decoded_for_those_who_look() -> None:
    """The newest one, at any time, and copying goes on."""
    seen: list[int | None] = []
    shown: list[DecodedFrame | LatePicture] = []

    async def look() -> None:
        picture = shown[-1]
        frame = picture if isinstance(picture, DecodedFrame) else await picture()
        assert frame is not None
        reading = barcode.read(frame.frame)
        seen.append(reading.number if reading else None)

    class Watched(Server):
        async def get(self) -> ProcessedUnit:
            if len(self.sent) in (1, 4, 5, 22):
                await look()
            return await super().get()

    server = Watched()
    output = await play(
        server, (server.picture(n) for n in range(2 * SEGMENT)), on_picture=shown.append
    )
    assert seen == [0, 3, 4, 21]
    output.assert_shows(*range(2 * SEGMENT))
    assert output.egress.copying.stops == 0
