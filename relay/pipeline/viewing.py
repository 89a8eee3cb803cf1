"""What people may see of one session, and how many of them do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from relay.codec_executor import CodecExecutor
from relay.errors import BusyError
from relay.media.jpeg import JpegEncoder
from relay.pipeline.previews import PicturePreview
from relay.pipeline.stream_tee import StreamTee

MOST_VIEWERS = 16
"""Of one session, of pictures and stream together."""


class Viewing:
    """Pictures at both ends, and the output's stream."""

    def __init__(self, codecs: CodecExecutor) -> None:
        jpegs = JpegEncoder()
        self.input = PicturePreview(codecs, jpegs)
        """As decoded from the input, in the session's size."""
        self.output = PicturePreview(codecs, jpegs)
        """As given to the output's encoder."""
        self.stream = StreamTee()
        self.slow_viewers = 0
        """Of pictures, that were let go of because they did not read."""
        self._viewers = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """The session has ended."""
        return self._closed

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Somebody looks meanwhile.

        Raises:
            BusyError: `too_many_viewers`.
        """
        if self._viewers >= MOST_VIEWERS:
            raise BusyError(
                f"{MOST_VIEWERS} look at this session already; ask again when one has gone",
                code="too_many_viewers",
            )
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1

    def close(self) -> None:
        """The session has ended: everybody's view ends. Idempotent."""
        self._closed = True
        self.input.close()
        self.output.close()
        self.stream.close()

    def status(self) -> dict[str, Any]:
        """The `viewers` object of the session status."""
        return {"now": self._viewers, "dropped": self.slow_viewers + self.stream.dropped}
