"""Reading bit fields and Exp-Golomb codes out of a parameter set or a slice header."""

from __future__ import annotations


class EndOfBits(ValueError):
    """The data ended before the field did."""


class BitReader:
    """Big-endian bit fields of `data`, from its first bit on.

    Emulation prevention bytes must be gone already (see `unescape_rbsp`).
    """

    __slots__ = ("_bits", "_left")

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "big")
        self._left = len(data) * 8

    @property
    def bits_left(self) -> int:
        return self._left

    def u(self, count: int) -> int:
        """An unsigned field of `count` bits; raises EndOfBits."""
        if count > self._left:
            raise EndOfBits(f"wanted {count} bits, {self._left} left")
        self._left -= count
        return (self._bits >> self._left) & ((1 << count) - 1)

    def flag(self) -> bool:
        return self.u(1) == 1

    def ue(self) -> int:
        """An unsigned Exp-Golomb code (ITU-T H.264, 9.1), at most 32 bits of value."""
        zeros = 0
        while self.u(1) == 0:
            zeros += 1
            if zeros > 32:
                raise EndOfBits("an Exp-Golomb code longer than 32 bits")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """A signed Exp-Golomb code (ITU-T H.264, 9.1.1)."""
        code = self.ue()
        return (code + 1) >> 1 if code & 1 else -(code >> 1)


def unescape_rbsp(data: bytes) -> bytes:
    """A NAL unit's payload without its emulation prevention bytes (ITU-T H.264, 7.4.1.1)."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00") if b"\x00\x00\x03" in data else data
