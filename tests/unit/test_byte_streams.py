"""Recordings: what is written to a file never holds up the event loop."""

from __future__ import annotations

import io
import threading

from relay.trickle.byte_streams import ByteSink


class Disk(io.BytesIO):
    """Knows in which thread it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.written_in: list[threading.Thread] = []

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.written_in.append(threading.current_thread())
        return super().write(data)


async def test_a_file_is_written_in_a_thread_and_in_order() -> None:
    """A disk may take seconds."""
    disk = Disk()
    sink = ByteSink(disk, None)
    for part in (b"one ", b"two ", b"three"):
        await sink.write(part)
    assert disk.getvalue() == b"one two three"
    assert threading.main_thread() not in disk.written_in
