"""Which number a subscriber asks for after each kind of reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.trickle.errors import ProtocolError
from relay.trickle.protocol import JumpPolicy, Reply
from relay.trickle.segment_cursor import SegmentCursor, Step


def ok(seq: int | None, latest: int | None = None) -> Reply:
    return Reply(200, seq=seq, latest=latest)


def gone(latest: int | None, oldest: int | None = None) -> Reply:
    return Reply(470, latest=latest, oldest=oldest)


def cursor_after(number: int, policy: JumpPolicy = JumpPolicy.LATEST) -> SegmentCursor:
    """A cursor that delivered `number` - 1 and wants `number`."""
    cursor = SegmentCursor(number - 1, policy)
    assert cursor.on_segment(ok(number - 1)) is Step.DELIVER
    cursor.advance()
    return cursor


def test_the_next_number_is_one_past_the_one_the_server_named() -> None:
    """A symbolic start is pinned by the first reply."""
    cursor = SegmentCursor(-2)
    assert cursor.on_segment(ok(41)) is Step.DELIVER
    cursor.advance()
    assert (cursor.number, cursor.skipped_segments) == (42, 0)


def test_without_seq_numbers_are_counted_here() -> None:
    """A missing header neither repeats a number nor stops the stream."""
    cursor = cursor_after(7)
    assert cursor.on_segment(ok(None)) is Step.DELIVER
    cursor.advance()
    assert cursor.number == 8


def test_without_any_number_there_is_no_following() -> None:
    """A symbolic request whose reply has no number can't go on without repeating."""
    with pytest.raises(ProtocolError, match="Seq"):
        SegmentCursor(-1).on_segment(ok(None))


def test_a_higher_seq_is_a_counted_gap() -> None:
    """The server resolved to something later: what lies between is reported."""
    cursor = cursor_after(5)
    assert cursor.on_segment(ok(8)) is Step.DELIVER
    assert (cursor.number, cursor.skipped_before, cursor.skipped_segments) == (8, 3, 3)


def test_a_lower_seq_is_checked_once_then_left_to_its_bytes() -> None:
    """First the edge is looked at; if a server insists, its numbers say nothing."""
    cursor = cursor_after(5)
    assert cursor.on_segment(ok(2)) is Step.LOOK
    assert cursor.look(6) is Step.WAIT  # the edge is where it should be
    assert cursor.number == 5
    assert cursor.on_segment(ok(2)) is Step.DOUBT
    assert cursor.number == 5


def test_a_lower_seq_with_a_low_edge_is_a_restart() -> None:
    """The channel began anew: it is followed from its edge, once."""
    cursor = cursor_after(50)
    assert cursor.on_segment(ok(2)) is Step.LOOK
    assert cursor.look(3) is Step.RESTARTED
    assert (cursor.number, cursor.restarts, cursor.restarted) == (3, 1, True)


@pytest.mark.parametrize(
    ("policy", "oldest", "target"),
    [
        (JumpPolicy.LATEST, None, 19),
        (JumpPolicy.NEXT, None, 20),
        (JumpPolicy.OLDEST, None, 15),
        (JumpPolicy.OLDEST, 12, 12),
    ],
)
def test_behind_the_window_the_policy_says_where_to_go(
    policy: JumpPolicy, oldest: int | None, target: int
) -> None:
    """The gap is counted, whatever the target."""
    cursor = cursor_after(10, policy)
    assert cursor.on_not_in_window(gone(20, oldest)) is Step.JUMPED
    assert (cursor.number, cursor.skipped_segments, cursor.jumps) == (target, target - 10, 1)


def test_a_jump_always_goes_forward() -> None:
    """A segment just below the edge that is gone is never asked for again."""
    cursor = cursor_after(10)
    assert cursor.on_not_in_window(gone(11)) is Step.JUMPED
    assert cursor.number == 11


@pytest.mark.parametrize("latest", [10, 9])
def test_just_ahead_of_the_publisher_is_worth_waiting(latest: int) -> None:
    """At the edge, or one beyond it, nothing is wrong."""
    cursor = cursor_after(10)
    assert cursor.on_not_in_window(gone(latest)) is Step.WAIT
    assert cursor.number == 10


def test_far_ahead_of_the_publisher_is_a_restart() -> None:
    """An edge well below what was delivered means that the publisher started over."""
    cursor = cursor_after(10)
    assert cursor.on_not_in_window(gone(1)) is Step.LOOK
    assert cursor.look(1) is Step.RESTARTED
    assert (cursor.number, cursor.restarts) == (1, 1)


def test_a_start_beyond_the_edge_waits() -> None:
    """Nothing was delivered yet, so nothing can have restarted."""
    assert SegmentCursor(100).on_not_in_window(gone(3)) is Step.WAIT


def test_a_470_without_latest_needs_a_look() -> None:
    """There is nothing to decide by but the edge: behind the window, at it, or begun anew."""
    for edge, step, number in ((20, Step.JUMPED, 19), (10, Step.WAIT, 10), (3, Step.RESTARTED, 3)):
        cursor = cursor_after(10)
        assert cursor.on_not_in_window(gone(None)) is Step.LOOK
        assert (cursor.look(edge), cursor.number) == (step, number)


def test_too_far_behind_jumps_although_the_segment_is_there() -> None:
    """With a lag limit, old segments are left out before they are read."""
    cursor = cursor_after(10)
    cursor.max_lag_segments = 2
    assert cursor.on_segment(ok(10, latest=13)) is Step.DELIVER
    assert cursor.on_segment(ok(10, latest=14)) is Step.JUMPED
    assert cursor.number == 13


replies = st.builds(
    Reply,
    status=st.sampled_from([200, 470]),
    seq=st.none() | st.integers(0, 40),
    latest=st.none() | st.integers(0, 40),
    oldest=st.none() | st.integers(0, 40),
)


@given(
    policy=st.sampled_from(JumpPolicy),
    answers=st.lists(st.tuples(replies, st.integers(0, 40)), max_size=60),
)
def test_whatever_the_server_says_nothing_is_delivered_twice_between_restarts(
    policy: JumpPolicy, answers: list[tuple[Reply, int]]
) -> None:
    """Delivered numbers rise strictly from one restart to the next."""
    cursor = SegmentCursor(0, policy)
    delivered: list[int] = []
    for reply, edge in answers:
        restarts = cursor.restarts
        step = cursor.on_segment(reply) if reply.status == 200 else cursor.on_not_in_window(reply)
        if step is Step.LOOK:
            cursor.look(edge)
        if cursor.restarts > restarts:
            delivered.clear()
        if step in (Step.DELIVER, Step.DOUBT):
            delivered.append(cursor.number)
            cursor.advance()
        assert delivered == sorted(set(delivered))
