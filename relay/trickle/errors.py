"""What can go wrong on a trickle channel, for the one who uses it.

TrickleError
+-- ChannelNotFoundError      there is no such channel, and we may not make it
+-- ChannelClosedError        the channel has ended
+-- SegmentLostError          this segment can't be completed; the next one can
|   +-- StalledError          ... because the server stopped taking bytes
+-- SegmentTooLargeError      more bytes than the caller wanted to hold
+-- RefusedError              credentials, rights, a request the server can't understand
+-- UnavailableError          no useful answer within the time budget
+-- ProtocolError             the server does not follow the protocol
"""

from __future__ import annotations

from relay.errors import TrickleError

__all__ = [
    "TrickleError",
    "ChannelNotFoundError",
    "ChannelClosedError",
    "SegmentLostError",
    "StalledError",
    "SegmentTooLargeError",
    "RefusedError",
    "UnavailableError",
    "ProtocolError",
]


class ChannelNotFoundError(TrickleError):
    """The channel does not exist and the server does not create it for us."""

    code = "channel_not_found"
    http_status = 404


class ChannelClosedError(TrickleError):
    """The channel has ended; what is written now reaches nobody."""

    code = "channel_closed"


class SegmentLostError(TrickleError):
    """A segment can't be completed: part of it was sent and the connection broke, or the
    server ended it. Its readers get a short segment. Go on with the next one."""

    code = "segment_lost"
    retryable = True


class StalledError(SegmentLostError):
    """The server has not taken a byte for longer than the write deadline."""

    code = "channel_stalled"


class SegmentTooLargeError(TrickleError):
    """A segment is larger than the caller wanted to hold in memory."""

    code = "segment_too_large"


class RefusedError(TrickleError):
    """The server won't serve this request, and asking again won't help."""

    code = "channel_refused"


class UnavailableError(TrickleError):
    """The server gave no useful answer within the time budget."""

    code = "channel_unavailable"
    retryable = True


class ProtocolError(TrickleError):
    """The server answers in a way the protocol does not allow and we can't work around."""

    code = "trickle_protocol"
