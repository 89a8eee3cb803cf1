"""The rules of a channel: numbers, window, claims, waiting, resets, ends. No HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from relay.trickle.channel import (
    Channel,
    ChannelEnded,
    NotInWindow,
    NumberTaken,
    OverLimit,
    Revoked,
)
from relay.trickle.channel_registry import ChannelRegistry, TooManyChannels
from relay.trickle.protocol import CHANGES_CHANNEL
from relay.trickle.segment_buffer import ReadersDropped, SegmentBuffer, SegmentReader
from relay.trickle.server_options import ServerOptions


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_channel(
    clock: Callable[[], float] | None = None,
    account: Callable[[int], bool] = lambda _: True,
    **options: Any,
) -> Channel:
    settings = {
        "window_segments": 5,
        "window_s": None,
        "resume_grace_s": 0.01,
        "max_segment_bytes": 1 << 20,
    }
    return Channel(
        "camera",
        "video/MP2T",
        counts=Counter(),
        account=account,
        on_evicted=lambda _: None,
        clock=clock or Clock(),
        **{**settings, **options},
    )


def write(channel: Channel, *numbers: int) -> None:
    for number in numbers:
        claim = channel.claim(number)
        claim.append(b"%d" % number)
        claim.finish()


async def held(channel: Channel, number: int) -> bytes:
    buffer = await channel.segment(number)
    return buffer.read_at(0)


async def readable(channel: Channel, *numbers: int) -> list[int]:
    found = []
    for number in numbers:
        try:
            await held(channel, number)
        except NotInWindow:
            continue
        found.append(number)
    return found


async def waiting(channel: Channel, number: int) -> asyncio.Task[SegmentBuffer]:
    task = asyncio.create_task(channel.segment(number))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_positions_are_resolved_against_the_edge() -> None:
    """-1 is the edge, -2 the newest begun, or 0 on an empty channel."""
    channel = make_channel()
    assert (channel.resolve_read(-1), channel.resolve_read(-2)) == (0, 0)
    write(channel, 0, 1, 2)
    assert (channel.edge, channel.resolve_read(-1), channel.resolve_read(-2)) == (3, 3, 2)


async def test_the_window_keeps_five_segments_and_who_waits_takes_no_place() -> None:
    """After 0..5, 1..5 are readable; neither a POST without a byte nor a waiting GET, at the
    edge or beyond it, changes that."""
    channel = make_channel()
    write(channel, *range(6))
    channel.claim(6)
    readers = [await waiting(channel, number) for number in (6, 7)]
    assert await readable(channel, *range(6)) == [1, 2, 3, 4, 5]
    channel.close()
    await asyncio.gather(*readers, return_exceptions=True)


async def test_the_window_may_be_limited_in_time_too() -> None:
    """A complete segment that is older than the window is gone, a live one is not."""
    clock = Clock()
    channel = make_channel(clock, window_s=10.0)
    write(channel, 0)
    live = channel.claim(1)
    live.append(b"x")
    clock.now += 11.0
    assert await readable(channel, 0, 1) == [1]


async def test_an_evicted_segment_ends_for_those_who_read_it() -> None:
    """A writer that others have overtaken by the window is refused, its readers end."""
    channel = make_channel()
    slow = channel.claim(0)
    slow.append(b"part")
    reader = SegmentReader(await channel.segment(0))
    write(channel, *range(1, 6))
    assert slow.revoked.result() is Revoked.SEGMENT_CLOSED
    assert [await reader.read(), await reader.read()] == [b"part", b""]


async def test_readers_wait_at_the_edge_and_one_beyond() -> None:
    """One number of grace; two beyond is refused."""
    channel = make_channel()
    write(channel, 0)
    at_edge, beyond = await waiting(channel, 1), await waiting(channel, 2)
    with pytest.raises(NotInWindow):
        await channel.segment(3)
    write(channel, 1, 2)
    assert (await at_edge).read_at(0) == b"1"
    assert (await beyond).read_at(0) == b"2"


async def test_a_reader_waits_for_any_number_that_somebody_has_claimed() -> None:
    """A POST two ahead of the edge makes its number worth waiting for."""
    channel = make_channel()
    claims = [channel.claim(n) for n in range(3)]
    reading = await waiting(channel, 2)
    claims[2].append(b"x")
    assert (await reading).seq == 2


async def test_a_reader_of_a_number_that_was_skipped_is_told() -> None:
    """Nobody will write it any more: waiting on would be for ever."""
    channel = make_channel()
    reading = await waiting(channel, 0)
    write(channel, 5)
    with pytest.raises(NotInWindow):
        await reading
    assert channel.edge == 6


async def test_a_preconnect_keeps_its_number_while_a_later_one_begins() -> None:
    """Overlapping writers may begin out of order."""
    channel = make_channel()
    first, second = channel.claim(0), channel.claim(1)
    reading = await waiting(channel, 0)
    second.append(b"1")
    await asyncio.sleep(0)
    assert not reading.done()
    first.append(b"0")
    assert (await reading).seq == 0
    assert channel.edge == 2


async def test_a_preconnect_that_others_have_passed_does_not_hold_its_readers() -> None:
    """After the grace it is refused and they are told, long before the window has moved on."""
    channel = make_channel()
    idle = channel.claim(0)
    reading = await waiting(channel, 0)
    write(channel, 1)
    with pytest.raises(NotInWindow):
        await reading
    assert idle.revoked.result() is Revoked.SEGMENT_CLOSED


async def test_a_lost_preconnect_that_others_have_passed_lets_its_readers_go() -> None:
    """At once: nobody will begin that number any more."""
    channel = make_channel(resume_grace_s=3600.0)
    vanishing = channel.claim(0)
    reading = await waiting(channel, 0)
    write(channel, 1)
    vanishing.lose()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert isinstance(reading.exception(), NotInWindow)


async def test_a_preconnect_below_the_window_is_refused_and_its_readers_told() -> None:
    """A number that the window has left is not held for a writer that never came."""
    channel = make_channel()
    stale = channel.claim(0)
    reading = await waiting(channel, 0)
    write(channel, *range(1, 8))
    assert stale.revoked.result() is Revoked.SEGMENT_CLOSED
    with pytest.raises(NotInWindow):
        await reading


@pytest.mark.parametrize("state", ["preconnected", "live", "complete", "too_old"])
async def test_one_writer_for_each_number(state: str) -> None:
    """A second one is refused: before the first has a byte, while it writes, after it has
    ended, and when the number is old."""
    channel = make_channel()
    if state == "preconnected":
        channel.claim(0)
    elif state == "live":
        channel.claim(0).append(b"x")
    elif state == "complete":
        write(channel, 0)
    else:
        write(channel, *range(7))
    with pytest.raises(NumberTaken):
        channel.claim(0)


async def test_two_symbolic_claims_get_different_numbers() -> None:
    """-1 is the lowest number nobody has."""
    channel = make_channel()
    write(channel, 0)
    assert [channel.claim(-1).seq, channel.claim(-1).seq, channel.claim(-1).seq] == [1, 2, 3]


async def test_the_edge_never_goes_down() -> None:
    """A late segment inside the window leaves it where it is."""
    channel = make_channel()
    late = channel.claim(3)
    write(channel, 4, 5)
    late.append(b"3")
    assert channel.edge == 6


async def test_a_segment_without_a_byte_advances_the_edge_when_it_ends() -> None:
    """It is readable, empty and complete."""
    channel = make_channel()
    reading = await waiting(channel, 0)
    channel.claim(0).finish()
    buffer = await reading
    assert (len(buffer), buffer.closed, buffer.truncated, channel.edge) == (0, True, False, 1)


async def test_reset_ends_everything_below_and_refuses_its_writers() -> None:
    """Blocked readers are freed; the old bytes stay readable; equal and higher ones stay."""
    channel = make_channel()
    old = channel.claim(0)
    old.append(b"old")
    higher = channel.claim(2)
    reader = SegmentReader(await channel.segment(0))
    assert await reader.read() == b"old"
    ending = asyncio.create_task(reader.read())
    new = channel.claim(1, reset=True)
    assert await ending == b""
    assert old.revoked.result() is Revoked.SEGMENT_CLOSED
    assert not higher.revoked.done()
    old.append(b"late")
    assert await held(channel, 0) == b"old"
    with pytest.raises(NumberTaken):
        channel.claim(0)
    new.append(b"new")
    assert await held(channel, 1) == b"new"


async def test_a_publisher_that_dies_may_come_back_for_its_segment() -> None:
    """Within the grace the same number goes on where it was."""
    channel = make_channel(resume_grace_s=60.0)
    claim = channel.claim(0)
    claim.append(b"one")
    claim.lose()
    again = channel.claim(0)
    again.append(b"two")
    again.finish()
    assert await held(channel, 0) == b"onetwo"
    assert not (await channel.segment(0)).truncated


async def test_a_publisher_that_stays_away_loses_its_segment() -> None:
    """After the grace its readers end, and the segment counts as truncated."""
    channel = make_channel()
    claim = channel.claim(0)
    claim.append(b"one")
    reader = SegmentReader(await channel.segment(0))
    await reader.read()
    claim.lose()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert reader.buffer.truncated
    with pytest.raises(NumberTaken):
        channel.claim(0)


async def test_a_publisher_that_goes_on_has_given_up_its_broken_segment() -> None:
    """The next segment's first byte ends the grace."""
    channel = make_channel(resume_grace_s=60.0)
    claim = channel.claim(0)
    claim.append(b"one")
    claim.lose()
    write(channel, 1)
    assert (await channel.segment(0)).truncated


