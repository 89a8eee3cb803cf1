"""One look a second serves all who listen, and nobody's fault ends it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from relay.observe.event_hub import EventHub, Listener
from relay.observe.watcher import Watcher


class Watched:
    """A session that counts how often it is asked."""

    def __init__(self, session_id: str, *, fails: bool = False) -> None:
        self.session_id = session_id
        self.looks = self.statuses = self.overviews = 0
        self.fails = fails
        self.looked = asyncio.Event()

    def look(self) -> None:
        self.looks += 1
        self.looked.set()
        if self.fails:
            raise ValueError("a fault of ours")

    def status(self) -> dict[str, Any]:
        self.statuses += 1
        return {"session_id": self.session_id}

    def overview(self) -> dict[str, Any]:
        self.overviews += 1
        return {"session_id": self.session_id}


def watcher(hub: EventHub, *sessions: Watched) -> Watcher:
    return Watcher(hub, lambda: sessions, lambda: {"sessions": len(sessions)}, interval_s=0.01)


async def looked(session: Watched, times: int = 1) -> None:
    async with asyncio.timeout(5.0):
        for _ in range(times):
            session.looked.clear()
            await session.looked.wait()


async def test_without_listeners_no_status_is_made() -> None:
    """Sessions are looked at, so that what happens is kept; that is all."""
    hub, session = EventHub(), Watched("a")
    watching = watcher(hub, session)
    watching.start()
    await looked(session, 3)
    assert watching.alive
    await watching.aclose()
    await watching.aclose()
    assert not watching.alive
    assert session.statuses == session.overviews == 0


async def test_one_status_serves_all_listeners() -> None:
    """However many there are, each session is asked once a look."""
    hub, session, other = EventHub(), Watched("a"), Watched("b")
    listeners = [hub.listen() for _ in range(5)] + [hub.listen("a") for _ in range(5)]
    watching = watcher(hub, session, other)
    watching.start()
    told = [json.loads((await told_to(listener)).data) for listener in listeners]
    await watching.aclose()
    assert session.overviews == session.looks == session.statuses
    assert other.statuses == 0
    assert told[0]["relay"] == {"sessions": 2}
    assert [entry["session_id"] for entry in told[0]["sessions"]] == ["a", "b"]
    assert told[-1]["session"] == {"session_id": "a"}


async def told_to(listener: Listener | None) -> Any:
    assert listener is not None
    async with asyncio.timeout(5.0):
        return await listener.get()


async def test_one_session_s_fault_hides_no_other() -> None:
    """A look that raises is logged, and the next session is looked at, and the next time too."""
    hub, broken, other = EventHub(), Watched("a", fails=True), Watched("b")
    watching = watcher(hub, broken, other)
    watching.start()
    await looked(other, 3)
    assert watching.alive
    await watching.aclose()
    assert broken.looks >= 2
