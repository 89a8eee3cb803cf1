"""Recognises segments that a server serves again after its publisher began anew.

The reference server keeps a segment under its number until that place is needed. When a
publisher starts over at 0 without a reset, the old segment of a number may therefore still be
served as the new one. Numbers can't tell them apart; their first bytes can: a segment of video
holds its timestamps there.
"""

from __future__ import annotations

HEAD_BYTES = 1024
_REMEMBERED = 16


class ReplayGuard:
    """The beginnings of the last delivered segments, by number. No I/O."""

    def __init__(self) -> None:
        self._heads: dict[int, bytearray] = {}
        self._suspects: dict[int, bytes] = {}

    def begin(self, seq: int) -> None:
        """Segment `seq` is about to be delivered."""
        self._suspects.pop(seq, None)
        self._heads.pop(seq, None)
        self._heads[seq] = bytearray()
        while len(self._heads) > _REMEMBERED:
            del self._heads[next(iter(self._heads))]

    def note(self, seq: int, chunk: bytes) -> None:
        """Bytes of segment `seq`, in order, were delivered."""
        head = self._heads.get(seq)
        if head is not None and len(head) < HEAD_BYTES:
            head += chunk[: HEAD_BYTES - len(head)]

    def restarted(self) -> None:
        """The channel began anew: what was delivered so far may come again."""
        self._suspects = {seq: bytes(head) for seq, head in self._heads.items() if head}

    def suspects(self, seq: int) -> bool:
        """Whether a segment of this number has to be looked at before it is delivered."""
        return seq in self._suspects

    def is_replay(self, seq: int, head: bytes) -> bool:
        """Whether a segment that begins with `head` is the old one of its number.

        Args:
            head: its first `HEAD_BYTES`, or all of it if it is shorter.
        """
        return self._suspects.get(seq) == head

    def is_known(self, head: bytes) -> bool:
        """Whether any of the last delivered segments began with `head`."""
        return any(head == known for known in self._heads.values())
