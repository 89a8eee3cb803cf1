"""Parameter sets in front of every IDR picture."""

from __future__ import annotations

from relay.media.access_unit import AccessUnit
from relay.media.encoder import H264_STREAM
from relay.media.h264_stream import ParameterSets

DELIMITER = b"\x00\x00\x00\x01\x09\xf0"
SPS, OTHER_SPS = b"\x00\x00\x00\x01\x67\x42\xc0\x1f", b"\x00\x00\x00\x01\x67\x42\xc0\x1e"
PPS = b"\x00\x00\x00\x01\x68\xce\x3c\x80"
IDR = b"\x00\x00\x01\x65\x88\x84"


def unit(data: bytes) -> AccessUnit:
    return AccessUnit(H264_STREAM, data, 0, 0, keyframe=True)


def test_own_sets_stay_as_they_are() -> None:
    """Byte for byte, and are the ones in force."""
    sets = ParameterSets()
    whole = unit(DELIMITER + SPS + PPS + IDR)
    assert sets.complete(whole)
    assert whole.data == DELIMITER + SPS + PPS + IDR
    assert sets.sps == SPS[4:]


def test_missing_ones_are_those_that_came_last() -> None:
    """Behind no delimiter twice; with one of two, both are given."""
    sets = ParameterSets()
    assert not sets.complete(unit(IDR)), "none has come"
    assert sets.complete(unit(SPS + PPS + IDR))
    assert sets.complete(unit(OTHER_SPS + PPS + IDR))
    for data in (IDR, DELIMITER + IDR):
        bare = unit(data)
        assert sets.complete(bare)
        assert bare.data == OTHER_SPS + PPS + IDR


def test_sets_behind_the_slice_are_not_in_front_of_it() -> None:
    """They would be another picture's."""
    assert not ParameterSets().complete(unit(IDR + SPS + PPS))
