"""Addresses of a channel and its segments, and how they may be shown.

A channel's name is often its only protection (the reference deployment has no other), so logs
show a name's beginning and a fingerprint, never all of a long name, and no credentials.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from yarl import URL

from relay.trickle.errors import TrickleError
from relay.trickle.protocol import NEXT_PATH

_SHOWN_CHARACTERS = 6


@dataclass(frozen=True, slots=True)
class ChannelUrl:
    """The URL of one channel, e.g. ``http://127.0.0.1:3389/ai/trickle/camera``."""

    url: str
    """Without a trailing slash or fragment; a query stays and goes with every request."""
    redacted: str = field(init=False, compare=False)
    """Safe to log."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "redacted", redact_url(self.url))

    @classmethod
    def parse(cls, url: str) -> ChannelUrl:
        """Check and normalise.

        Raises:
            TrickleError: not an absolute http or https URL with a channel name.
        """
        try:
            parts = urlsplit(url.strip())
            _ = parts.port
        except ValueError:  # brackets without an address, a port that is no number
            parts = urlsplit("")
        path = parts.path.removesuffix("/")
        name = path.rpartition("/")[2]
        if parts.scheme not in ("http", "https") or not parts.hostname or not name:
            raise TrickleError(
                f"{redact_url(url)!r} is not a trickle channel: give an http:// or https:// URL "
                "that ends in the channel's name, such as http://127.0.0.1:3389/camera",
                code="bad_channel_url",
            )
        return cls(urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")))

    @property
    def channel(self) -> URL:
        return URL(self.url, encoded=True)

    def segment(self, number: int) -> URL:
        return self._below(str(number))

    @property
    def next(self) -> URL:
        return self._below(NEXT_PATH)

    def _below(self, last: str) -> URL:
        path, mark, query = self.url.partition("?")
        return URL(f"{path}/{last}{mark}{query}", encoded=True)


def redact_name(name: str) -> str:
    """A channel name for logs: its beginning, and a fingerprint if that is not all of it."""
    if len(name) <= _SHOWN_CHARACTERS:
        return name
    fingerprint = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{name[:_SHOWN_CHARACTERS]}~{fingerprint}"


def redact_url(url: str) -> str:
    """A URL for logs: no user, password, query or fragment; the last path part as `redact_name`."""
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname or ""
    except ValueError:
        return "(unreadable URL)"
    if ":" in host:
        host = f"[{host}]"
    base, slash, name = parts.path.removesuffix("/").rpartition("/")
    return urlunsplit(
        (parts.scheme, host + port, base + slash + redact_name(unquote(name)), "", "")
    )
