"""Which coded frames are sent as they are, by what came before them."""

from __future__ import annotations

import pytest

from relay.copy_switch import CopySwitch
from relay.media.access_unit import AccessUnit, CodedFrame, DecodedFrame
from relay.media.encoder import H264_STREAM
from relay.media.picture import black_picture
from relay.session_config import Coding
from relay.webrtc.copied_frames import MOST_BYTES, CopiedFrames


async def no_picture() -> DecodedFrame | None:
    return None


def coded(number: int, *, idr: bool = False, damaged: bool = False, size: int = 9) -> CodedFrame:
    unit = AccessUnit(H264_STREAM, b"x" * size, number, number, idr, damaged, number=number)
    return CodedFrame(unit, no_picture, number, 0.0)


DECODED = DecodedFrame(black_picture(16, 16), 0)


class Track:
    def __init__(self, mode: Coding = Coding.COPY) -> None:
        self.switch = CopySwitch(mode)
        self.copied = CopiedFrames(self.switch)

    def takes(
        self, frame: CodedFrame | DecodedFrame, *, wanted: bool = False, overloaded: bool = False
    ) -> bool:
        return self.copied.takes(frame, keyframe_wanted=wanted, overloaded=overloaded)


def test_from_a_keyframe_on_one_after_the_other() -> None:
    """Nothing before it; another connection begins with one of its own."""
    track = Track()
    assert [track.takes(coded(n, idr=n == 3)) for n in range(1, 7)] == [False] * 2 + [True] * 4
    track.copied = CopiedFrames(track.switch)
    assert track.switch.reason == "starting"
    assert not track.takes(coded(7))
    assert track.takes(coded(8, idr=True))
    assert track.switch.stops == 0, "nothing that auto would have to rest for"


@pytest.mark.parametrize(
    ("reason", "breaks"),
    [
        ("missing_pictures", lambda track: track.takes(coded(4))),
        ("loss", lambda track: track.takes(coded(3, damaged=True))),
        ("server_slow", lambda track: track.takes(coded(3), overloaded=True)),
        ("keyframe_request", lambda track: track.takes(coded(3), wanted=True)),
        ("large_pictures", lambda track: track.takes(coded(3, size=MOST_BYTES + 1))),
        ("starting", lambda track: track.takes(DECODED)),
    ],
)
def test_what_breaks_the_row(reason: str, breaks: object) -> None:
    """Then it takes another keyframe, and the status says why."""
    track = Track()
    assert track.takes(coded(1, idr=True))
    assert track.takes(coded(2))
    assert callable(breaks)
    assert not breaks(track)
    assert track.switch.reason == reason
    assert not track.takes(coded(5))
    assert track.switch.reason == reason
    assert track.takes(coded(6, idr=True))
    assert track.takes(coded(7))


def test_a_keyframe_of_its_own_answers_a_request() -> None:
    """Nothing is encoded for it."""
    track = Track()
    assert track.takes(coded(1, idr=True), wanted=True)
    assert track.takes(coded(2, idr=True), wanted=True)


def test_auto_does_not_begin_again_at_once() -> None:
    """And copies nothing while it rests."""
    track = Track(Coding.AUTO)
    assert track.takes(coded(1, idr=True))
    assert not track.takes(coded(2), overloaded=True)
    assert not track.takes(coded(3, idr=True))
