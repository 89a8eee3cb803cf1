"""Old segments under numbers that are used again."""

from __future__ import annotations

from relay.trickle.replay_guard import HEAD_BYTES, ReplayGuard


def deliver(guard: ReplayGuard, seq: int, *chunks: bytes) -> None:
    guard.begin(seq)
    for chunk in chunks:
        guard.note(seq, chunk)


def test_nothing_is_suspected_before_a_restart() -> None:
    """In normal life no segment is looked at before it is delivered."""
    guard = ReplayGuard()
    deliver(guard, 0, b"old")
    assert not guard.suspects(0)


def test_after_a_restart_a_number_is_suspected_until_it_is_delivered_anew() -> None:
    """The old bytes are recognised however they were chunked; new ones are not."""
    guard = ReplayGuard()
    old = bytes(range(256)) * 10
    deliver(guard, 7, old[:10], old[10:1500], old[1500:])
    guard.restarted()
    assert guard.suspects(7)
    assert guard.is_replay(7, old[:HEAD_BYTES])
    assert not guard.is_replay(7, b"new")
    assert not guard.suspects(8)
    deliver(guard, 7, b"new")
    assert not guard.suspects(7)


def test_an_empty_segment_can_not_be_told_from_another() -> None:
    """It is no ground for suspicion."""
    guard = ReplayGuard()
    deliver(guard, 3)
    guard.restarted()
    assert not guard.suspects(3)


def test_only_the_last_segments_are_remembered() -> None:
    """Memory does not grow with the stream."""
    guard = ReplayGuard()
    for seq in range(100):
        deliver(guard, seq, b"%d" % seq)
    assert guard.is_known(b"99")
    assert not guard.is_known(b"0")
    assert len(guard._heads) <= 16
