"""Bounded queues between the stages: capacity, overflow policy, close, counted drops.

The capacities are bounds, not depths: in steady state a queue holds none or one item, and a
growing one is a fault that the status names. Every item that is not delivered is counted under
a reason. All methods belong to the event loop's thread; none of them blocks it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class OverflowPolicy(StrEnum):
    """What happens to an item that arrives at a full queue."""

    WAIT = "wait"
    """The producer waits: back-pressure, nothing is lost."""
    DROP_OLDEST = "drop_oldest"
    """The head makes room: live, the newest wins."""


class QueueClosed(Exception):
    """The queue is closed and, for a reader, also empty."""


class MediaQueue(Generic[T]):
    """A bounded first-in, first-out queue with one or more readers on one event loop.

    Args:
        name: how status, metrics and logs call it, e.g. ``decoded_frames``.
        capacity: the largest number of items held; at least 1.
        policy: what to do when it is full.
    """

    def __init__(
        self, name: str, capacity: int, policy: OverflowPolicy = OverflowPolicy.DROP_OLDEST
    ) -> None:
        if capacity < 1:
            raise ValueError(f"queue {name}: capacity must be at least 1, not {capacity}")
        self.name = name
        self.capacity = capacity
        self.policy = policy
        self.closed = False
        """Whether it takes no more; see `close`."""
        self.dropped: Counter[str] = Counter()
        """Items that were put but never delivered, by reason."""
        self.observer: Callable[[T], None] | None = None
        """Called with each item that is put, before a reader gets it."""
        self._items: deque[T] = deque()
        self._getters: deque[asyncio.Future[None]] = deque()
        self._putters: deque[asyncio.Future[None]] = deque()
        self._waits = policy is OverflowPolicy.WAIT
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    async def wait_closed(self) -> None:
        """Return when the queue takes no more; there may be items left in it."""
        await self._closing.wait()

    def put_nowait(self, item: T) -> bool:
        """Append without waiting.

        Returns:
            True if nothing was lost; False if the oldest item made room, counted as
            ``overflow``.

        Raises:
            QueueClosed: the queue takes no more.
            asyncio.QueueFull: it is full and its policy is to wait; use `put`.
        """
        if self.closed:
            raise QueueClosed(self.name)
        kept_all = True
        if len(self._items) >= self.capacity:
            if self._waits:
                raise asyncio.QueueFull(self.name)
            self._items.popleft()
            self.dropped["overflow"] += 1
            kept_all = False
        self._items.append(item)
        if self.observer is not None:
            self.observer(item)
        if self._getters:
            _wake_next(self._getters)
        return kept_all

    async def put(self, item: T) -> bool:
        """Append, waiting for room if the policy says so. A cancelled `put` appended nothing.

        Returns, raises: as `put_nowait`, without QueueFull.
        """
        while self._waits and len(self._items) >= self.capacity and not self.closed:
            waiter = _park(self._putters)
            try:
                await waiter
            except BaseException:
                _leave(self._putters, waiter)
                raise
        return self.put_nowait(item)

    async def get(self) -> T:
        """The oldest item, waiting for one. A cancelled `get` took nothing.

        Raises:
            QueueClosed: the queue is closed and everything in it was delivered.
        """
        while not self._items:
            if self.closed:
                raise QueueClosed(self.name)
            waiter = _park(self._getters)
            try:
                await waiter
            except BaseException:
                _leave(self._getters, waiter)
                raise
        return self._take()

    def get_nowait(self) -> T:
        """The oldest item.

        Raises:
            asyncio.QueueEmpty: there is none.
            QueueClosed: there is none and there won't be one.
        """
        if self._items:
            return self._take()
        if self.closed:
            raise QueueClosed(self.name)
        raise asyncio.QueueEmpty(self.name)

    def peek(self) -> T | None:
        """The oldest item, left in its place; None if there is none."""
        return self._items[0] if self._items else None

    def ends(self) -> tuple[T, T] | None:
        """The oldest and the newest item, left in their places; None if there is none."""
        return (self._items[0], self._items[-1]) if self._items else None

    def skip_to_newest(self, reason: str) -> int:
        """Throw away all but the last item, counted under `reason`; returns how many."""
        if len(self._items) < 2:
            return 0
        newest = self._items.pop()
        skipped = self.clear(reason)
        self._items.append(newest)
        return skipped

    def skip_to_last(self, wanted: Callable[[T], bool], reason: str) -> int:
        """Throw away what lies before the last item that is `wanted`, counted under `reason`.

        Returns:
            How many items are left; 0 if none is wanted, and all stay.
        """
        for position in range(len(self._items) - 1, -1, -1):
            if wanted(self._items[position]):
                for _ in range(position):
                    self._items.popleft()
                self.dropped[reason] += position
                _wake_all(self._putters)
                return len(self._items)
        return 0

    def clear(self, reason: str) -> int:
        """Throw away what is queued, counted under `reason`; returns how many."""
        count = len(self._items)
        if count:
            self._items.clear()
            self.dropped[reason] += count
            _wake_all(self._putters)
        return count

    def close(self) -> None:
        """Take no more; readers get what is left, then QueueClosed. Idempotent."""
        self.closed = True
        self._closing.set()
        _wake_all(self._getters)
        _wake_all(self._putters)

    def _take(self) -> T:
        item = self._items.popleft()
        if self._putters:
            _wake_next(self._putters)
        return item


def _park(waiters: deque[asyncio.Future[None]]) -> asyncio.Future[None]:
    """What is to be awaited, last in line; see `_leave`."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    return waiter


def _leave(waiters: deque[asyncio.Future[None]], waiter: asyncio.Future[None]) -> None:
    """The wait was cancelled: a wake-up that it won't use belongs to the next in line."""
    if waiter in waiters:
        waiters.remove(waiter)
    elif not waiter.cancelled():
        _wake_next(waiters)


def _wake_next(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


def _wake_all(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        _wake_next(waiters)
