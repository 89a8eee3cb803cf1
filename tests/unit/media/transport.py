"""Transport packets by hand, for what a muxer of good conduct never writes."""

from __future__ import annotations

from collections import defaultdict

from relay.media.access_unit import AccessUnit, ElementaryStream, MediaKind
from relay.media.psi import PAT_PID, build_pat, build_pmt

PMT_PID, VIDEO_PID, AUDIO_PID = 0x1000, 0x100, 0x101
H264 = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B)
AAC = ElementaryStream(MediaKind.AUDIO, "aac", 0x0F)
OPUS = ElementaryStream(MediaKind.AUDIO, "opus", 0x06, bytes.fromhex("05044f7075737f028001"))

SPS_PPS = bytes.fromhex("000000016742c01eda0200ab2d000001") + b"\x68\xce\x3c\x80"
IDR_SLICE = b"\x00\x00\x01\x65\x88\x84"
P_SLICE = b"\x00\x00\x01\x41\x9a\x24"
DELIMITER = b"\x00\x00\x00\x01\x09\xf0"


def idr(size: int = 40, fill: int = 0x55) -> bytes:
    """An access unit that reads as an IDR picture of about `size` bytes."""
    return DELIMITER + SPS_PPS + IDR_SLICE + bytes([fill]) * size


def picture(size: int = 20, fill: int = 0x77) -> bytes:
    """An access unit that reads as a P picture of about `size` bytes."""
    return DELIMITER + P_SLICE + bytes([fill]) * size


def video_unit(
    pts: int, data: bytes, *, keyframe: bool = False, dts: int | None = None
) -> AccessUnit:
    return AccessUnit(H264, data, pts, pts if dts is None else dts, keyframe)


def audio_unit(
    pts: int, data: bytes = b"\xff\xf1audio", stream: ElementaryStream = AAC
) -> AccessUnit:
    return AccessUnit(stream, data, pts, pts, keyframe=True)


def timestamp(prefix: int, ticks: int) -> bytes:
    """A PTS or DTS field, bit by bit from ISO/IEC 13818-1 table 2-21."""
    bits = f"{prefix:04b}{ticks >> 30 & 7:03b}1{ticks >> 15 & 0x7FFF:015b}1{ticks & 0x7FFF:015b}1"
    return int(bits, 2).to_bytes(5, "big")


def pes(
    payload: bytes,
    pts: int | None,
    *,
    bounded: bool = False,
    stream_id: int = 0xE0,
    dts: int | None = None,
) -> bytes:
    """A PES packet."""
    if pts is None:
        flags, times = 0x00, b""
    elif dts is None:
        flags, times = 0x80, timestamp(2, pts)
    else:
        flags, times = 0xC0, timestamp(3, pts) + timestamp(1, dts)
    length = 3 + len(times) + len(payload) if bounded else 0
    head = bytes((0, 0, 1, stream_id, length >> 8, length & 0xFF, 0x80, flags, len(times)))
    return head + times + payload


class PacketWriter:
    """Writes transport packets, keeping the continuity counters."""

    def __init__(self) -> None:
        self.counters: defaultdict[int, int] = defaultdict(int)

    def packet(
        self,
        pid: int,
        payload: bytes,
        *,
        starts: bool = False,
        adaptation: bytes | None = None,
        counter: int | None = None,
        control: int = 0,
    ) -> bytes:
        """One packet. `adaptation` is the field without its length byte; the packet is not padded
        (give an adaptation field that fills it)."""
        if counter is None:
            counter = self.counters[pid]
        self.counters[pid] = (counter + 1) & 15
        field = b"" if adaptation is None else bytes([len(adaptation)]) + adaptation
        head = bytes(
            (
                0x47,
                (0x40 if starts else 0) | pid >> 8,
                pid & 0xFF,
                control | (0x20 if adaptation is not None else 0) | 0x10 | counter,
            )
        )
        packet = head + field + payload
        assert len(packet) == 188, len(packet)
        return packet

    def stuffed(self, pid: int, payload: bytes, **options: object) -> bytes:
        """One packet whose payload leaves room, filled with adaptation field stuffing."""
        spare = 184 - len(payload)
        if spare == 0:
            return self.packet(pid, payload, **options)  # type: ignore[arg-type]
        adaptation = b"" if spare == 1 else b"\x00" + b"\xff" * (spare - 2)
        return self.packet(pid, payload, adaptation=adaptation, **options)  # type: ignore[arg-type]

    def pes(self, pid: int, data: bytes) -> bytes:
        """A PES packet, its last transport packet stuffed if it is not full."""
        pieces = [data[i : i + 184] for i in range(0, len(data), 184)]
        return b"".join(
            self.stuffed(pid, piece, starts=index == 0) for index, piece in enumerate(pieces)
        )

    def section(self, pid: int, section: bytes) -> bytes:
        data = b"\x00" + section
        data += b"\xff" * (-len(data) % 184)
        return b"".join(
            self.packet(pid, data[i : i + 184], starts=i == 0) for i in range(0, len(data), 184)
        )

    def tables(
        self,
        *streams: tuple[int, ElementaryStream],
        version: int = 0,
        program: int = 1,
        pmt_pid: int = PMT_PID,
    ) -> bytes:
        """PAT and PMT of one programme."""
        pat = build_pat(1, {program: pmt_pid}, version)
        pmt = build_pmt(program, streams[0][0] if streams else 0x1FFF, streams, version)
        return self.section(PAT_PID, pat) + self.section(pmt_pid, pmt)
