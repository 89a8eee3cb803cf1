"""Our clients with short times, for tests that wait for a limit to pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relay.trickle.protocol import StartPosition
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import PublisherOptions
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

SUBSCRIBER = SubscriberOptions(retry_budget_s=10.0, header_timeout_s=0.1, body_stall_s=0.15)
PUBLISHER = PublisherOptions(retry_budget_s=10.0, write_stall_s=5.0, close_timeout_s=5.0)


def subscriber(
    url: str, *, start: StartPosition | int = StartPosition.CURRENT, **options: Any
) -> TrickleSubscriber:
    """A subscriber that looks after its requests ten times a second."""
    return TrickleSubscriber(url, start=start, options=replace(SUBSCRIBER, **options))


def publisher(url: str, *, content_type: str = "video/MP2T", **options: Any) -> TricklePublisher:
    """A publisher with deadlines that a test can wait for."""
    return TricklePublisher(url, content_type=content_type, options=replace(PUBLISHER, **options))


async def read_all(source: TrickleSubscriber) -> list[tuple[int, bytes]]:
    """Every segment until the channel ends."""
    return [(segment.seq, await segment.read()) async for segment in source]