async def test_a_publisher_that_dies_behind_others_is_not_waited_for() -> None:
    """A later segment has begun long ago: the broken one ends at once."""
    channel = make_channel(resume_grace_s=60.0)
    claim = channel.claim(0)
    claim.append(b"one")
    write(channel, 1)
    claim.lose()
    assert (await channel.segment(0)).truncated


async def test_a_lost_preconnect_frees_its_number_and_its_readers_wait_on() -> None:
    """Nothing was published by it."""
    channel = make_channel()
    channel.claim(0).lose()
    reading = await waiting(channel, 0)
    write(channel, 0)
    assert (await reading).read_at(0) == b"0"


async def test_deleting_the_edge_advances_it() -> None:
    """Its writer is refused; who waited for it gets an empty segment."""
    channel = make_channel()
    claim = channel.claim(0)
    reading = await waiting(channel, 0)
    assert channel.close_segment(0)
    assert claim.revoked.result() is Revoked.SEGMENT_CLOSED
    assert (len(await reading), channel.edge) == (0, 1)
    assert not channel.close_segment(7)


async def test_closing_the_channel_tells_everybody() -> None:
    """Readers end, waiting ones and writers learn that it is over."""
    channel = make_channel()
    live = channel.claim(0)
    live.append(b"x")
    preconnected = channel.claim(1)
    reader = SegmentReader(await channel.segment(0))
    await reader.read()
    pending = await waiting(channel, 1)
    channel.close()
    channel.close()
    assert await reader.read() == b""
    with pytest.raises(ChannelEnded):
        await pending
    assert {live.revoked.result(), preconnected.revoked.result()} == {Revoked.CHANNEL_CLOSED}
    with pytest.raises(ChannelEnded):
        channel.claim(2)
    with pytest.raises(ChannelEnded):
        await channel.segment(0)


