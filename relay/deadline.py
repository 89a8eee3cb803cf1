"""A time limit for waits that follow one another, with one timer for all of them.

`asyncio.timeout` makes a timer for each wait and cancels it when the wait is over, which is too
much for one that ends with every frame. Here a wait only notes when it is to end; the timer looks
at that when it fires, and goes on if it was put off meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

_EARLY_S = 0.001
"""uvloop counts in whole milliseconds, so a timer may be early by as much."""


class Deadline:
    """The time limit of one task's waits, of which one is under way at a time.

        deadline = Deadline()
        while True:
            with deadline.within(2.0):
                frame = await frames.get()

    What `within` guards raises TimeoutError as it would under `asyncio.timeout`, and a cancel by
    others goes through it in the same way. Belongs to one event loop.
    """

    __slots__ = ("_cancelling", "_due_at", "_expired", "_fires_at", "_limit_s", "_task", "_timer")

    def __init__(self) -> None:
        self._limit_s = math.inf
        self._due_at = math.inf
        """When the wait that is under way is to end; loop time."""
        self._task: asyncio.Task[object] | None = None
        """Who waits."""
        self._cancelling = 0
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf

    def within(self, limit_s: float | None) -> Deadline:
        """To be entered at once, by the task that waits.

        Args:
            limit_s: seconds; None or infinite is without a limit. With 0 or less, what need not
                wait still succeeds.
        """
        self._limit_s = math.inf if limit_s is None else limit_s
        return self

    def close(self) -> None:
        """Let go of the timer, after the last wait; without it, it fires once more, in vain."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires_at = None, math.inf

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None or self._task is not None:
            raise RuntimeError("a deadline is for one wait of a task at a time")
        self._task = task
        self._cancelling = task.cancelling()
        self._due_at = task.get_loop().time() + self._limit_s
        if self._due_at < self._fires_at:
            self._set_timer(task)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if not self._expired:
            return
        self._expired = False
        assert task is not None
        if task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def _set_timer(self, task: asyncio.Task[object]) -> None:
        self.close()
        self._fires_at = self._due_at
        self._timer = task.get_loop().call_at(self._fires_at, self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, math.inf
        task = self._task
        if task is None or math.isinf(self._due_at):
            return
        if self._due_at - task.get_loop().time() > _EARLY_S:
            self._set_timer(task)
        else:
            self._expired = True
            task.cancel()
