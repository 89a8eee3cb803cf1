"""The copy of what is published: whole segments for each viewer, and no waiting for any."""

from __future__ import annotations

import pytest

from relay.pipeline import stream_tee
from relay.pipeline.stream_tee import StreamTee
from relay.queues import QueueClosed


async def test_a_viewer_begins_with_a_segment() -> None:
    """What is left of the segment under way has no keyframe in front."""
    tee = StreamTee()
    tee.write(b"a0", starts_segment=True)
    viewer = tee.listen()
    tee.write(b"a1", starts_segment=False)
    tee.write(b"b0", starts_segment=True)
    tee.write(b"b1", starts_segment=False)
    assert await viewer.read() == b"b0b1"


async def test_the_end_comes_after_what_waits() -> None:
    """Nothing that was published is missing at the end."""
    tee = StreamTee()
    viewer = tee.listen()
    tee.write(b"a0", starts_segment=True)
    tee.close()
    assert await viewer.read() == b"a0"
    with pytest.raises(QueueClosed):
        await viewer.read()
    with pytest.raises(QueueClosed):
        tee.listen()


@pytest.mark.parametrize(
    ("limit", "value", "fits"), [("MOST_CHUNKS", 3, 3), ("MOST_BYTES", 1000, 2)]
)
async def test_who_falls_behind_is_let_go_of_alone(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, fits: int
) -> None:
    """By number or by size, counted; the others go on."""
    monkeypatch.setattr(stream_tee, limit, value)
    tee = StreamTee()
    slow, quick = tee.listen(), tee.listen()
    for number in range(fits + 1):
        tee.write(bytes([number]) * 400, starts_segment=not number)
        assert await quick.read() == bytes([number]) * 400
    assert (slow.behind, quick.behind, tee.dropped, len(tee)) == (True, False, 1, 1)
    with pytest.raises(QueueClosed):
        await slow.read()


async def test_who_reads_may_stay_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are of what waits, not of what was sent."""
    monkeypatch.setattr(stream_tee, "MOST_BYTES", 1000)
    tee = StreamTee()
    viewer = tee.listen()
    for _ in range(20):
        tee.write(bytes(400), starts_segment=True)
        tee.write(bytes(400), starts_segment=False)
        assert len(await viewer.read()) == 800
    assert tee.dropped == 0
