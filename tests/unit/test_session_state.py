"""The session's state machine."""

from __future__ import annotations

import itertools

import aiohttp
import pytest

from relay.config.settings import Settings
from relay.errors import TrickleError
from relay.resources import PipelineResources
from relay.session.session import Session
from relay.session_config import SessionConfig
from relay.session_state import TRANSITIONS, SessionState

S = SessionState
LEGAL = {
    (S.STARTING, S.LOADING),
    (S.STARTING, S.ACTIVE),
    (S.STARTING, S.STOPPING),
    (S.LOADING, S.STARTING),
    (S.LOADING, S.RECONNECTING),
    (S.LOADING, S.ACTIVE),
    (S.LOADING, S.STOPPING),
    (S.ACTIVE, S.RECONNECTING),
    (S.ACTIVE, S.STOPPING),
    (S.RECONNECTING, S.LOADING),
    (S.RECONNECTING, S.ACTIVE),
    (S.RECONNECTING, S.STOPPING),
    (S.STOPPING, S.STOPPED),
    (S.STOPPING, S.FAILED),
}
"""Said a second time, so that a change of the table is a decision."""


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
async def test_each_pair_of_states(old: SessionState, new: SessionState) -> None:
    """A session takes the transitions of the table, refuses the others, and may stay."""
    resources = PipelineResources(Settings(), aiohttp.ClientSession())
    try:
        config = SessionConfig("http://127.0.0.1/in", "http://127.0.0.1/out", "http://127.0.0.1")
        session = Session(config, resources)
        session.state = old
        if (old, new) in LEGAL or old is new:
            session._set_state(new, "test")
            assert session.state is new
        else:
            with pytest.raises(AssertionError):
                session._set_state(new, "test")
            assert session.state is old
    finally:
        await resources.aclose()


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


async def test_a_session_that_can_not_be_made_holds_no_server() -> None:
    """The next one with prompts gets it."""
    resources = PipelineResources(Settings(), aiohttp.ClientSession())
    try:
        nameless = "http://127.0.0.1/in//"
        config = SessionConfig(
            nameless, "http://127.0.0.1/out", "http://127.0.0.1", prompts=({"1": {}},)
        )
        with pytest.raises(TrickleError):
            Session(config, resources)
        resources.leases.acquire("http://127.0.0.1", "another").release()
    finally:
        await resources.aclose()
