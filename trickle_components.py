"""The trickle and media pieces of the relay, for programs of your own.

    from trickle_components import TrickleSubscriber, TricklePublisher

Names are loaded when they are first used, so that a program that only wants trickle does not
pay for codecs or WebRTC. docs/protocol.md shows how they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.media.segment_encoder import SegmentChunk, TrickleSegmentEncoder
    from relay.media.stream_decoder import TrickleStreamDecoder
    from relay.trickle.errors import (
        ChannelClosedError,
        ChannelNotFoundError,
        ProtocolError,
        RefusedError,
        SegmentLostError,
        SegmentTooLargeError,
        StalledError,
        TrickleError,
        UnavailableError,
    )
    from relay.trickle.http_client import ConnectionOptions, new_session
    from relay.trickle.protocol import EndReason, JumpPolicy, StartPosition
    from relay.trickle.publisher import TricklePublisher
    from relay.trickle.publisher_options import CreatePolicy, PublisherOptions, PublisherStats
    from relay.trickle.segment_writer import SegmentWriter
    from relay.trickle.server import TrickleServer
    from relay.trickle.server_options import (
        ChannelRequest,
        HookRefusal,
        ServerOptions,
        ServerStats,
    )
    from relay.trickle.subscribed_segment import SubscribedSegment
    from relay.trickle.subscriber import TrickleSubscriber
    from relay.trickle.subscriber_options import SubscriberOptions, SubscriberStats

_MODULES: dict[str, tuple[str, ...]] = {
    "relay.trickle.subscriber": ("TrickleSubscriber",),
    "relay.trickle.subscribed_segment": ("SubscribedSegment",),
    "relay.trickle.subscriber_options": ("SubscriberOptions", "SubscriberStats"),
    "relay.trickle.publisher": ("TricklePublisher",),
    "relay.trickle.segment_writer": ("SegmentWriter",),
    "relay.trickle.publisher_options": ("CreatePolicy", "PublisherOptions", "PublisherStats"),
    "relay.trickle.server": ("TrickleServer",),
    "relay.trickle.server_options": (
        "ChannelRequest",
        "HookRefusal",
        "ServerOptions",
        "ServerStats",
    ),
    "relay.trickle.http_client": ("ConnectionOptions", "new_session"),
    "relay.trickle.protocol": ("EndReason", "JumpPolicy", "StartPosition"),
    "relay.media.stream_decoder": ("TrickleStreamDecoder",),
    "relay.media.segment_encoder": ("TrickleSegmentEncoder", "SegmentChunk"),
    "relay.trickle.errors": (
        "TrickleError",
        "ChannelNotFoundError",
        "ChannelClosedError",
        "SegmentLostError",
        "StalledError",
        "SegmentTooLargeError",
        "RefusedError",
        "UnavailableError",
        "ProtocolError",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "TrickleSubscriber",
    "SubscribedSegment",
    "SubscriberOptions",
    "SubscriberStats",
    "TricklePublisher",
    "SegmentWriter",
    "CreatePolicy",
    "PublisherOptions",
    "PublisherStats",
    "TrickleStreamDecoder",
    "TrickleSegmentEncoder",
    "SegmentChunk",
    "TrickleServer",
    "ChannelRequest",
    "HookRefusal",
    "ServerOptions",
    "ServerStats",
    "ConnectionOptions",
    "new_session",
    "EndReason",
    "JumpPolicy",
    "StartPosition",
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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"trickle_components has no {name}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