async def test_a_segment_has_a_largest_size() -> None:
    """The writer is refused, the readers end after what was taken."""
    channel = make_channel(max_segment_bytes=10)
    claim = channel.claim(0)
    claim.append(b"0123456789")
    with pytest.raises(OverLimit):
        claim.append(b"x")
    assert claim.revoked.result() is Revoked.OVER_LIMIT
    assert (await channel.segment(0)).truncated


def make_registry(clock: Clock, **options: Any) -> ChannelRegistry:
    registry = ChannelRegistry(ServerOptions(**options), clock)
    registry.open()
    return registry


async def test_idle_channels_are_swept_and_busy_ones_are_not() -> None:
    """Any byte is activity, however long its segment lasts; a leading underscore
    saves nobody but the changefeed."""
    clock = Clock()
    registry = make_registry(clock, idle_timeout_s=300.0, changefeed=True)
    busy = registry.create("busy", "video/MP2T").claim(0)
    registry.create("_idle", "video/MP2T")
    for _ in range(4):
        clock.now += 100.0
        busy.append(b"x")
        registry.sweep()
    assert registry.names == [CHANGES_CHANNEL, "busy"]
    assert registry.counts["channels_swept"] == 1


@pytest.mark.parametrize(("counts", "left"), [(False, 0), (True, 1)])
async def test_a_waiting_reader_keeps_a_channel_alive_only_if_told_so(
    counts: bool, left: int
) -> None:
    """By default a channel nobody writes to goes, whoever waits."""
    clock = Clock()
    registry = make_registry(clock, waiting_readers_keep_alive=counts)
    reading = await waiting(registry.create("camera", ""), 0)
    for _ in range(4):
        clock.now += 100.0
        registry.sweep()
    assert len(registry) == left
    reading.cancel()
    await asyncio.wait({reading})


