"""What is published, once more for people who have no trickle client: a tee of the output's bytes.

Each viewer gets whole segments from the next one on, so that a player finds PAT, PMT and a
keyframe first. A viewer that does not keep up is let go of: the session never waits for one.
"""

from __future__ import annotations

from relay.queues import MediaQueue, QueueClosed

MOST_CHUNKS = 1024
"""That wait for one viewer: some 12 s of 30 fps video with sound."""
MOST_BYTES = 4 << 20
"""8 s at 4 Mbit/s."""


class StreamViewer:
    """One viewer's share; made by `StreamTee.listen`."""

    def __init__(self) -> None:
        self.behind = False
        """It did not keep up, and gets no more."""
        self._chunks: MediaQueue[bytes] = MediaQueue("viewer", MOST_CHUNKS)
        self._waiting_bytes = 0
        self._begun = False

    async def read(self) -> bytes:
        """All that has come since, at least one chunk.

        Raises:
            QueueClosed: the session has ended, or the viewer is `behind`.
        """
        parts = [await self._chunks.get()]
        if self.behind:
            raise QueueClosed("viewer")
        while self._chunks:
            parts.append(self._chunks.get_nowait())
        self._waiting_bytes = 0
        return b"".join(parts)

    def offer(self, data: bytes, starts_segment: bool) -> bool:
        """Take a chunk; False if there is no room, and then there never will be."""
        self._begun = self._begun or starts_segment
        if not self._begun:
            return True
        if len(self._chunks) >= MOST_CHUNKS or self._waiting_bytes + len(data) > MOST_BYTES:
            self.behind = True
            self.close()
            return False
        self._waiting_bytes += len(data)
        self._chunks.put_nowait(data)
        return True

    def close(self) -> None:
        """What waits is still delivered."""
        self._chunks.close()


class StreamTee:
    """One session's output for its viewers. Belongs to the event loop; nothing here waits."""

    def __init__(self) -> None:
        self.begun = False
        """Something was published."""
        self.dropped = 0
        """Viewers that did not keep up."""
        self._viewers: set[StreamViewer] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def closed(self) -> bool:
        return self._closed

    def write(self, data: bytes, *, starts_segment: bool) -> None:
        """These bytes were published."""
        self.begun = True
        if not self._viewers:
            return
        slow = [viewer for viewer in self._viewers if not viewer.offer(data, starts_segment)]
        for viewer in slow:
            self.dropped += 1
            self._viewers.discard(viewer)

    def listen(self) -> StreamViewer:
        """A viewer, from the next segment on; `leave` when it goes.

        Raises:
            QueueClosed: the session has ended.
        """
        if self._closed:
            raise QueueClosed("viewer")
        viewer = StreamViewer()
        self._viewers.add(viewer)
        return viewer

    def leave(self, viewer: StreamViewer) -> None:
        """The viewer has gone. Idempotent."""
        self._viewers.discard(viewer)

    def close(self) -> None:
        """Nothing more will be published; viewers read what they have. Idempotent."""
        self._closed = True
        for viewer in self._viewers:
            viewer.close()
