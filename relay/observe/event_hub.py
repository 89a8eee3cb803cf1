"""What happens in the relay, told to whoever listens, as it happens.

Sessions publish; listeners read each from a bounded queue of his own. The last events are kept, so
that one who lost his connection goes on where he was. A listener who does not keep up is let go of
and counted: nothing here ever waits for one.

All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from relay.queues import MediaQueue, QueueClosed

EVENTS_KEPT = 2048
EVENTS_FOR_A_LISTENER = 256
"""Beside those that he missed, and gets first."""
MOST_LISTENERS = 64
_NUMBER = re.compile(r"[0-9]{1,18}")


class EventKind(StrEnum):
    """What can happen."""

    STATE = "state"
    """A session's state changed."""
    HEALTH = "health"
    """Its health did."""
    DIAGNOSIS = "diagnosis"
    """What keeps it from doing better did."""
    FIRST_FRAME = "first_frame"
    """The first frame came in, came back processed, or went out."""
    RECONNECT = "reconnect"
    """A connection to ComfyStream stands again."""
    ERROR = "error"
    """An attempt to connect failed, or something else keeps frames from being processed."""
    DROPS = "drops"
    """Frames are not delivered, more than a few a second."""
    CHANGE = "change"
    """A change of prompts, size or pause was confirmed, refused or replaced by a later one."""
    RELAY = "relay"
    """The relay itself: it takes no more sessions."""
    SHED = "shed"
    """It has too much to do: something is left out, or comes back."""
    MISSED = "missed"
    """There were events before these that are not kept any more."""
    STATUS = "status"
    """How things stand; once a second, and not kept."""
    END = "end"
    """Nothing will follow."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as it is sent.

    Args:
        number: counts up; None for what is not kept.
        data: JSON.
    """

    kind: EventKind
    session_id: str | None
    number: int | None
    data: str


class Listener:
    """One reader's events. Made by `EventHub.listen`."""

    def __init__(self, session_id: str | None, missed: list[Event]) -> None:
        self.session_id = session_id
        self.too_slow = False
        """Whether it was let go of because it did not keep up."""
        capacity = EVENTS_FOR_A_LISTENER + len(missed)
        self._events: MediaQueue[Event] = MediaQueue("events", capacity)
        for event in missed:
            self._events.put_nowait(event)

    async def get(self) -> Event:
        """The next event. A cancelled `get` took nothing.

        Raises:
            QueueClosed: there will be no other.
        """
        return await self._events.get()

    def offer(self, event: Event) -> bool:
        """Append, unless the reader has ended or is too slow; says whether it is not."""
        try:
            kept_up = self._events.put_nowait(event)
        except QueueClosed:
            return True
        if not kept_up:
            self.too_slow = True
            self._events.clear("too_slow")
            self._events.close()
        return kept_up

    def close(self) -> None:
        """Nothing will follow what waits. Idempotent."""
        self._events.close()


class EventHub:
    """Takes events, keeps the last ones, gives them to the listeners.

    Args:
        wall_clock: seconds since 1970.
        run_id: tells the events of this process from those of one before; None makes one.
    """

    def __init__(
        self,
        *,
        kept: int = EVENTS_KEPT,
        wall_clock: Callable[[], float] = time.time,
        run_id: str | None = None,
    ) -> None:
        self.run_id = run_id or uuid.uuid4().hex[:8]
        self.listeners_too_slow = 0
        """Listeners that were let go of."""
        self.joined = asyncio.Event()
        """Set when a listener has come; whoever makes the status clears it."""
        self._wall_clock = wall_clock
        self._kept: deque[Event] = deque(maxlen=kept)
        self._last_number = 0
        self._listeners: set[Listener] = set()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many there are now."""
        return len(self._listeners)

    def publish(self, kind: EventKind, session_id: str | None = None, **data: Any) -> None:
        """Tell the listeners, of all or of this session, and keep it for others."""
        self._last_number += 1
        named = {"session_id": session_id} if session_id is not None else {}
        event = self._event(kind, session_id, self._last_number, named | data)
        self._kept.append(event)
        for listener in tuple(self._listeners):
            if listener.session_id in (None, session_id):
                self._offer(listener, event)

    def wants_status(self, session_id: str | None) -> bool:
        """Whether somebody listens to this session; with None, to all."""
        return any(listener.session_id == session_id for listener in self._listeners)

    def tell_status(self, session_id: str | None, data: dict[str, Any]) -> None:
        """Give a `status` to those who listen to this session; with None, to all."""
        event = self._event(EventKind.STATUS, session_id, None, data)
        for listener in tuple(self._listeners):
            if listener.session_id == session_id:
                self._offer(listener, event)

    def listen(
        self, session_id: str | None = None, *, after: str | None = None, history: bool = False
    ) -> Listener | None:
        """A listener to one session or to all; None if there are too many.

        Args:
            after: the id of the last event that was read; those since then come first.
            history: without one, all that are kept come first.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            return None
        missed = list(self._missed(session_id, after, history))
        listener = Listener(session_id, missed)
        if self._closed:
            listener.close()
        else:
            self._listeners.add(listener)
            self.joined.set()
        return listener

    def leave(self, listener: Listener, *, too_slow: bool = False) -> None:
        """The reader has gone, or has to. Idempotent."""
        if listener in self._listeners:
            self._listeners.discard(listener)
            self.listeners_too_slow += too_slow
        listener.close()

    def end_of(self, session_id: str) -> None:
        """The session has ended: its listeners get what waits, and no more."""
        for listener in tuple(self._listeners):
            if listener.session_id == session_id:
                self.leave(listener)

    def close(self) -> None:
        """Nothing more will happen: all listeners are told. Idempotent."""
        self._closed = True
        for listener in tuple(self._listeners):
            self.leave(listener)

    def id_of(self, event: Event) -> str | None:
        """What a reader who comes again names as the last event he read."""
        return None if event.number is None else f"{self.run_id}-{event.number}"

    def _offer(self, listener: Listener, event: Event) -> None:
        if not listener.offer(event):
            self.leave(listener, too_slow=True)

    def _missed(self, session_id: str | None, after: str | None, history: bool) -> Iterator[Event]:
        if after is None and not history:
            return
        number = self._number_of(after)
        oldest = self._kept[0].number if self._kept else self._last_number + 1
        if number is not None and oldest is not None and number < oldest - 1:
            missed = {"session_id": session_id} if session_id is not None else {}
            yield self._event(EventKind.MISSED, session_id, None, missed)
        for event in self._kept:
            assert event.number is not None
            if session_id in (None, event.session_id) and event.number > (number or 0):
                yield event

    def _number_of(self, event_id: str | None) -> int | None:
        """None for what is no id of this process: all that happened in it is news."""
        run_id, _, number = (event_id or "").partition("-")
        return int(number) if run_id == self.run_id and _NUMBER.fullmatch(number) else None

    def _event(
        self, kind: EventKind, session_id: str | None, number: int | None, data: dict[str, Any]
    ) -> Event:
        told = {"timestamp": round(self._wall_clock() * 1000)} | data
        return Event(kind, session_id, number, json.dumps(told))