async def test_a_deleted_channel_leaves_a_tombstone_for_a_while() -> None:
    """Late requests see it; a publisher that starts over on a used number is let through."""
    clock = Clock()
    registry = make_registry(clock, tombstone_s=5.0)
    write(registry.create("camera", ""), 0, 1)
    registry.delete("camera", "test")
    assert registry.is_buried("camera")
    assert registry.is_buried("camera", writing=2)
    assert registry.is_buried("camera", writing=-1)
    assert not registry.is_buried("camera", writing=0)
    clock.now += 5.0
    assert not registry.is_buried("camera")


async def test_the_content_type_is_fixed_when_the_channel_is_made() -> None:
    """Making it again changes nothing; none given is octet-stream."""
    registry = make_registry(Clock(), max_channels=2)
    assert registry.create("a", "application/json").content_type == "application/json"
    assert registry.create("a", "video/MP2T").content_type == "application/json"
    assert registry.create("b", "text/\udcff").content_type == "application/octet-stream"
    with pytest.raises(TooManyChannels):
        registry.create("c", "")


async def test_memory_is_bounded_by_dropping_the_oldest_segments() -> None:
    """Over all channels; the newest segment of each stays."""
    registry = make_registry(Clock(), max_total_bytes=1000)
    one, two = registry.create("one", ""), registry.create("two", "")
    for number in range(4):
        for channel in (one, two):
            claim = channel.claim(number)
            claim.append(bytes(200))
            claim.finish()
            assert registry.bytes_held <= 1000
    assert await held(one, 3) == await held(two, 3) == bytes(200)


async def test_a_segment_that_is_dropped_for_memory_in_the_middle_refuses_its_writer() -> None:
    """What it sends from then on is not kept, and does no harm."""
    registry = make_registry(Clock(), max_total_bytes=1000)
    channel = registry.create("camera", "")
    slow, quick = channel.claim(0), channel.claim(1)
    slow.append(bytes(600))
    quick.append(bytes(100))
    quick.append(bytes(500))
    assert slow.revoked.result() is Revoked.SEGMENT_CLOSED
    slow.append(bytes(10))
    assert await readable(channel, 0, 1) == [1]
    assert registry.bytes_held == 600


async def test_bytes_that_no_segment_took_are_not_counted() -> None:
    """Those that came for a segment which had to go to make room for them."""
    registry = make_registry(Clock(), max_total_bytes=1000)
    channel = registry.create("camera", "")
    slow, quick = channel.claim(0), channel.claim(1)
    slow.append(bytes(600))
    quick.append(bytes(100))
    slow.append(bytes(500))
    assert slow.revoked.result() is Revoked.SEGMENT_CLOSED
    assert registry.bytes_held == channel.bytes_held == 100


async def test_the_sweep_frees_what_the_window_has_left_in_time() -> None:
    """Nobody has to read or write a quiet channel for that."""
    clock = Clock()
    registry = make_registry(clock, window_s=10.0)
    write(registry.create("camera", ""), 0, 1)
    clock.now += 11.0
    registry.sweep()
    assert (registry.names, registry.bytes_held) == (["camera"], 0)


