"""What goes out while nothing comes back: decided frame by frame, with a clock of its own."""

from __future__ import annotations

import av
import pytest

from relay.media.access_unit import (
    AccessUnit,
    CodedFrame,
    DecodedFrame,
    ElementaryStream,
    MediaKind,
    RepeatPicture,
)
from relay.processing.fallback import Fallback
from relay.processor import ProcessedUnit
from relay.session_config import FallbackMode

STREAM = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B)
INTERVAL_S = 1 / 30


class Scene:
    """Frames at 30 a second, and a server that answers when it is told to."""

    def __init__(self, mode: FallbackMode = FallbackMode.PASSTHROUGH) -> None:
        self.now = 100.0
        self.shown: list[ProcessedUnit] = []
        self.fallback = Fallback(mode, self.shown.append, clock=lambda: self.now)
        self.frames: list[DecodedFrame] = []
        self.first_pts = 0

    def frame(self) -> int:
        """One more frame of the input; returns its number."""
        self.now += INTERVAL_S
        pts = self.first_pts + 3000 * len(self.frames)
        frame = DecodedFrame(av.VideoFrame(16, 16, "yuv420p"), pts, self.now)
        self.frames.append(frame)
        self.fallback.see_input(frame)
        return len(self.frames) - 1

    def answer(self, number: int) -> None:
        """The server returns a frame."""
        frame = self.frames[number]
        unit = AccessUnit(STREAM, b"", frame.pts, frame.pts, arrived_at=frame.arrived_at)
        self.fallback.take_processed(unit)

    def run(self, seconds: float, *, answering: bool) -> None:
        """Frames for a while; answered at once, or not at all."""
        for _ in range(round(seconds / INTERVAL_S)):
            number = self.frame()
            if answering:
                self.answer(number)

    def shown_pts(self) -> list[int]:
        return [u.pts for u in self.shown if not (isinstance(u, AccessUnit) and u.hidden)]


def test_while_the_server_answers_nothing_else_is_shown() -> None:
    """Every processed picture goes on as it is."""
    scene = Scene()
    scene.run(5, answering=True)
    assert all(isinstance(unit, AccessUnit) for unit in scene.shown)
    assert scene.fallback.frames_processed == len(scene.frames)
    assert scene.fallback.frames_fallback == 0


def test_a_warm_server_shows_no_unprocessed_frame_at_the_start() -> None:
    """The grace is longer than it takes to connect."""
    scene = Scene()
    scene.run(0.9, answering=False)
    scene.run(1, answering=True)
    assert all(isinstance(unit, AccessUnit) for unit in scene.shown)


def test_after_the_grace_the_source_s_frames_go_out() -> None:
    """Each at once with its own time, in memory of its own."""
    scene = Scene()
    scene.run(3, answering=False)
    assert scene.fallback.active
    assert len(scene.shown) == scene.fallback.frames_fallback >= 58
    shown = scene.shown[-1]
    assert isinstance(shown, DecodedFrame)
    assert (shown.pts, shown.arrived_at) == (scene.frames[-1].pts, scene.frames[-1].arrived_at)
    assert shown.frame is not scene.frames[-1].frame


def test_frames_that_nobody_has_decoded_go_out_as_they_are() -> None:
    """An object of its own, under the same time: others have the frame, too."""
    scene = Scene()

    async def picture() -> DecodedFrame | None:
        return None

    coded = []
    for number in range(60):
        scene.now += INTERVAL_S
        unit = AccessUnit(STREAM, b"", 3000 * number, 3000 * number, arrived_at=scene.now)
        coded.append(CodedFrame(unit, picture, unit.pts, unit.arrived_at))
        scene.fallback.see_input(coded[-1])
    assert scene.fallback.active
    assert scene.shown == coded[-len(scene.shown) :]
    assert all(shown is not own for shown, own in zip(scene.shown[::-1], coded[::-1], strict=False))


def test_the_first_answer_ends_it_and_nothing_goes_back() -> None:
    """Answers to frames that were passed by are decoded, not shown; time only rises."""
    scene = Scene()
    scene.run(1, answering=True)
    scene.run(2, answering=False)
    last = len(scene.frames) - 1
    for number in (last - 2, last - 1, last):
        scene.answer(number)
    assert not scene.fallback.active
    assert scene.fallback.frames_late == 3
    hidden = scene.shown[-3:]
    assert all(isinstance(unit, AccessUnit) and unit.hidden for unit in hidden)
    scene.run(1, answering=True)
    pts = scene.shown_pts()
    assert pts == sorted(set(pts))
    assert pts[-1] == scene.frames[-1].pts


def test_a_slow_workflow_is_not_taken_for_a_dead_server() -> None:
    """Once it is known that a frame takes a second and a half."""
    scene = Scene()
    for _ in range(6):
        scene.run(1.5, answering=False)
        scene.answer(len(scene.frames) - 1)
    passed_by = scene.fallback.frames_fallback
    for _ in range(6):
        scene.run(1.5, answering=False)
        scene.answer(len(scene.frames) - 1)
    assert scene.fallback.frames_fallback == passed_by


def test_a_pause_of_the_input_is_no_fault_of_the_server() -> None:
    """The frame after it is not passed through, though the one before was not answered."""
    scene = Scene()
    scene.run(1, answering=True)
    scene.frame()
    scene.now += 60
    scene.frame()
    assert scene.fallback.frames_fallback == 0


def test_a_source_that_begins_again_at_zero_goes_on() -> None:
    """Order is that of arrival, whatever the timestamps do."""
    scene = Scene()
    scene.first_pts = 900_000
    scene.run(3, answering=False)
    scene.first_pts = -3000 * len(scene.frames)
    number = scene.frame()
    scene.answer(number - 1)
    assert scene.fallback.frames_late == 1
    scene.answer(scene.frame())
    shown = scene.shown[-1]
    assert shown.pts == scene.frames[-1].pts < 90_000
    assert not (isinstance(shown, AccessUnit) and shown.hidden)


@pytest.mark.parametrize("mode", [FallbackMode.NONE, FallbackMode.REPEAT])
def test_before_anything_was_processed_only_passthrough_shows_something(
    mode: FallbackMode,
) -> None:
    """There is nothing to repeat yet, and `none` means none."""
    scene = Scene(mode)
    scene.run(5, answering=False)
    assert scene.shown == []
    assert not scene.fallback.active


def test_the_last_processed_picture_is_repeated_under_the_source_s_time() -> None:
    """Once a frame, from the grace on, until something comes back."""
    scene = Scene(FallbackMode.REPEAT)
    scene.run(1, answering=True)
    scene.run(2, answering=False)
    repeats = [unit for unit in scene.shown if isinstance(unit, RepeatPicture)]
    assert len(repeats) == scene.fallback.frames_fallback >= 28
    assert repeats[-1].pts == scene.frames[-1].pts
    scene.answer(scene.frame())
    assert isinstance(scene.shown[-1], AccessUnit)


def test_with_none_every_answer_is_shown_however_late() -> None:
    """As long as nothing was shown in its place."""
    scene = Scene(FallbackMode.NONE)
    scene.run(5, answering=False)
    scene.answer(0)
    scene.answer(1)
    assert scene.shown_pts() == [0, 3000]


def test_what_is_remembered_of_the_input_is_bounded() -> None:
    """An hour of a dead server takes no memory."""
    scene = Scene(FallbackMode.NONE)
    scene.run(200, answering=False)
    assert len(scene.fallback._numbers) <= 4096
