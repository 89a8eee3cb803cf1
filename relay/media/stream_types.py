"""What a PMT entry carries, in FFmpeg's codec names.

A stream type alone says it for the ISO codecs; private ones need a registration descriptor
(ISO/IEC 13818-1, 2.6.8) or a DVB descriptor (ETSI EN 300 468).
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.media.access_unit import ElementaryStream, MediaKind
from relay.media.psi import PmtEntry

UNKNOWN = "unknown"

_VIDEO, _AUDIO, _OTHER = MediaKind.VIDEO, MediaKind.AUDIO, MediaKind.OTHER

_BY_STREAM_TYPE = {
    0x01: (_VIDEO, "mpeg1video"),
    0x02: (_VIDEO, "mpeg2video"),
    0x03: (_AUDIO, "mp2"),  # MPEG-1 audio of any layer; `mpeg_audio_codec` looks closer
    0x04: (_AUDIO, "mp2"),
    0x0F: (_AUDIO, "aac"),
    0x10: (_VIDEO, "mpeg4"),
    0x11: (_AUDIO, "aac_latm"),
    0x1B: (_VIDEO, "h264"),
    0x1C: (_AUDIO, "aac"),
    0x21: (_VIDEO, "jpeg2000"),
    0x24: (_VIDEO, "hevc"),
    0x33: (_VIDEO, "vvc"),
    0x42: (_VIDEO, "cavs"),
    0x81: (_AUDIO, "ac3"),  # ATSC A/53 part 3
    0x87: (_AUDIO, "eac3"),
    0xD1: (_VIDEO, "dirac"),
    0xEA: (_VIDEO, "vc1"),
}

_BLU_RAY_STREAM_TYPES = {
    0x80: (_AUDIO, "pcm_bluray"),
    0x81: (_AUDIO, "ac3"),
    0x82: (_AUDIO, "dts"),
    0x83: (_AUDIO, "truehd"),
    0x84: (_AUDIO, "eac3"),
    0x85: (_AUDIO, "dts"),
    0x86: (_AUDIO, "dts"),
}
"""Meant where the programme is registered as HDMV."""

_BY_REGISTRATION = {
    b"AC-3": (_AUDIO, "ac3"),
    b"AV01": (_VIDEO, "av1"),
    b"BSSD": (_AUDIO, "s302m"),
    b"DTS1": (_AUDIO, "dts"),
    b"DTS2": (_AUDIO, "dts"),
    b"DTS3": (_AUDIO, "dts"),
    b"EAC3": (_AUDIO, "eac3"),
    b"HEVC": (_VIDEO, "hevc"),
    b"Opus": (_AUDIO, "opus"),
    b"VC-1": (_VIDEO, "vc1"),
    b"drac": (_VIDEO, "dirac"),
}

_BY_DVB_DESCRIPTOR = {
    0x56: (_OTHER, "dvb_teletext"),
    0x59: (_OTHER, "dvb_subtitle"),
    0x6A: (_AUDIO, "ac3"),
    0x7A: (_AUDIO, "eac3"),
    0x7B: (_AUDIO, "dts"),
    0x7C: (_AUDIO, "aac"),
}

_REGISTRATION_DESCRIPTOR = 0x05
_PRIVATE_PES = 0x06


def descriptors(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and payload of each descriptor; stops where the lengths don't add up."""
    position = 0
    while position + 2 <= len(data):
        end = position + 2 + data[position + 1]
        if end > len(data):
            return
        yield data[position], data[position + 2 : end]
        position = end


def elementary_stream(entry: PmtEntry, programme_descriptors: bytes = b"") -> ElementaryStream:
    """The stream a PMT entry describes, its stream type and descriptors kept as they came."""
    kind, codec = _identify(entry, programme_descriptors)
    return ElementaryStream(kind, codec, entry.stream_type, entry.descriptors)


def _identify(entry: PmtEntry, programme_descriptors: bytes) -> tuple[MediaKind, str]:
    blu_ray = any(
        tag == _REGISTRATION_DESCRIPTOR and body[:4] == b"HDMV"
        for tag, body in descriptors(programme_descriptors)
    )
    if blu_ray and entry.stream_type in _BLU_RAY_STREAM_TYPES:
        return _BLU_RAY_STREAM_TYPES[entry.stream_type]
    if entry.stream_type in _BY_STREAM_TYPE:
        return _BY_STREAM_TYPE[entry.stream_type]
    for tag, body in descriptors(entry.descriptors):
        if tag == _REGISTRATION_DESCRIPTOR and body[:4] in _BY_REGISTRATION:
            return _BY_REGISTRATION[body[:4]]
    if entry.stream_type == _PRIVATE_PES:
        for tag, _ in descriptors(entry.descriptors):
            if tag in _BY_DVB_DESCRIPTOR:
                return _BY_DVB_DESCRIPTOR[tag]
    return _OTHER, UNKNOWN


def mpeg_audio_codec(payload: bytes) -> str | None:
    """``mp1``, ``mp2`` or ``mp3`` by the first frame header; None if there is none.

    Stream types 3 and 4 mean any layer of MPEG audio (ISO/IEC 11172-3, 2.4.2.3).
    """
    if len(payload) < 2 or payload[0] != 0xFF or payload[1] & 0xE0 != 0xE0:
        return None
    return {3: "mp1", 2: "mp2", 1: "mp3"}.get((payload[1] >> 1) & 3)
