"""Joining in the middle of a segment."""

from __future__ import annotations

import av

from relay.media.access_unit import DecodedFrame
from relay.media.live_edge import LiveEdge

PICTURE = av.VideoFrame(16, 16, "yuv420p")


def frame(number: int, arrived_at: float) -> DecodedFrame:
    return DecodedFrame(PICTURE, number * 3000, arrived_at)


def numbers(frames: list[DecodedFrame]) -> list[int]:
    return [item.pts // 3000 for item in frames]


def test_a_backlog_is_let_go_up_to_its_last_frame() -> None:
    """Twenty frames at once, then live: only the newest of the twenty, and the live ones."""
    edge = LiveEdge()
    out = [edge.admit(frame(n, 5.0 + n * 0.0002)) for n in range(20)]
    assert not any(out)
    assert numbers(edge.admit(frame(20, 5.03))) == [19, 20]
    assert edge.reached
    assert numbers(edge.admit(frame(21, 5.03))) == [21], "a burst later on is passed on"


def test_a_stream_joined_at_its_edge_loses_nothing() -> None:
    """The first frame waits for the second to tell, and both are shown."""
    edge = LiveEdge()
    assert edge.admit(frame(0, 1.0)) == []
    assert numbers(edge.admit(frame(1, 1.033))) == [0, 1]


def test_a_stream_that_never_settles_is_live_in_the_end() -> None:
    """A source faster than its timestamps is not held back for ever."""
    edge = LiveEdge(patience_s=1.0)
    shown = [n for n in range(200) if edge.admit(frame(n, n * 0.01))]
    assert shown[0] == 101


def test_the_end_gives_out_what_was_held() -> None:
    """A stream of one frame has one frame."""
    edge = LiveEdge()
    edge.admit(frame(0, 1.0))
    assert numbers(edge.flush()) == [0]
    assert edge.flush() == []


def test_timestamps_that_step_back_are_live() -> None:
    """A restarted source is not mistaken for a backlog."""
    edge = LiveEdge()
    edge.admit(frame(1000, 1.0))
    assert numbers(edge.admit(frame(0, 1.0))) == [1000, 0]
