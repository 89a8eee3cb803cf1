"""Opus in MPEG-TS: packets are found again after damage."""

from __future__ import annotations

import pytest

from relay.media.opus_ts import control_header, packets


def unit(*sizes: int) -> bytes:
    return b"".join(control_header(size) + bytes((size % 100,)) * size for size in sizes)


def found(data: bytes) -> list[int]:
    return [end - begin for _, begin, end in packets(data)]


@pytest.mark.parametrize("sizes", [(1,), (254, 255, 256), (510, 3, 1275)])
def test_whole_packets(sizes: tuple[int, ...]) -> None:
    """Sizes are in bytes of 255."""
    assert found(unit(*sizes)) == [*sizes]


def test_trims_and_extensions_are_stepped_over() -> None:
    """Each has its flag and its place between size and data."""
    data = b"\x7f\xfc\x05" + b"\0\1" + b"\0\2" + b"\x03abc" + b"12345"
    assert [data[begin:end] for _, begin, end in packets(data)] == [b"12345"]


def test_what_is_not_all_there_waits_for_the_rest() -> None:
    """However much of it there is."""
    data = unit(300, 300)
    for there in range(len(data)):
        assert found(data[:there]) == [300] * (there // (len(data) // 2))


@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        (unit(90, 80)[40:], [80]),  # its beginning is missing
        (unit(90)[:40] + unit(80, 70), [80, 70]),  # its end is
        (unit(90)[:40] + unit(300)[150:] + unit(70), [70]),
        (b"\x7f\xe0\0" + unit(80), [80]),
        (b"\x7f\x7f" + unit(80), [80]),
    ],
)
def test_after_damage_the_next_packet_is_found(damaged: bytes, left: list[int]) -> None:
    """A damaged one costs itself alone."""
    assert found(damaged) == left
