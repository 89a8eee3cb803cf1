"""One writer's bytes, seen by many readers, each at its own place."""

from __future__ import annotations

import asyncio

import pytest

from relay.trickle.segment_buffer import READ_BYTES, ReadersDropped, SegmentBuffer, SegmentReader


async def read_all(reader: SegmentReader) -> bytes:
    parts = []
    while data := await reader.read():
        assert len(data) <= READ_BYTES
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 32 << 10, (32 << 10) + 1, 64 << 10, (64 << 10) + 1, 200_000])
async def test_a_late_reader_gets_the_segment_from_its_first_byte(size: int) -> None:
    """Replay crosses every boundary of what one read returns."""
    payload = bytes(i * 7 % 251 for i in range(size))
    buffer = SegmentBuffer(0, now=0.0)
    for start in range(0, size, 1000):
        buffer.append(payload[start : start + 1000])
    buffer.close(1.0)
    assert await read_all(SegmentReader(buffer)) == payload


async def test_a_cursor_survives_the_growth_of_what_it_points_into() -> None:
    """A reader in the middle goes on at its byte, however much was added meanwhile."""
    buffer = SegmentBuffer(0, now=0.0)
    buffer.append(b"a" * 100)
    reader = SegmentReader(buffer)
    assert await reader.read() == b"a" * 100
    for _ in range(50):
        buffer.append(b"b" * 65_536)
    buffer.close(1.0)
    assert await read_all(reader) == b"b" * (50 * 65_536)


async def test_waiting_readers_are_woken_by_the_append_and_by_the_end() -> None:
    """All of them get the bytes; after close they end."""
    buffer = SegmentBuffer(0, now=0.0)
    readers = [asyncio.create_task(read_all(SegmentReader(buffer))) for _ in range(3)]
    await asyncio.sleep(0)
    buffer.append(b"one")
    await asyncio.sleep(0)
    buffer.append(b"two")
    buffer.close(1.0)
    assert await asyncio.gather(*readers) == [b"onetwo"] * 3


async def test_a_reader_that_keeps_up_shares_the_writers_bytes() -> None:
    """The live path copies nothing for each reader."""
    buffer = SegmentBuffer(0, now=0.0)
    first, second = SegmentReader(buffer), SegmentReader(buffer)
    data = b"x" * 4096
    buffer.append(data)
    assert await first.read() is data
    assert await second.read() is data


async def test_cancelled_readers_leave_nothing_behind() -> None:
    """A segment that nobody writes to does not collect those who gave up waiting."""
    buffer = SegmentBuffer(0, now=0.0)
    for _ in range(20):
        task = asyncio.create_task(SegmentReader(buffer).read())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    assert not buffer._waiters


async def test_dropped_readers_fail_instead_of_ending() -> None:
    """A short read must not look like the segment's end."""
    buffer = SegmentBuffer(0, now=0.0)
    buffer.append(b"x")
    reader = SegmentReader(buffer)
    buffer.drop_readers()
    with pytest.raises(ReadersDropped):
        await reader.read()


async def test_a_closed_segment_takes_no_bytes() -> None:
    """Closing twice keeps the first closing."""
    buffer = SegmentBuffer(3, now=0.0)
    buffer.close(1.0, truncated=True)
    buffer.close(2.0)
    assert (buffer.closed_at, buffer.truncated) == (1.0, True)
    with pytest.raises(ValueError, match="segment 3 is closed"):
        buffer.append(b"x")
