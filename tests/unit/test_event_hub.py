"""Events: in order, to whom they concern, from where the reader stopped, never waiting for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.observe.event_hub import (
    EVENTS_FOR_A_LISTENER,
    MOST_LISTENERS,
    Event,
    EventHub,
    EventKind,
    Listener,
)
from relay.queues import QueueClosed


@pytest.fixture
def hub() -> EventHub:
    return EventHub(kept=5, wall_clock=lambda: 1.5, run_id="run")


def listen(hub: EventHub, session_id: str | None = None, **options: Any) -> Listener:
    listener = hub.listen(session_id, **options)
    assert listener is not None
    return listener


async def waiting(listener: Listener) -> list[Event]:
    """What a listener that has ended was given."""
    events = []
    try:
        while True:
            events.append(await listener.get())
    except QueueClosed:
        return events


def states(events: list[Event]) -> list[Any]:
    return [json.loads(event.data).get("new", event.kind.value) for event in events]


def tell(hub: EventHub, *words: str, session_id: str = "a") -> None:
    for word in words:
        hub.publish(EventKind.STATE, session_id, new=word)


async def test_each_reads_what_concerns_him(hub: EventHub) -> None:
    """One session's listener hears of that; he of all, of all; events of the relay go to those."""
    one, every = listen(hub, "a"), listen(hub)
    tell(hub, "a1")
    tell(hub, "b1", session_id="b")
    hub.publish(EventKind.RELAY, problem="draining")
    hub.close()
    assert states(await waiting(one)) == ["a1"]
    assert states(await waiting(every)) == ["a1", "b1", "relay"]


async def test_an_event_names_its_session_and_its_time(hub: EventHub) -> None:
    """In JSON, with milliseconds since 1970; its id counts up."""
    listener = listen(hub)
    tell(hub, "active")
    event = await listener.get()
    assert json.loads(event.data) == {"timestamp": 1500, "session_id": "a", "new": "active"}
    assert hub.id_of(event) == "run-1"


@pytest.mark.parametrize("last", ["run-" + "1" * 5000, "run-", "run--1", "1", ""])
async def test_an_id_that_is_none_of_ours_asks_for_all(hub: EventHub, last: str) -> None:
    """It may be of a process before this one, or of nobody's."""
    tell(hub, "1", "2")
    listener = listen(hub, "a", after=last)
    hub.close()
    assert states(await waiting(listener)) == ["1", "2"]


async def test_a_reader_goes_on_where_he_was(hub: EventHub) -> None:
    """By the id of the last event he read; what others have is not his."""
    tell(hub, "1", "2")
    tell(hub, "other", session_id="b")
    tell(hub, "4")
    listener = listen(hub, "a", after="run-1")
    tell(hub, "5")
    hub.close()
    assert states(await waiting(listener)) == ["2", "4", "5"]


async def test_what_is_not_kept_any_more_is_said(hub: EventHub) -> None:
    """A gap is not silent, and no gap is invented."""
    tell(hub, *"123456789")
    lost, whole = listen(hub, after="run-3"), listen(hub, after="run-4")
    hub.close()
    assert states(await waiting(lost)) == ["missed", *"56789"]
    assert states(await waiting(whole)) == [*"56789"]


@pytest.mark.parametrize("after", ["old-7", "run-", "run-x", "nonsense", "-1", ""])
async def test_ids_of_another_run_or_none_bring_all(hub: EventHub, after: str) -> None:
    """After a restart of the relay everything that happened is news."""
    tell(hub, "1", "2")
    listener = listen(hub, after=after)
    hub.close()
    assert states(await waiting(listener)) == ["1", "2"]


async def test_history_only_for_those_who_want_it(hub: EventHub) -> None:
    """Without a last id a reader begins now, or with all that is kept."""
    tell(hub, "1")
    now, all_of_it = listen(hub), listen(hub, history=True)
    tell(hub, "2")
    hub.close()
    assert states(await waiting(now)) == ["2"]
    assert states(await waiting(all_of_it)) == ["1", "2"]


async def test_a_slow_reader_is_let_go_of_and_counted(hub: EventHub) -> None:
    """He gets nothing more, nor does anybody wait for him; the others lose nothing."""
    slow, quick = listen(hub), listen(hub)
    read = []
    for number in range(EVENTS_FOR_A_LISTENER + 1):
        tell(hub, str(number))
        read.append(await quick.get())
    assert slow.too_slow
    assert not quick.too_slow
    assert (hub.listeners, hub.listeners_too_slow) == (1, 1)
    assert await waiting(slow) == []
    assert len(read) == EVENTS_FOR_A_LISTENER + 1


async def test_status_goes_to_whom_it_is_for_and_is_not_kept(hub: EventHub) -> None:
    """It has no id, so a reader who comes again does not miss it."""
    assert not hub.wants_status(None)
    one, every = listen(hub, "a"), listen(hub)
    assert hub.wants_status("a")
    assert not hub.wants_status("b")
    hub.tell_status("a", {"fps": 1})
    hub.tell_status(None, {"sessions": []})
    hub.close()
    [mine], [all_of_them] = await waiting(one), await waiting(every)
    assert json.loads(mine.data)["fps"] == 1
    assert json.loads(all_of_them.data)["sessions"] == []
    assert hub.id_of(mine) is None
    assert await waiting(listen(hub, "a", history=True)) == []


async def test_a_session_s_end_ends_its_listeners(hub: EventHub) -> None:
    """They get what waits first; those who listen to all go on."""
    one, every = listen(hub, "a"), listen(hub)
    tell(hub, "stopped")
    hub.end_of("a")
    assert states(await waiting(one)) == ["stopped"]
    tell(hub, "b1", session_id="b")
    assert hub.listeners == 1
    hub.close()
    assert states(await waiting(every)) == ["stopped", "b1"]
    assert await waiting(listen(hub)) == []


async def test_there_is_room_for_so_many(hub: EventHub) -> None:
    """And for another when one has gone, who may go twice."""
    listeners = [listen(hub) for _ in range(MOST_LISTENERS)]
    assert hub.listen() is None
    hub.leave(listeners[0])
    hub.leave(listeners[0], too_slow=True)
    assert hub.listeners_too_slow == 0
    assert hub.listen() is not None
