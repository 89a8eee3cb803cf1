"""How often each client may ask: a bucket of requests that refills all the time."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

MOST_CLIENTS = 4096
"""Whose buckets are kept; beyond, the one that asked longest ago starts with a full one."""
BURST_S = 2.0
"""A client that was quiet may send as much at once as in this time."""


@dataclass(slots=True)
class _Bucket:
    requests: float
    filled_at: float


class RateLimit:
    """A token bucket for each client.

    Args:
        per_second: requests that flow into each bucket.
    """

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._capacity = max(1.0, per_second * BURST_S)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str, now: float) -> int:
        """Count one request of `client`.

        Args:
            now: seconds of a clock that does not go back.

        Returns:
            0, or the whole seconds after which it would be taken; then it does not count.
        """
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(self._capacity, now)
            if len(self._buckets) > MOST_CLIENTS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(client)
        flown = (now - bucket.filled_at) * self.per_second
        bucket.requests = min(self._capacity, bucket.requests + flown)
        bucket.filled_at = now
        if bucket.requests < 1:
            return max(1, math.ceil((1 - bucket.requests) / self.per_second))
        bucket.requests -= 1
        return 0
