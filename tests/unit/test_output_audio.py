"""When sound goes to the muxer: with its picture, alone where there is none, never too late."""

from __future__ import annotations

import asyncio

from relay.media.access_unit import CLOCK_RATE, AccessUnit, ElementaryStream, MediaKind
from relay.sound.output_audio import OutputAudio

VIDEO = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B)
AUDIO = ElementaryStream(MediaKind.AUDIO, "aac", 0x0F)


class Muxer:
    """What came to it, and whether the output was begun without a picture."""

    def __init__(self, *, video_listed: bool = True, video_wait_s: float = 30.0) -> None:
        self.now = 0.0
        self.written: list[AccessUnit] = []
        self.begun_at: float | None = None
        self.may_begin = True
        self.changed = asyncio.Event()
        self.audio = OutputAudio(
            self._write,
            self._begin,
            lambda: video_listed,
            video_wait_s=video_wait_s,
            clock=lambda: self.now,
        )

    def _write(self, units: list[AccessUnit]) -> None:
        self.written += units
        self.changed.set()

    def _begin(self) -> bool:
        assert self.begun_at is None
        self.begun_at = self.now if self.may_begin else None
        return self.may_begin


def audio(time_s: float) -> AccessUnit:
    pts = round(time_s * CLOCK_RATE)
    return AccessUnit(AUDIO, b"sound", pts, pts)


def video(time_s: float) -> AccessUnit:
    pts = round(time_s * CLOCK_RATE)
    return AccessUnit(VIDEO, b"picture", pts, pts, keyframe=True)


async def test_sound_waits_for_its_picture() -> None:
    """Nothing is written before the picture; then what belongs in front of it, and it."""
    muxer = Muxer()
    muxer.audio.add(audio(0.0))
    muxer.audio.add(audio(0.1))
    muxer.audio.add(audio(0.2))
    assert muxer.written == []
    muxer.audio.video(video(0.1))
    assert [(u.stream, u.pts) for u in muxer.written] == [
        (AUDIO, 0),
        (VIDEO, 9000),
        (AUDIO, 9000),
    ]
    muxer.audio.close()


async def test_a_programme_without_video_is_written_at_once() -> None:
    """The output begins with the first sound, and nothing waits."""
    muxer = Muxer(video_listed=False)
    for n in range(5):
        muxer.audio.add(audio(n / 50))
        assert len(muxer.written) == n + 1
    assert muxer.begun_at == 0.0
    muxer.audio.close()


async def test_sound_goes_alone_when_listed_video_does_not_come() -> None:
    """After the wait the output begins; what came too early for it is dropped, counted."""
    muxer = Muxer(video_wait_s=2.0)
    muxer.audio.add(audio(0.0))
    muxer.now = 1.0
    muxer.audio.add(audio(1.0))
    assert muxer.begun_at is None
    assert muxer.audio.dropped == {"before_video": 1}
    muxer.now = 2.5
    muxer.audio._on_timer()
    assert muxer.begun_at == 2.5
    assert [unit.pts for unit in muxer.written] == [CLOCK_RATE]
    muxer.audio.close()


async def test_sound_that_may_not_begin_yet_tries_again() -> None:
    """A picture that is being worked on may turn out to be none."""
    muxer = Muxer(video_wait_s=2.0)
    muxer.may_begin = False
    muxer.audio.add(audio(0.0))
    muxer.now = 2.5
    muxer.audio.flush()
    assert (muxer.begun_at, muxer.written) == (None, [])
    muxer.may_begin = True
    muxer.audio.add(audio(2.5))
    muxer.audio.flush()
    assert muxer.begun_at == 2.5
    assert [unit.pts for unit in muxer.written] == [225_000]


async def test_a_picture_that_stalls_holds_sound_only_for_a_bounded_time() -> None:
    """Without any further call, sound that waited half a second goes out by the clock."""
    loop = asyncio.get_running_loop()
    muxer = Muxer()
    muxer.audio._clock = loop.time
    muxer.audio.video(video(0.0))
    muxer.changed.clear()
    muxer.audio.add(audio(5.0))
    began = loop.time()
    async with asyncio.timeout(5):
        await muxer.changed.wait()
    assert loop.time() - began >= 0.4
    assert muxer.written[-1].pts == 5 * CLOCK_RATE
    assert muxer.audio.status()["audio_released_late"] == 1
    muxer.audio.close()


async def test_the_end_brings_out_what_waits() -> None:
    """An input that ends before its picture came has its sound on the output all the same."""
    muxer = Muxer()
    muxer.audio.add(audio(0.0))
    muxer.audio.flush()
    assert (len(muxer.written), muxer.begun_at) == (1, 0.0)
    muxer.audio.close()
    muxer.audio.add(audio(1.0))
    assert len(muxer.written) == 1
