"""Which coded frames are sent as they are, by what came before them."""

from __future__ import annotations

import pytest

from relay.copy_switch import CopySwitch
from relay.media.access_unit import AccessUnit, CodedFrame, DecodedFrame
from relay.media.encoder import H264_STREAM
from relay.media.picture import black_picture
from relay.session_config import Coding
from relay.webrtc.copied_frames import LATE_RELAY_WAITS_S, MOST_BYTES, CopiedFrames


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

    def leaves_out(
        self, frame: CodedFrame | DecodedFrame, now: float, *, wanted: bool = False, late: bool
    ) -> bool:
        return self.copied.leaves_out(frame, now, keyframe_wanted=wanted, relay_late=late)


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


def test_a_late_relay_waits_for_a_keyframe_instead_of_transcoding() -> None:
    """What copying can't go on with is left out up to the next keyframe."""
    track = Track()
    assert track.takes(coded(1, idr=True))
    assert not track.leaves_out(coded(2), 0.0, late=True), "it follows"
    assert track.takes(coded(2))
    assert not track.leaves_out(coded(3), 0.0, wanted=True, late=False)
    assert track.leaves_out(coded(3), 0.0, wanted=True, late=True)
    assert track.leaves_out(coded(4), 0.1, late=True)
    assert track.switch.reason == "relay_late"
    assert track.leaves_out(coded(5), 0.2, late=False), "until then, late or not"
    assert not track.leaves_out(coded(6, idr=True), 0.3, late=False)
    assert track.takes(coded(6, idr=True))


def test_it_does_not_wait_for_long() -> None:
    """Nor where it is not late, nor for pictures that are decoded anyway."""
    track = Track()
    assert not track.leaves_out(coded(1), 0.0, late=False)
    assert not track.leaves_out(DECODED, 0.0, late=True)
    assert track.leaves_out(coded(2), 0.1, late=True)
    assert track.leaves_out(coded(3), 0.1 + LATE_RELAY_WAITS_S, late=True)
    assert not track.leaves_out(coded(4), 0.2 + LATE_RELAY_WAITS_S, late=True)
    assert not track.takes(coded(4))


def test_auto_does_not_begin_again_at_once() -> None:
    """And copies nothing while it rests."""
    track = Track(Coding.AUTO)
    assert track.takes(coded(1, idr=True))
    assert not track.takes(coded(2), overloaded=True)
    assert not track.takes(coded(3, idr=True))
