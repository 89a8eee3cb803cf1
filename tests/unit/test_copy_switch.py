"""Whether pictures are copied, what keeps them from it, and when they are again."""

from __future__ import annotations

import pytest

from relay.copy_switch import (
    FIRST_REST_S,
    LASTED_S,
    LONGEST_REST_S,
    CopySwitch,
    Obstacle,
)
from relay.session_config import Coding


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_says_what_it_does_and_why() -> None:
    """The reason is there while copying is wanted and impossible, and only then."""
    switch = CopySwitch(Coding.COPY)
    assert (switch.copies, switch.reason) == (False, "starting")
    switch.copy()
    assert (switch.copies, switch.reason) == (True, None)
    switch.stop(Obstacle.LOSS)
    assert (switch.copies, switch.reason) == (False, "loss")
    switch.stop()
    assert switch.status() == {"mode": "copy", "copies": False, "reason": "loss", "frames": 1}
    switch.mode = Coding.TRANSCODE
    assert switch.status() == {"mode": "transcode", "copies": False, "reason": None, "frames": 1}
    assert switch.stops == 1


def test_copy_begins_again_at_once() -> None:
    """Whatever ended it, and however often."""
    switch = CopySwitch(Coding.COPY, clock=Clock())
    for _ in range(5):
        switch.copy()
        switch.stop(Obstacle.LOSS)
        assert switch.may_begin


def test_auto_rests_ever_longer_where_copying_does_not_last() -> None:
    """Up to five minutes; copying that lasted makes the next rest a short one again."""
    clock = Clock()
    switch = CopySwitch(Coding.AUTO, clock=clock)
    rests = []
    for lasts_s in (1.0, 1.0, LASTED_S - 1, 1.0, LASTED_S, 1.0, *[1.0] * 10):
        assert switch.may_begin
        switch.copy()
        clock.now += lasts_s
        switch.stop(Obstacle.LOSS)
        stopped_at = clock.now
        while not switch.may_begin:
            clock.now += 1.0
        rests.append(clock.now - stopped_at)
    first = FIRST_REST_S
    assert rests[:6] == [first, 2 * first, 4 * first, 8 * first, first, 2 * first]
    assert rests[-1] == LONGEST_REST_S


@pytest.mark.parametrize("mode", list(Coding))
def test_another_mode_ends_a_rest(mode: Coding) -> None:
    """Who asks anew does not wait for what was before."""
    switch = CopySwitch(Coding.AUTO, clock=Clock())
    switch.copy()
    switch.stop(Obstacle.LOSS)
    assert not switch.may_begin
    switch.mode = mode
    assert switch.may_begin == (mode is Coding.COPY)
