"""What is kept of pictures that were not decoded."""

from __future__ import annotations

import pytest

from relay.media import decode_backlog
from relay.media.access_unit import AccessUnit
from relay.media.decode_backlog import DecodeBacklog
from relay.media.encoder import H264_STREAM


def unit(number: int, data: bytes = b"x", *, idr: bool = False) -> AccessUnit:
    return AccessUnit(H264_STREAM, data, number, number, idr)


def numbers(units: list[AccessUnit]) -> list[int]:
    return [one.pts for one in units]


def test_all_since_the_last_idr_picture_once() -> None:
    """What came before it is not needed; what was taken is not there any more."""
    backlog = DecodeBacklog()
    for number in range(10):
        backlog.pass_by(unit(number, idr=number in (0, 6)))
    assert numbers(backlog.take()) == [6, 7, 8, 9]
    assert backlog.take() == []
    backlog.pass_by(unit(10))
    assert numbers(backlog.take()) == [10]


def test_up_to_one_of_them() -> None:
    """Of this group or the one before, and nothing if it is not there."""
    backlog = DecodeBacklog()
    units = [unit(number, idr=number in (0, 3, 6)) for number in range(10)]
    for one in units:
        backlog.pass_by(one)
    assert len(backlog) == 7
    assert backlog.take_up_to(units[2]) == [], "two groups back"
    assert backlog.take_up_to(unit(4)) == [], "an equal one is another one"
    assert numbers(backlog.take_up_to(units[4])) == [3, 4]
    assert len(backlog) == 5
    assert numbers(backlog.take_up_to(units[5])) == [5]
    assert numbers(backlog.take_up_to(units[7])) == [6, 7]
    assert backlog.take_up_to(units[5]) == []
    assert numbers(backlog.take()) == [8, 9]
    assert len(backlog) == 0


@pytest.mark.parametrize(("most_units", "most_bytes"), [(3, 1000), (1000, 30)])
def test_what_is_too_long_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, most_units: int, most_bytes: int
) -> None:
    """Until the next IDR picture nothing is kept, and whoever decodes is told."""
    monkeypatch.setattr(decode_backlog, "MOST_UNITS", most_units)
    monkeypatch.setattr(decode_backlog, "MOST_BYTES", most_bytes)
    backlog = DecodeBacklog()
    for number in range(6):
        backlog.pass_by(unit(number, b"x" * 10, idr=number == 0))
    assert backlog.lost
    assert backlog.take() == []
    for number in range(6, 9):
        backlog.pass_by(unit(number, b"x" * 10, idr=True))
    assert not backlog.lost
    assert numbers(backlog.take()) == [8]
