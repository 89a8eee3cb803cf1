"""When a server may be given prompts again: the rules, with a clock of their own."""

from __future__ import annotations

import pytest

from relay.comfystream.quarantine import Phase, QuarantineRules, ServerRecord, Verdict
from relay.comfystream.server_probe import ServerAnswer

RULES = QuarantineRules()
FREE, IN_USE, UNTOLD = ServerAnswer.FREE, ServerAnswer.IN_USE, ServerAnswer.UNTOLD


def code(verdict: Verdict) -> str | None:
    return verdict.reason.code if verdict.reason else None


def left(at: float = 100.0) -> ServerRecord:
    """A server whose answered client was closed at that time."""
    record = ServerRecord()
    record.begin_offer()
    record.answered()
    record.leave(at)
    return record


def test_an_unknown_server_that_is_free_is_asked_at_once() -> None:
    """The first session waits for nothing."""
    record = ServerRecord()
    assert record.before_asking(5.0, RULES) == 0
    assert record.judge(FREE, 5.0, RULES).wait_s == 0
    assert record.judge(UNTOLD, 5.0, RULES).wait_s == 0


def test_a_goodbye_that_got_through_costs_one_second() -> None:
    """From our close, once the server lists nobody."""
    record = left(100.0)
    assert record.before_asking(100.2, RULES) == pytest.approx(0.8)
    assert record.before_asking(101.0, RULES) == 0
    assert record.judge(FREE, 101.0, RULES).wait_s == 0


def test_a_client_that_is_listed_a_moment_longer_is_waited_for() -> None:
    """Then a second from when it was listed last."""
    record = left(100.0)
    assert record.judge(IN_USE, 101.0, RULES).wait_s > 0
    assert record.judge(FREE, 101.25, RULES).wait_s == pytest.approx(0.75)
    assert record.judge(FREE, 102.0, RULES).wait_s == 0


def test_a_client_that_stays_listed_was_left_uncleanly() -> None:
    """The whole quarantine, even if the list empties before."""
    record = left(100.0)
    record.judge(IN_USE, 101.0, RULES)
    verdict = record.judge(IN_USE, 102.0, RULES)
    assert code(verdict) == "comfystream_quarantined"
    assert code(record.judge(FREE, 130.0, RULES)) == "comfystream_quarantined"
    assert record.judge(FREE, 140.0, RULES).wait_s == 0


def test_an_offer_that_was_broken_off_is_an_unclean_end() -> None:
    """The server's list does not know of it yet."""
    record = ServerRecord()
    record.begin_offer()
    record.leave(100.0)
    assert code(record.judge(FREE, 101.0, RULES)) == "comfystream_quarantined"
    assert record.judge(FREE, 140.0, RULES).wait_s == 0


def test_without_the_server_s_list_no_goodbye_is_believed() -> None:
    """A proxy without the route: the quarantine is all there is."""
    record = left(100.0)
    assert code(record.judge(UNTOLD, 101.0, RULES)) == "comfystream_quarantined"
    assert record.judge(UNTOLD, 140.0, RULES).wait_s == 0


def test_somebody_else_s_client_is_waited_for_without_end() -> None:
    """And a second more after it has gone."""
    record = ServerRecord()
    record.judge(IN_USE, 10.0, RULES)
    assert code(record.judge(IN_USE, 500.0, RULES)) == "comfystream_busy"
    assert record.judge(FREE, 500.5, RULES).wait_s == pytest.approx(0.5)
    assert record.judge(FREE, 501.0, RULES).wait_s == 0


def test_a_server_that_did_not_answer_is_asked_rarely() -> None:
    """Nothing before the time to retry, whatever its list says."""
    record = ServerRecord()
    record.begin_offer()
    record.unanswered(100.0)
    assert code(record.judge(FREE, 150.0, RULES)) == "comfystream_wedged"
    assert code(record.judge(FREE, 399.0, RULES)) == "comfystream_wedged"
    assert record.judge(FREE, 400.0, RULES).wait_s == 0


@pytest.mark.parametrize("how", ["answered", "refused", "forget"])
def test_what_shows_that_the_server_is_well_ends_all_waiting(how: str) -> None:
    """An answer, a refusal, a new process."""
    record = left(100.0)
    record.unanswered(100.0)
    getattr(record, how)()
    assert record.judge(FREE, 100.0, RULES).wait_s == 0
    assert record.before_asking(100.0, RULES) == 0


def test_leaving_twice_is_leaving_once() -> None:
    """The time and the manner of the first count."""
    record = left(100.0)
    record.leave(200.0)
    assert record.left_at == 100.0
    assert record.phase is Phase.IDLE
