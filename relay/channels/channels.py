"""A session's channels beside its media: control in, text out.

Each is there if the session was given its address. They start with the session and end with it,
and none of their faults is the session's: they show in its status, under `channels`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from relay.changes.session_change import ChangeResult
from relay.channels.control_channel import ControlChannel
from relay.channels.line_publisher import LinePublisher
from relay.session_config import SessionConfig
from relay.trickle.publisher_options import CreatePolicy


class SessionChannels:
    """Opens, holds and closes the channels.

    Args:
        http: shared; not closed here.
        handle_control: called on the event loop with each control message, in order; returns at
            once.
        on_control_end: called once when the control channel was closed or is gone.
        on_data_end: the same of the data channel.
        wait_for_channel_s: how long a control channel that does not exist yet is waited for.
    """

    def __init__(
        self,
        config: SessionConfig,
        http: aiohttp.ClientSession,
        handle_control: Callable[[dict[str, Any]], Awaitable[None]],
        on_control_end: Callable[[], None],
        on_data_end: Callable[[], None] = lambda: None,
        *,
        wait_for_channel_s: float,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """What became of the control messages: `applied`, `superseded`, `failed`, `bad`."""
        self.last_problem: str | None = None
        """What was wrong with the last message that was not applied."""
        self.control = (
            ControlChannel(
                config.control_url,
                http,
                handle_control,
                self.note_bad,
                on_control_end,
                wait_for_channel_s=0.0 if config.channels_given else wait_for_channel_s,
            )
            if config.control_url
            else None
        )
        create = CreatePolicy.NEVER if config.channels_given else CreatePolicy.IF_MISSING
        self.data = (
            LinePublisher(config.data_url, http, name="data", create=create, on_gone=on_data_end)
            if config.data_url
            else None
        )

    def start(self) -> None:
        """Open what there is; returns at once."""
        for channel in (self.control, self.data):
            if channel is not None:
                channel.start()

    async def aclose(self, *, keep_channels: bool = False) -> None:
        """Read no more, publish what waits, close. Bounded in time, idempotent, never raises.

        Args:
            keep_channels: leave them open: another process goes on with them.
        """
        closing = []
        if self.control is not None:
            closing.append(self.control.aclose())
        if self.data is not None:
            closing.append(self.data.aclose(keep_channel=keep_channels))
        await asyncio.gather(*closing)

    def note_bad(self, problem: str) -> None:
        """A control message could not be understood."""
        self.counts["bad"] += 1
        self.last_problem = problem

    def note_result(self, done: asyncio.Future[ChangeResult]) -> None:
        """What became of the change that a message asked for."""
        error = done.exception()
        if error is None:
            self.counts[done.result().value] += 1
        else:
            self.counts["failed"] += 1
            self.last_problem = str(error)

    def status(self) -> dict[str, Any]:
        """The `channels` object of the session status: None for those that are not there."""
        control = None
        if self.control is not None:
            error = self.control.error
            control = {
                "messages": self.control.messages,
                "applied": self.counts["applied"],
                "superseded": self.counts["superseded"],
                "failed": self.counts["failed"],
                "bad": self.counts["bad"],
                "last_problem": self.last_problem,
                "error": error.message if error else None,
            }
        return {"control": control, "data": self.data.status() if self.data else None}
