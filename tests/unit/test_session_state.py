"""The session's state machine."""

from __future__ import annotations

from relay.session_state import TRANSITIONS, SessionState


def test_every_state_has_its_transitions() -> None:
    """The table knows every state, and nothing leads out of a final one."""
    assert set(TRANSITIONS) == set(SessionState)
    for state, following in TRANSITIONS.items():
        assert state not in following
        assert state.final == (not following)


def test_every_state_can_be_left_for_stopping_and_ends() -> None:
    """From anywhere a stop leads to an end, in two steps at most."""
    for state in SessionState:
        if state.final or state is SessionState.STOPPING:
            continue
        assert SessionState.STOPPING in TRANSITIONS[state]
    assert all(following.final for following in TRANSITIONS[SessionState.STOPPING])


def test_every_state_can_be_reached() -> None:
    """No state stands in the table without a way to it from the first."""
    reached = {SessionState.STARTING}
    for _ in SessionState:
        reached |= {target for state in reached for target in TRANSITIONS[state]}
    assert reached == set(SessionState)
