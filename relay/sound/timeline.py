"""The row of processed sound: every block once, in order, processed if it came back in time.

Each block of the source waits here for what the server makes of it. If the server is away, or
does not answer in time, the source's own sound takes the place: the row never breaks.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace

from relay.media.audio_grid import BLOCK_TICKS, Samples, SoundBlock

FIRST_WAIT_S = 2.0
"""ComfyStream returns processed sound half a second at a time, about 0.6 s late; longer buffers
than its default make it later."""
LONGEST_WAIT_S = 10.0
LATE_MARGIN = 1.25
"""Sound that came too late raises the wait to so many times its delay."""
FORGETTING = 0.999
"""By which each block that came in time shortens a wait that was raised: half in 14 s."""
CAPACITY = 1000
"""Blocks that wait: 20 s."""


@dataclass(slots=True)
class _Waiting:
    block: SoundBlock
    expected: bool
    deadline: float
    sent_at: float
    processed: Samples | None = None


class SoundTimeline:
    """Blocks in, blocks out, in the same order with the same times.

    Args:
        first_wait_s: how long a block waits for its processed sound before anything is known of
            the server's pace.
    """

    def __init__(self, first_wait_s: float = FIRST_WAIT_S) -> None:
        self.wait_s = first_wait_s
        self._first_wait_s = first_wait_s
        self.blocks: Counter[str] = Counter()
        """Blocks out, by where their sound is from: `processed`, `source` or `silence`."""
        self.too_late = 0
        """Processed blocks that came when the source's sound had taken their place."""
        self._waiting: deque[_Waiting] = deque()
        self._by_pts: dict[int, _Waiting] = {}
        self._given_up: deque[tuple[int, float]] = deque(maxlen=CAPACITY)

    def __len__(self) -> int:
        """Blocks that wait."""
        return len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When the first block has waited enough; None if none waits."""
        return self._waiting[0].deadline if self._waiting else None

    def add(self, block: SoundBlock, now: float, *, expected: bool) -> None:
        """Take the next block of the source.

        Args:
            expected: it went to the server, which will answer.
        """
        entry = _Waiting(block, expected, now + self.wait_s if expected else now, now)
        self._waiting.append(entry)
        if expected:
            self._by_pts[block.pts] = entry

    def processed(self, pts: int, samples: Samples, now: float) -> None:
        """What the server made of the block at `pts`, shape (960, 2)."""
        entry = self._by_pts.get(pts)
        if entry is not None:
            entry.processed = samples
            return
        while self._given_up and self._given_up[0][0] < pts - BLOCK_TICKS * CAPACITY:
            self._given_up.popleft()
        for given_up_pts, sent_at in self._given_up:
            if given_up_pts == pts:
                self.too_late += 1
                self.wait_s = min(LONGEST_WAIT_S, max(self.wait_s, LATE_MARGIN * (now - sent_at)))
                break

    def give_up(self, pts: int | None = None) -> None:
        """Don't wait for the block at `pts` any more, or, without one, for none."""
        entries = list(self._waiting) if pts is None else [self._by_pts.get(pts)]
        for entry in entries:
            if entry is not None and entry.expected and entry.processed is None:
                entry.expected = False
                entry.deadline = 0.0
                self._by_pts.pop(entry.block.pts, None)

    def release(self, now: float) -> list[SoundBlock]:
        """The blocks that are ready, up to the first that still waits."""
        ready = []
        while self._waiting:
            entry = self._waiting[0]
            waits = entry.processed is None and entry.expected and now < entry.deadline
            if waits and len(self._waiting) <= CAPACITY:
                break
            self._waiting.popleft()
            if self._by_pts.get(entry.block.pts) is entry:
                del self._by_pts[entry.block.pts]
            if entry.processed is not None:
                self.blocks["processed"] += 1
                self.wait_s = max(self._first_wait_s, self.wait_s * FORGETTING)
                ready.append(replace(entry.block, samples=entry.processed, silent=False))
                continue
            if entry.expected:
                self._given_up.append((entry.block.pts, entry.sent_at))
            self.blocks["silence" if entry.block.silent else "source"] += 1
            ready.append(entry.block)
        return ready
