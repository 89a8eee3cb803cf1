"""All channels of a server: made, found, deleted, swept, announced, and kept within memory."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from relay.trickle.channel import Channel
from relay.trickle.channel_url import redact_name
from relay.trickle.protocol import CHANGES_CHANNEL, DEFAULT_CONTENT_TYPE
from relay.trickle.segment_buffer import SegmentBuffer
from relay.trickle.server_options import ServerOptions

log = structlog.get_logger(__name__)


class TooManyChannels(Exception):
    """The server holds as many channels as it may."""


class ChannelRegistry:
    """The channels by name.

    Args:
        options: limits and times.
        clock: seconds, monotonic.
    """

    def __init__(self, options: ServerOptions, clock: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self.bytes_held = 0
        self.readers_total = 0
        self._options = options
        self._clock = clock
        self._channels: dict[str, Channel] = {}
        self._tombstones: dict[str, tuple[float, int]] = {}
        self._evicted: dict[SegmentBuffer, None] = {}

    def open(self) -> None:
        """Begin the changefeed, if there is to be one. Must run inside the event loop."""
        if self._options.changefeed:
            self.create(CHANGES_CHANNEL, "application/json")

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def names(self) -> list[str]:
        return list(self._channels)

    def get(self, name: str) -> Channel | None:
        return self._channels.get(name)

    def create(self, name: str, content_type: str) -> Channel:
        """The channel of this name, made if there is none; its type stays what it was.

        Raises:
            TooManyChannels: there are `max_channels` already.
        """
        if (channel := self._channels.get(name)) is not None:
            return channel
        if len(self._channels) >= self._options.max_channels:
            raise TooManyChannels(name)
        channel = Channel(
            name,
            _safe_content_type(content_type),
            window_segments=self._options.window_segments,
            window_s=self._options.window_s,
            resume_grace_s=self._options.resume_grace_s,
            max_segment_bytes=self._options.max_segment_bytes,
            counts=self.counts,
            account=self._account,
            on_evicted=self._note_evicted,
            clock=self._clock,
        )
        self._tombstones.pop(name, None)
        self._channels[name] = channel
        self.counts["channels_created"] += 1
        log.info(
            "trickle.server.channel_created",
            channel=redact_name(name),
            content_type=channel.content_type,
        )
        self._announce("added", name)
        return channel

    def delete(self, name: str, reason: str) -> bool:
        """Close a channel; late requests find a tombstone. False if there is none."""
        channel = self._channels.pop(name, None)
        if channel is None:
            return False
        self._bury(name, channel.edge)
        channel.close()
        log.info("trickle.server.channel_closed", channel=redact_name(name), reason=reason)
        self._announce("removed", name)
        return True

    def close_all(self, reason: str) -> None:
        """Delete every channel, the changefeed last."""
        for name in [*(n for n in self._channels if n != CHANGES_CHANNEL), CHANGES_CHANNEL]:
            self.delete(name, reason)

    def is_buried(self, name: str, writing: int | None = None) -> bool:
        """Whether a channel of this name was deleted a moment ago.

        Args:
            writing: the number a POST asks for. One that the old channel had already used
                comes from a publisher that starts anew, and is let through.
        """
        tombstone = self._tombstones.get(name)
        if tombstone is None:
            return False
        until, edge = tombstone
        if self._clock() >= until:
            del self._tombstones[name]
            return False
        return writing is None or not 0 <= writing < edge

    def sweep(self) -> None:
        """Close channels that nothing happened on for the idle timeout."""
        now = self._clock()
        for name, channel in tuple(self._channels.items()):
            channel.expire()
            if channel.waiting_readers and self._options.waiting_readers_keep_alive:
                channel.touch()
            if name != CHANGES_CHANNEL and now - channel.active_at >= self._options.idle_timeout_s:
                self.counts["channels_swept"] += 1
                self.delete(name, "idle")
        for name, (until, _) in tuple(self._tombstones.items()):
            if now >= until:
                del self._tombstones[name]

    @contextmanager
    def reader(self, channel: Channel) -> Iterator[None]:
        """Counts a reader of `channel` while it waits or reads."""
        channel.readers += 1
        self.readers_total += 1
        try:
            yield
        finally:
            channel.readers -= 1
            self.readers_total -= 1

    def segment_left(self, channel: Channel, buffer: SegmentBuffer) -> None:
        """A reader has left `buffer`."""
        channel.release(buffer)
        if not buffer.readers:
            self._evicted.pop(buffer, None)

    # -- memory -----------------------------------------------------------------------------

    def _account(self, change: int) -> bool:
        self.bytes_held += change
        while change > 0 and self.bytes_held > self._options.max_total_bytes:
            if not self._make_room():
                self.bytes_held -= change
                return False
        return True

    def _make_room(self) -> bool:
        """Free something: first what only slow readers hold, then the fullest channel's oldest."""
        if self._evicted:
            buffer = next(iter(self._evicted))
            del self._evicted[buffer]
            buffer.drop_readers()
            # Their handlers leave in their own time; the memory counts as free from here.
            self.bytes_held -= len(buffer)
            buffer.evicted = False
            self.counts["readers_dropped"] += buffer.readers
            return True
        fullest = max(self._channels.values(), key=lambda channel: channel.bytes_held)
        return fullest.evict_oldest()

    def _note_evicted(self, buffer: SegmentBuffer) -> None:
        if buffer.readers:
            self._evicted[buffer] = None

    # -- tombstones and changes -------------------------------------------------------------

    def _bury(self, name: str, edge: int) -> None:
        if len(self._tombstones) >= self._options.max_channels:
            del self._tombstones[next(iter(self._tombstones))]
        self._tombstones[name] = (self._clock() + self._options.tombstone_s, edge)

    def _announce(self, change: str, name: str) -> None:
        """One message for each change. `channels` makes every message a full snapshot."""
        feed = self._channels.get(CHANGES_CHANNEL)
        if feed is None:
            return
        message = {change: [name], "channels": sorted(self._channels)}
        claim = feed.claim(feed.edge)
        claim.append(json.dumps(message).encode())
        claim.finish()


def _safe_content_type(content_type: str) -> str:
    """As it was sent, unless it could not be sent on as a header."""
    usable = content_type.isascii() and content_type.isprintable() and content_type.strip()
    return content_type if usable else DEFAULT_CONTENT_TYPE


async def sweep_regularly(registry: ChannelRegistry, options: ServerOptions) -> None:
    """Sweep for ever, often enough that no channel outlives its timeout by a quarter."""
    interval_s = min(options.idle_timeout_s, options.tombstone_s * 4) / 4
    while True:
        await asyncio.sleep(max(interval_s, 0.01))
        registry.sweep()
