"""Which pictures are decoded when decoding takes longer than there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from relay.media.access_unit import AccessUnit, CodedFrame, DecodedFrame, SourceFrame
from relay.media.encoder import H264_STREAM
from relay.media.picture import black_picture
from relay.pipeline.decoding import BEHIND_S, FAR_BEHIND_S, CodedPicture, Decoding
from relay.pipeline.late_decoder import LateDecoder
from relay.queues import MediaQueue, OverflowPolicy

PICTURE = black_picture(16, 16)


class SlowDecoder:
    """Decodes a picture when it is let, and holds none back."""

    def __init__(self) -> None:
        self.holds = False
        self.decoded: list[int] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def decode(self, unit: AccessUnit) -> list[DecodedFrame]:
        self.decoded.append(unit.pts)
        self.begun.set()
        await self.may_end.wait()
        return [DecodedFrame(PICTURE, unit.pts)]

    def pass_by(self, unit: AccessUnit) -> CodedFrame:
        return CodedFrame(unit, self._no_picture, unit.pts, 0.0)

    async def flush(self) -> list[DecodedFrame]:
        self.holds = False
        return []

    @staticmethod
    async def _no_picture() -> DecodedFrame | None:
        return None


class Bench:
    """A `Decoding` that runs, on a clock of the test's; what came out, by number."""

    def __init__(self, *, complete: bool = False) -> None:
        self.now = 0.0
        self.out: list[int] = []
        self._came_out = asyncio.Event()
        self.decoder = SlowDecoder()
        self.waiting: MediaQueue[CodedPicture] = MediaQueue("coded", 500, OverflowPolicy.WAIT)
        self.decoding = Decoding(
            cast(LateDecoder, self.decoder),
            self.waiting,
            self._emit,
            complete=complete,
            clock=lambda: self.now,
        )

    async def _emit(self, frames: Sequence[SourceFrame]) -> None:
        self.out += [frame.pts for frame in frames]
        self._came_out.set()

    async def come_out(self, count: int) -> None:
        """Return when so many have."""
        while len(self.out) < count:
            self._came_out.clear()
            await self._came_out.wait()

    async def take(
        self, *numbers: int, keyframes: Sequence[int] = (0,), copied: bool = False
    ) -> None:
        """Pictures that come now."""
        for number in numbers:
            key = number in keyframes
            unit = AccessUnit(H264_STREAM, b"x", number, number, key, number=number)
            unit.arrived_at = self.now
            await self.decoding.take(unit, copied=copied)

    async def end(self) -> None:
        """Let all be decoded that is."""
        self.decoder.may_end.set()
        self.waiting.close()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    found = Bench()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(found.decoding.run())
        yield found
        await found.end()


async def stuck(found: Bench) -> None:
    """The first picture is in work, and stays there."""
    await found.take(0)
    await found.decoder.begun.wait()


async def far_behind(found: Bench) -> None:
    """One came out; nine behind it had waited for too long, and none is a keyframe."""
    await stuck(found)
    await found.take(*range(1, 10))
    found.now = FAR_BEHIND_S + 0.1
    found.decoder.may_end.set()
    await found.come_out(1)


async def test_what_came_at_once_is_all_decoded() -> None:
    """A segment that is there as a whole: no picture of it is old."""
    async with bench() as found:
        await stuck(found)
        await found.take(*range(1, 240), keyframes=(60, 120, 180))
        found.now = BEHIND_S
    assert found.out == list(range(240))
    assert not found.waiting.dropped


async def test_behind_it_goes_on_with_the_newest_keyframe() -> None:
    """What lies before is left out and counted; what follows upon it is not."""
    async with bench() as found:
        await stuck(found)
        await found.take(*range(1, 100), keyframes=(30, 60, 90))
        found.now = BEHIND_S + 0.1
    assert found.out == [0, *range(90, 100)]
    assert found.waiting.dropped == {"relay_late": 89}


async def test_without_a_keyframe_it_goes_on_until_it_is_far_behind() -> None:
    """Then nothing is decoded before the next one comes, and from there on all."""
    async with bench() as found:
        await stuck(found)
        await found.take(*range(1, 30))
        found.now = FAR_BEHIND_S
        found.decoder.may_end.set()
        await found.come_out(30)
        assert not found.waiting.dropped
        found.decoder.may_end.clear()
        found.decoder.begun.clear()
        await found.take(30)
        await found.decoder.begun.wait()
        await found.take(*range(31, 40))
        found.now += FAR_BEHIND_S + 0.1
        found.decoder.may_end.set()
        await found.come_out(31)
        await found.take(*range(40, 60), keyframes=(50,))
    assert found.out == [*range(31), *range(50, 60)]
    assert found.waiting.dropped == {"relay_late": 19}


async def test_every_picture_is_decoded_where_it_counts() -> None:
    """The reader waits for each."""
    found = Bench(complete=True)
    found.decoder.may_end.set()
    await found.take(*range(5))
    assert found.out == list(range(5))
    assert not len(found.waiting)


async def test_copied_ones_keep_the_order() -> None:
    """They pass at once where nothing is before them, and wait their turn where something is."""
    async with bench() as found:
        await found.take(0, 1, copied=True)
        assert found.out == [0, 1]
        await stuck(found)
        await found.take(2, 3, copied=True, keyframes=(2,))
        assert found.out == [0, 1]
    assert found.out == [0, 1, 0, 2, 3]


async def test_copied_ones_are_left_out_up_to_a_keyframe_too() -> None:
    """They refer to what was left out."""
    async with bench() as found:
        await far_behind(found)
        await found.take(*range(10, 20), keyframes=(15,), copied=True)
    assert found.out == [0, *range(15, 20)]
    assert found.waiting.dropped == {"relay_late": 14}


async def test_a_stream_without_another_keyframe_is_gone_on_with() -> None:
    """After a while, without what was left out."""
    async with bench() as found:
        await far_behind(found)
        found.now += FAR_BEHIND_S
        await found.take(*range(10, 20))
    assert found.out == [0, *range(10, 20)]


async def test_what_waits_to_be_copied_may_be_decoded_after_all() -> None:
    """The session has another size now: those that wait have the old one."""
    async with bench() as found:
        await stuck(found)
        await found.take(1, 2, copied=True, keyframes=(1,))
        found.decoding.copy_none()
        await found.take(3, copied=True, keyframes=(3,))
    assert found.out == [0, 1, 2, 3]
    assert found.decoder.decoded == [0, 1, 2]


async def test_a_picture_that_can_not_be_decoded_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes to whoever runs it."""
    found = Bench()

    async def fail(unit: AccessUnit) -> list[DecodedFrame]:
        raise ValueError("no decoder")

    monkeypatch.setattr(found.decoder, "decode", fail)
    await found.take(0)
    with pytest.raises(ValueError, match="no decoder"):
        await found.decoding.run()
