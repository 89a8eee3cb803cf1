"""Trickle: live segments over HTTP. Subscriber, publisher and server, usable without the rest.

The protocol in one paragraph: a channel is a URL; its segments are numbered 0, 1, 2, ... A
publisher POSTs to ``channel/n`` and streams a segment's bytes as they are made; a subscriber
GETs ``channel/n`` and receives them as they come, waiting if the segment has not begun.
docs/protocol.md has the rest, with examples.
"""
