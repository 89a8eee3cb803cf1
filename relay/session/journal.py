"""Which sessions run, on disk: so that the relay's next run knows what a crash cut off.

A session is written down before it begins and struck off when it has ended. What is still there
at the start belongs to a process that was killed, or one that handed its sessions over: the output
channels are open, and their viewers wait. They are closed, or the sessions taken up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, get_type_hints

import aiohttp
import structlog

from relay.errors import RelayError
from relay.journal import Journal
from relay.session_config import SessionConfig, StreamNames
from relay.trickle.channel_url import ChannelUrl
from relay.trickle.http_client import ChannelClient, ConnectionOptions, HttpFailure, describe

log = structlog.get_logger(__name__)

SECTION = "sessions"
CHANGE_DELAY_S = 0.5
CLOSE_OPTIONS = ConnectionOptions(connect_timeout_s=2.0, reply_timeout_s=2.0)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A session that was running when the last process was killed."""

    session_id: str
    config: SessionConfig

    @property
    def channels(self) -> list[str]:
        """What it was publishing."""
        return [url for url in (self.config.output_stream_url, self.config.data_url) if url]


class SessionJournal:
    """The journal's section of sessions."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._entries: dict[str, Any] = journal.read(SECTION)
        self._changed: dict[str, SessionConfig] = {}

    def left_overs(self) -> list[LeftOver]:
        """What is written down and was not written by this process, oldest first. An entry that
        can't be read, of another version perhaps, is struck off."""
        found = []
        for session_id, entry in list(self._entries.items()):
            try:
                found.append(LeftOver(session_id, config_from_plain(entry)))
            except (KeyError, TypeError, ValueError):
                log.warning("journal.session_unreadable", session_id=session_id)
                self.ended(session_id)
        return found

    def began(self, session_id: str, config: SessionConfig) -> None:
        """On the disk shortly (see `written`), if there is a journal."""
        if self._journal.kept:
            self._entries[session_id] = plain_config(config)
            self._journal.write(SECTION, dict(self._entries))

    def changed(self, session_id: str, config: SessionConfig) -> None:
        """If it has changed: written down soon. Changes may come many times a second."""
        if session_id not in self._entries:
            return
        if not self._changed:
            asyncio.get_running_loop().call_later(CHANGE_DELAY_S, self._write_changed)
        self._changed[session_id] = config

    @property
    def kept(self) -> bool:
        """Whether anything is written down."""
        return self._journal.kept

    def flush(self) -> None:
        """Write down now what has changed."""
        self._write_changed()

    async def written(self) -> None:
        """Return when all that is written down is on the disk."""
        await self._journal.written()

    def _write_changed(self) -> None:
        changed, self._changed = self._changed, {}
        before = dict(self._entries)
        for session_id, config in changed.items():
            if session_id in self._entries:
                self._entries[session_id] = plain_config(config)
        if self._entries != before:
            self._journal.write(SECTION, dict(self._entries))

    def ended(self, session_id: str) -> None:
        """Nothing is left of it."""
        if self._entries.pop(session_id, None) is not None:
            self._journal.write(SECTION, dict(self._entries))


async def close_channels(http: aiohttp.ClientSession, urls: Sequence[str]) -> None:
    """DELETE each, so that its viewers see the end. Bounded in time; faults are logged."""

    async def close(url: str) -> None:
        try:
            channel = ChannelUrl.parse(url)
            client = ChannelClient(channel, http, CLOSE_OPTIONS)
            reply = await client.ask("DELETE", channel.channel)
        except HttpFailure as failure:
            log.warning("relay.left_over_open", channel=channel.redacted, reason=describe(failure))
        except RelayError as error:
            log.warning("relay.left_over_open", reason=error.message)
        else:
            log.info("relay.left_over_closed", channel=channel.redacted, status=reply.status)

    await asyncio.gather(*map(close, urls))


def plain_config(config: SessionConfig) -> dict[str, Any]:
    """JSON values."""
    return asdict(config)


def config_from_plain(plain: dict[str, Any]) -> SessionConfig:
    """The reverse.

    Raises:
        KeyError, TypeError, ValueError: it is none, or of a version with other fields.
    """
    hints = get_type_hints(SessionConfig)
    if set(plain) != {field.name for field in fields(SessionConfig)}:
        raise ValueError("other fields")
    values = {name: _from_plain(hints[name], value) for name, value in plain.items()}
    return SessionConfig(**values)


def _from_plain(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    if hint == tuple[str, ...]:
        return tuple(str(part) for part in value)
    if hint == StreamNames | None:
        return StreamNames(**value) if value is not None else None
    if hint is float:
        return float(value)
    expected = getattr(hint, "__origin__", hint)
    if not isinstance(value, expected):
        raise TypeError(f"{value!r} is no {hint}")
    return value
