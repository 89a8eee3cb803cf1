"""H.264 in RTP packets and out of them (RFC 6184).

Only what every WebRTC peer takes, packetization mode 1: single NAL units, several small ones in
one packet (STAP-A, 5.7.1), and parts of one that is too large (FU-A, 5.8).
"""

from __future__ import annotations

from itertools import pairwise

from relay.media.annexb import START_CODE, nal_positions

STAP_A, FU_A = 24, 28
_NRI_AND_FORBIDDEN = 0xE0
_FIRST, _LAST = 0x80, 0x40


def packetize(data: bytes, most_bytes: int) -> list[bytes]:
    """The payloads of an access unit's packets, in order; the last one gets the marker bit.

    Parts of one NAL unit are of one size, but for the last, which is smaller: what the kernel
    wants of packets that it is handed together (`udp_burst`).

    Args:
        data: Annex B.
        most_bytes: of a payload.
    """
    payloads: list[bytes] = []
    small: list[bytes] = []
    for nal in _nal_units(data):
        if len(nal) <= most_bytes:
            if small and _aggregated_bytes(small) + 2 + len(nal) > most_bytes:
                payloads.append(_aggregate(small))
                small = []
            small.append(nal)
            continue
        if small:
            payloads.append(_aggregate(small))
            small = []
        payloads += _fragment(nal, most_bytes)
    if small:
        payloads.append(_aggregate(small))
    return payloads


def depacketize(payload: bytes) -> bytes:
    """What a payload adds to its access unit, in Annex B: NAL units, or a part of one, where only
    the first has a start code.

    Raises:
        ValueError: it is cut off, or of a kind that mode 1 does not know.
    """
    if len(payload) < 2:
        raise ValueError("an H.264 payload has two bytes at the least")
    header = payload[0]
    kind = header & 0x1F
    if kind == FU_A:
        if not payload[1] & _FIRST:
            return payload[2:]
        nal_header = header & _NRI_AND_FORBIDDEN | payload[1] & 0x1F
        return START_CODE + nal_header.to_bytes() + payload[2:]
    if 0 < kind < STAP_A:
        return START_CODE + payload
    if kind != STAP_A:
        raise ValueError(f"packets of type {kind} are not of packetization mode 1")
    parts: list[bytes] = []
    position = 1
    while position < len(payload):
        start = position + 2
        position = start + int.from_bytes(payload[position:start])
        if start > len(payload) or position > len(payload):
            raise ValueError("a NAL unit of an aggregation packet is cut off")
        parts += START_CODE, payload[start:position]
    return b"".join(parts)


def _nal_units(data: bytes) -> list[bytes]:
    """From their headers on, without start codes; not those of nothing but a header, which no
    picture needs and no payload can be."""
    positions = list(nal_positions(data))
    if not positions:
        return []
    ends = [*(start for start, _ in positions[1:]), len(data)]
    found = [data[header:end] for (_, header), end in zip(positions, ends, strict=True)]
    return [nal for nal in found if len(nal) > 1]


def _aggregated_bytes(nals: list[bytes]) -> int:
    return 1 + sum(2 + len(nal) for nal in nals)


def _aggregate(nals: list[bytes]) -> bytes:
    if len(nals) == 1:
        return nals[0]
    forbidden = max(nal[0] & 0x80 for nal in nals)
    most_important = max(nal[0] & 0x60 for nal in nals)
    parts = [(forbidden | most_important | STAP_A).to_bytes()]
    for nal in nals:
        parts += len(nal).to_bytes(2), nal
    return b"".join(parts)


def _fragment(nal: bytes, most_bytes: int) -> list[bytes]:
    room = most_bytes - 2
    count = -(-(len(nal) - 1) // room)
    size = -(-(len(nal) - 1) // count)
    cuts = [*range(1, len(nal), size), len(nal)]
    indicator, kind = nal[0] & _NRI_AND_FORBIDDEN | FU_A, nal[0] & 0x1F
    head = bytes((indicator, kind))
    parts = [head + nal[start:end] for start, end in pairwise(cuts)]
    parts[0] = bytes((indicator, kind | _FIRST)) + parts[0][2:]
    parts[-1] = bytes((indicator, kind | _LAST)) + parts[-1][2:]
    return parts
