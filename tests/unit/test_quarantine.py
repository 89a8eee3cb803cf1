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


def ask(record: ServerRecord, answer: ServerAnswer, now: float) -> Verdict:
    record.note(answer, now, RULES)
    return record.judge(answer, now, RULES)


@pytest.mark.parametrize("answer", [FREE, UNTOLD])
def test_an_unknown_server_is_given_prompts_at_once(answer: ServerAnswer) -> None:
    """The first session waits for nothing."""
    assert ask(ServerRecord(), answer, 5.0).wait_s == 0


def test_a_goodbye_that_got_through_costs_one_second() -> None:
    """From when the server was first seen to list nobody."""
    record = left(100.0)
    assert ask(record, FREE, 100.02).wait_s == pytest.approx(1.0)
    assert ask(record, FREE, 100.52).wait_s == pytest.approx(0.5)
    assert ask(record, FREE, 101.02).wait_s == 0


def test_a_server_that_stood_still_gets_its_second_too() -> None:
    """It handles the goodbye when it goes on, however long ago that was sent."""
    record = left(100.0)
    record.note(ServerAnswer.SILENT, 103.0, RULES)
    assert ask(record, FREE, 105.0).wait_s == pytest.approx(1.0)
    record.note(ServerAnswer.SILENT, 105.5, RULES)
    assert ask(record, FREE, 106.0).wait_s == pytest.approx(1.0)
    assert ask(record, FREE, 107.0).wait_s == 0


def test_a_server_that_was_left_long_ago_costs_nothing() -> None:
    """After the quarantine an empty list is enough."""
    assert ask(left(100.0), FREE, 140.0).wait_s == 0


def test_a_client_that_is_listed_a_moment_longer_is_waited_for() -> None:
    """Then a second from when it was gone."""
    record = left(100.0)
    assert 0 < ask(record, IN_USE, 100.01).wait_s < 0.5
    assert ask(record, FREE, 100.26).wait_s == pytest.approx(1.0)
    assert ask(record, FREE, 101.26).wait_s == 0


def test_a_client_that_stays_listed_was_left_uncleanly() -> None:
    """The whole quarantine, even if the list empties before."""
    record = left(100.0)
    ask(record, IN_USE, 100.0)
    assert code(ask(record, IN_USE, 101.0)) == "comfystream_quarantined"
    assert code(ask(record, FREE, 130.0)) == "comfystream_quarantined"
    assert ask(record, FREE, 140.0).wait_s == 0


def test_an_offer_that_was_broken_off_is_an_unclean_end() -> None:
    """The server's list does not know of it yet."""
    record = ServerRecord()
    record.begin_offer()
    record.leave(100.0)
    assert code(ask(record, FREE, 101.0)) == "comfystream_quarantined"
    assert ask(record, FREE, 140.0).wait_s == 0


def test_without_the_server_s_list_no_goodbye_is_believed() -> None:
    """A proxy without the route: the quarantine is all there is."""
    record = left(100.0)
    assert code(ask(record, UNTOLD, 101.0)) == "comfystream_quarantined"
    assert ask(record, UNTOLD, 140.0).wait_s == 0


def test_somebody_else_s_client_is_waited_for_without_end() -> None:
    """And a second more after it has gone."""
    record = ServerRecord()
    assert ask(record, IN_USE, 10.0).reason is None
    assert code(ask(record, IN_USE, 500.0)) == "comfystream_busy"
    assert ask(record, FREE, 500.5).wait_s == pytest.approx(1.0)
    assert ask(record, FREE, 501.5).wait_s == 0


def test_a_server_that_did_not_answer_is_asked_rarely() -> None:
    """Nothing before the time to retry, whatever its list says."""
    record = ServerRecord()
    record.begin_offer()
    record.unanswered(100.0)
    assert code(ask(record, FREE, 150.0)) == "comfystream_wedged"
    assert code(ask(record, FREE, 399.0)) == "comfystream_wedged"
    assert ask(record, FREE, 400.0).wait_s == 0


@pytest.mark.parametrize("how", ["answered", "refused", "forget"])
def test_what_shows_that_the_server_is_well_ends_all_waiting(how: str) -> None:
    """An answer, a refusal, a new process."""
    record = left(100.0)
    record.unanswered(100.0)
    getattr(record, how)()
    assert ask(record, FREE, 100.0).wait_s == 0


def test_a_refused_connection_means_a_new_process() -> None:
    """Nothing that the old one held is waited for."""
    record = left(100.0)
    record.unanswered(100.0)
    record.note(ServerAnswer.GONE, 101.0, RULES)
    assert ask(record, FREE, 102.0).wait_s == 0


def test_leaving_twice_is_leaving_once() -> None:
    """The time and the manner of the first count."""
    record = left(100.0)
    record.leave(200.0)
    assert record.left_at == 100.0
    assert record.phase is Phase.IDLE
