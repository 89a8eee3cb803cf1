"""Frame identity: stamps out, stamps back with an unknown origin."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.media.timeline import (
    CODE_HIGH,
    CODE_LOW,
    RTP_MODULUS,
    FrameIdentifier,
    Identified,
    SentFrame,
    StampIssuer,
)


def send(issuer: StampIssuer, identifier: FrameIdentifier, number: int) -> int:
    stamp = issuer.issue()
    identifier.remember(SentFrame(stamp, number, 0.0, float(number)))
    return stamp


def pairs(hits: list[Identified]) -> list[tuple[object, int | None]]:
    return [(hit.returned, hit.sent.source_pts) for hit in hits]


def test_stamps_rise_by_the_interval_and_a_small_code() -> None:
    """Each stamp is the one announced before, a nominal interval and a code later."""
    issuer = StampIssuer(interval=3000)
    previous = issuer.issue()
    for _ in range(1000):
        announced = issuer.upcoming
        stamp = issuer.issue()
        assert stamp == announced
        assert CODE_LOW <= stamp - previous - 3000 <= CODE_HIGH
        previous = stamp


def test_interval_follows_the_source_but_not_its_jumps() -> None:
    """A steady 25 fps source is adopted; a jump of hours or a step back is not."""
    issuer = StampIssuer(interval=3000)
    for _ in range(100):
        issuer.observe_interval(3600)
    settled = issuer.interval
    assert abs(settled - 3600) <= 4
    issuer.observe_interval(90_000 * 3600)
    issuer.observe_interval(-3000)
    assert issuer.interval == settled


@given(
    origin=st.integers(0, RTP_MODULUS - 1),
    seed=st.integers(0, 1 << 30),
    lost_first=st.integers(0, 10),
    loss=st.floats(0, 0.3),
    lag=st.integers(0, 8),
)
def test_every_identified_frame_is_the_right_one(
    origin: int, seed: int, lost_first: int, loss: float, lag: int
) -> None:
    """Whatever the origin, the lost first frames, later loss and delay: never a wrong name."""
    random = Random(seed)
    issuer, identifier = StampIssuer(seed=seed), FrameIdentifier()
    on_the_way: list[tuple[int, int]] = []
    returned = identified = 0
    for number in range(120):
        stamp = send(issuer, identifier, number)
        if number >= lost_first and random.random() >= loss:
            on_the_way.append((number, (stamp + origin) % RTP_MODULUS))
        if len(on_the_way) > lag:
            back, stamp_back = on_the_way.pop(0)
            returned += 1
            hits = pairs(identifier.identify(stamp_back, float(number), back))
            identified += len(hits)
            assert all(content == name for content, name in hits)
    assert identifier.resolved
    assert identified == returned, "frames held until the constant was known come out with it"


def test_one_returned_frame_alone_is_not_named() -> None:
    """With a single sent frame everything fits; the name waits for a second frame."""
    issuer, identifier = StampIssuer(), FrameIdentifier()
    first = send(issuer, identifier, 0)
    assert identifier.identify(first + 777, 0.1, "a") == []
    second = send(issuer, identifier, 1)
    assert pairs(identifier.identify(second + 777, 0.2, "b")) == [("a", 0), ("b", 1)]


def test_a_new_origin_is_found_after_a_few_misses() -> None:
    """When the server restarts its stream the frames are named again within a few frames."""
    issuer, identifier = StampIssuer(seed=5), FrameIdentifier(misses_to_resolve_again=3)
    for number in range(10):
        identifier.identify(send(issuer, identifier, number) + 1000, number, number)
    named_after: list[int] = []
    for number in range(10, 20):
        hits = identifier.identify(send(issuer, identifier, number) + 999_999, number, number)
        assert all(content == name for content, name in pairs(hits))
        named_after += [hit.sent.source_pts or 0 for hit in hits]
    assert named_after == list(range(13, 20))
    assert identifier.misses == 3


def test_a_named_frame_clears_the_older_ones_from_flight() -> None:
    """Frames overtaken by a returned one were dropped by the server and are not waited for."""
    issuer, identifier = StampIssuer(), FrameIdentifier()
    for number in range(2):
        identifier.identify(send(issuer, identifier, number), number, number)
    stamps = [send(issuer, identifier, number) for number in range(2, 6)]
    assert identifier.in_flight == 4
    assert pairs(identifier.identify(stamps[2], 9.0, 4)) == [(4, 4)]
    assert identifier.in_flight == 1


def test_frames_too_long_away_are_given_up() -> None:
    """`give_up_before` frees their place in flight, and only theirs."""
    issuer, identifier = StampIssuer(), FrameIdentifier()
    for number in range(5):
        send(issuer, identifier, number)
    assert identifier.give_up_before(3.0) == 3
    assert identifier.in_flight == 2


@pytest.mark.parametrize("capacity", [4, 600])
def test_memory_is_bounded(capacity: int) -> None:
    """A server that returns nothing costs at most `capacity` remembered frames."""
    issuer, identifier = StampIssuer(), FrameIdentifier(capacity=capacity)
    for number in range(capacity * 2):
        send(issuer, identifier, number)
    assert identifier.in_flight == capacity


def mispairing_server(drops: set[int]) -> tuple[FrameIdentifier, list[tuple[int, int]]]:
    """Frames 0.. sent one at a time, each returned before the next, some dropped inside while
    their labels stay in the server's line. Returns what was shown against what it was named."""
    issuer, identifier = StampIssuer(seed=3), FrameIdentifier()
    labels: list[int] = []
    named: list[tuple[int, int]] = []
    for number in range(60):
        sent_at = number / 30
        stamp = issuer.issue()
        identifier.remember(SentFrame(stamp, number, 0.0, sent_at))
        labels.append(stamp)
        if number in drops:
            identifier.give_up_before(sent_at + 0.01)  # what the stall watch does
            continue
        hits = identifier.identify(labels.pop(0) + 5000, sent_at + 0.02, number)
        named += [(hit.returned, hit.sent.source_pts) for hit in hits]  # type: ignore[misc]
    return identifier, named


@pytest.mark.parametrize("drops", [set(), {10}, {10, 11, 30}, {20, 21, 22, 23, 50}])
def test_labels_that_lag_behind_dropped_frames_are_seen_through(drops: set[int]) -> None:
    """A server that keeps the labels of dropped frames: still every frame gets its own time."""
    identifier, named = mispairing_server(drops)
    assert len(named) == 60 - len(drops)
    assert all(shown == name for shown, name in named)
    assert identifier.label_shift == len(drops)


def test_a_frame_that_was_only_late_keeps_its_label() -> None:
    """Given up, then back with nothing else under way: it is itself, and the shift is gone."""
    issuer, identifier = StampIssuer(), FrameIdentifier()
    for number in range(3):
        identifier.identify(send(issuer, identifier, number), number + 0.02, number)
    late = send(issuer, identifier, 3)
    assert identifier.give_up_before(3.5) == 1
    assert pairs(identifier.identify(late, 5.0, 3)) == [(3, 3)]
    assert identifier.label_shift == 0
    assert pairs(identifier.identify(send(issuer, identifier, 4), 5.1, 4)) == [(4, 4)]
