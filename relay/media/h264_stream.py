"""What an H.264 stream needs to be passed on without being decoded. Sections are of ITU-T H.264."""

from __future__ import annotations

from relay.media import h264
from relay.media.access_unit import AccessUnit
from relay.media.annexb import START_CODE


class ParameterSets:
    """The SPS and PPS in force, for IDR pictures that come without their own.

    A player that begins with a segment, and a decoder that begins with a picture, find what they
    need in front of it: a stream may send its sets once, or in access units of their own.
    """

    def __init__(self) -> None:
        self.sps = b""
        """From its NAL header on; empty before the first."""
        self._sets = b""

    def complete(self, unit: AccessUnit) -> bool:
        """Put the sets in front of an IDR picture without them.

        Returns:
            Whether it has them now; False before any were seen.
        """
        own = _parameter_sets(unit.data)
        sps = next((nal for nal in own if nal[0] & 0x1F == h264.NalType.SPS), None)
        if sps is not None and any(nal[0] & 0x1F == h264.NalType.PPS for nal in own):
            self.sps = sps
            self._sets = b"".join(START_CODE + nal for nal in own)
            return True
        if not self._sets:
            return False
        unit.data = self._sets + h264.without_delimiter(unit.data)
        return True


def _parameter_sets(data: bytes) -> list[bytes]:
    """The SPS and PPS in front of the first slice, from their NAL headers on."""
    found = []
    for nal in h264.nal_units(data):
        if nal.type in (h264.NalType.SLICE, h264.NalType.PARTITION_A, h264.NalType.IDR_SLICE):
            break
        if nal.type in (h264.NalType.SPS, h264.NalType.PPS):
            found.append(h264.nal_bytes(data, nal))
    return found
