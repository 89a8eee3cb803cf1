"""The events channel of a session: how the stream fares, for the gateway that asked for it.

Runs beside the media path and does not depend on it: from the moment the session is made until
after it has ended, also while the server loads and while nothing comes in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from relay.channels.line_publisher import LinePublisher
from relay.channels.stream_events import StreamReporter, StreamView
from relay.tasks import cancel_and_wait
from relay.trickle.publisher_options import CreatePolicy

LOOK_INTERVAL_S = 0.5
"""Health is told from ages, which nobody announces: so often it is looked at."""


class EventsChannel:
    """Publishes what a `StreamReporter` makes of a session.

    Args:
        url: of the channel.
        http: shared; not closed here.
        look: the session as it is now; on the event loop, cheap.
        create: whether the channel is made where there is none.
        on_end: called once when the channel was closed or does not exist.
    """

    def __init__(
        self,
        url: str,
        http: aiohttp.ClientSession,
        reporter: StreamReporter,
        look: Callable[[], StreamView],
        *,
        create: CreatePolicy = CreatePolicy.NEVER,
        on_end: Callable[[], None] = lambda: None,
        look_interval_s: float = LOOK_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.lines = LinePublisher(
            url,
            http,
            name="events",
            content_type="application/json",
            linger_s=0.0,
            keepalive=None,
            lines_a_segment=1,
            create=create,
            on_gone=on_end,
        )
        self._reporter = reporter
        self._look = look
        self._look_interval_s = look_interval_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first events are on their way when this returns."""
        self.lines.start()
        self._report()
        self._task = asyncio.create_task(self._watch(), name="events")

    def note_change(self) -> None:
        """The session's state has changed: what that makes due is sent at once."""
        self._changed.set()

    async def aclose(self, *, keep_channel: bool = False) -> None:
        """Send what is due last, and end. Bounded in time, idempotent, never raises.

        Args:
            keep_channel: leave it open: another process goes on with it.
        """
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])
            self._report()
        await self.lines.aclose(keep_channel=keep_channel)

    def _report(self) -> None:
        now_ms = round(self._wall_clock() * 1000)
        for message in self._reporter.report(self._look(), self._clock(), now_ms):
            self.lines.send(message)

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_interval_s):
                    await self._changed.wait()
            self._changed.clear()
            self._report()