async def test_memory_held_by_slow_readers_of_old_segments_is_taken_back_first() -> None:
    """Their segments left the window long ago; those who keep up lose nothing."""
    registry = make_registry(Clock(), max_total_bytes=1300, window_segments=2)
    channel = registry.create("camera", "")
    slow = channel.claim(0)
    slow.append(bytes(300))
    slow.finish()
    reader = SegmentReader(await channel.segment(0))
    for number in range(1, 4):
        claim = channel.claim(number)
        claim.append(bytes(300))
        claim.finish()
    assert registry.bytes_held == 900
    claim = channel.claim(4)
    claim.append(bytes(500))
    assert registry.bytes_held <= 1300
    assert registry.counts["readers_dropped"] == 1
    with pytest.raises(ReadersDropped):
        await reader.read()
    reader.leave()
    registry.segment_left(channel, reader.buffer)
    assert registry.bytes_held == channel.bytes_held
    assert await readable(channel, 3, 4) == [3, 4]


async def test_memory_of_an_old_segment_is_given_back_once() -> None:
    """Its last reader has left long before memory is short."""
    registry = make_registry(Clock(), max_total_bytes=1000, window_segments=1)
    channel = registry.create("camera", "")
    write(channel, 0)
    reader = SegmentReader(await channel.segment(0))
    write(channel, 1)
    assert registry.bytes_held == 2
    reader.leave()
    registry.segment_left(channel, reader.buffer)
    assert registry.bytes_held == 1
    with pytest.raises(OverLimit):
        channel.claim(2).append(bytes(1001))
    assert registry.bytes_held == channel.bytes_held
    assert registry.counts["readers_dropped"] == 0


async def test_a_segment_that_alone_is_too_much_is_refused() -> None:
    """When nothing can be dropped the writer is, and the server goes on."""
    registry = make_registry(Clock(), max_total_bytes=1000)
    channel = registry.create("camera", "")
    claim = channel.claim(0)
    claim.append(bytes(900))
    with pytest.raises(OverLimit):
        claim.append(bytes(200))
    assert registry.bytes_held == 900


async def test_the_changefeed_tells_each_change_and_the_whole_state() -> None:
    """A reader that joins late needs one message to know every channel."""
    registry = make_registry(Clock(), changefeed=True)
    feed = registry.get(CHANGES_CHANNEL)
    assert feed is not None
    registry.create("camera", "")
    registry.delete("camera", "test")
    assert [await held(feed, n) for n in range(3)] == [
        b'{"added": ["_changes"], "channels": ["_changes"]}',
        b'{"added": ["camera"], "channels": ["_changes", "camera"]}',
        b'{"removed": ["camera"], "channels": ["_changes"]}',
    ]
    reading = await waiting(feed, 3)
    registry.create("last", "")
    registry.close_all("test")
    assert (await reading).read_at(0).startswith(b'{"added": ["last"]')
    assert len(registry) == 0


async def test_the_options_of_a_server_reach_its_channels() -> None:
    """Window by count and by time, the size of a segment, and the grace of one that broke off."""
    clock = Clock()
    registry = make_registry(
        clock, window_segments=3, window_s=10.0, max_segment_bytes=5, resume_grace_s=0.0
    )
    channel = registry.create("camera", "")
    write(channel, *range(5))
    assert await readable(channel, *range(5)) == [2, 3, 4]
    clock.now += 11.0
    assert await readable(channel, *range(5)) == []
    claim = channel.claim(5)
    claim.append(b"12345")
    claim.lose()
    async with asyncio.timeout(5):
        reader = SegmentReader(await channel.segment(5))
        assert [await reader.read(), await reader.read()] == [b"12345", b""]
    with pytest.raises(OverLimit):
        channel.claim(6).append(b"123456")


async def test_tombstones_do_not_pile_up() -> None:
    """Names that are made and deleted for ever take no more memory than the channels may."""
    registry = make_registry(Clock(), max_channels=2)
    for number in range(10):
        registry.create(f"camera-{number}", "")
        registry.delete(f"camera-{number}", "test")
    assert [n for n in range(10) if registry.is_buried(f"camera-{n}")] == [8, 9]
