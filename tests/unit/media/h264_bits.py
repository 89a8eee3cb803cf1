"""H.264 parameter sets and slice headers, written bit by bit from ITU-T H.264, 7.3."""

from __future__ import annotations


class Bits:
    """Writes bit fields and Exp-Golomb codes."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, count: int) -> Bits:
        self.text += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> Bits:
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def done(self) -> bytes:
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def sps(
    *,
    profile: int = 66,
    flags: int = 0xC0,
    frame_mbs_only: int = 1,
    crop: tuple[int, int, int, int] | None = None,
    vui: Bits | None = None,
    poc_type: int = 2,
) -> bytes:
    bits = Bits().u(profile, 8).u(flags, 8).u(31, 8).ue(0)
    if profile == 100:
        bits.ue(1, 0, 0).u(0, 1).u(1, 1)
        bits.u(1, 1)
        bits.text += "".join("010" for _ in range(16))  # a scaling list of se(1) steps
        bits.u(0, 7)
    bits.ue(2, poc_type)  # log2_max_frame_num 6
    if poc_type == 0:
        bits.ue(2)
    bits.ue(1).u(0, 1).ue(39, 21 if frame_mbs_only else 10).u(frame_mbs_only, 1)
    if not frame_mbs_only:
        bits.u(1, 1)
    bits.u(1, 1)
    bits.u(1, 1).ue(*crop) if crop else bits.u(0, 1)
    if vui:
        bits.u(1, 1).text += vui.text
    else:
        bits.u(0, 1)
    return b"\x67" + bits.done()


def slice_of(frame_num: int, *, field: bool, bottom: bool = False, kind: int = 0x41) -> bytes:
    bits = Bits().ue(0, 5, 0).u(frame_num, 6).u(int(field), 1)
    if field:
        bits.u(int(bottom), 1)
    bits.u(0x155, 12)
    return b"\x00\x00\x01" + bytes([kind]) + bits.done()
