"""The test card: colour bars, a moving dot, a clock, a flash, and the frame's number on top.

Drawn straight into yuv420p planes with numpy: a prepared background is copied, and only what
moves is drawn over it, so a 512x512 picture costs well under a millisecond.
"""

from __future__ import annotations

from datetime import datetime

import av
import numpy as np
from numpy.typing import NDArray

from demo import barcode

_BARS_YCBCR = (
    # 75 % colour bars, limited range (ITU-R BT.601): white, yellow, cyan, green, magenta, red, blue
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
)
_DARK, _LIGHT = 32, 220

_GLYPH_ROWS = 7
_GLYPHS = {
    # 5x7 dots, a row each, most significant bit left.
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    ":": (0, 4, 4, 0, 4, 4, 0),
    ".": (0, 0, 0, 0, 0, 12, 12),
    " ": (0, 0, 0, 0, 0, 0, 0),
}


class TestCard:
    """Draws the pictures of one pattern.

    Args:
        width: of the pictures; even.
        height: of the pictures; even.
        plain: only the barcode on grey, the cheapest there is to draw and to encode.
    """

    def __init__(self, width: int, height: int, *, plain: bool = False) -> None:
        self._width = width
        self._height = height
        self._plain = plain
        self._top = barcode.strip_height(height)
        self._background = [
            np.full((height >> shift, width >> shift), barcode.NEUTRAL, np.uint8)
            for shift in (0, 1, 1)
        ]
        if not plain:
            self._draw_bars()
        self._dot = _disc(max(4, height // 12))
        # The clock's 12 characters, 6 dots each, beside the flash; two lines in the floor.
        self._dot_pixels = max(1, min(height // 85, (width - height // 4) // 76))

    def draw(self, number: int, time_s: float, clock: datetime, *, flash: bool) -> av.VideoFrame:
        """The picture of frame `number`.

        Args:
            number: goes into the barcode.
            time_s: media time, which moves the dot: once across in two seconds.
            clock: the wall clock to show.
            flash: draw the white field that goes with the beep.

        Returns:
            A yuv420p frame without pts.
        """
        frame = av.VideoFrame(self._width, self._height, "yuv420p")
        planes = [barcode.luma_view(plane)[:, : plane.width] for plane in frame.planes]
        for plane, background in zip(planes, self._background, strict=True):
            plane[:] = background
        luma = planes[0]
        if not self._plain:
            self._draw_dot(luma, time_s)
            self._draw_flash(luma, flash)
            text = f"{clock:%H:%M:%S}.{clock.microsecond // 1000:03d}"
            self._draw_text(luma, text, row=0)
            self._draw_text(luma, f"{number:12d}", row=1)
        barcode.stamp(luma, number)
        return frame

    def _draw_bars(self) -> None:
        """Bars below the barcode, and a dark floor for the clock."""
        bottom = self._floor_top()
        for plane, shift, component in zip(self._background, (0, 1, 1), range(3), strict=True):
            columns = np.arange(plane.shape[1]) * len(_BARS_YCBCR) // plane.shape[1]
            levels = np.array([bar[component] for bar in _BARS_YCBCR], np.uint8)
            # The strip's chroma stays neutral down to an even line.
            plane[self._top >> shift : bottom >> shift] = levels[columns]
        self._background[0][bottom:] = _DARK

    def _floor_top(self) -> int:
        return self._height * 3 // 4 & ~1

    def _draw_dot(self, luma: NDArray[np.uint8], time_s: float) -> None:
        size = self._dot.shape[0]
        phase = time_s % 4 / 2
        across = phase if phase <= 1 else 2 - phase
        left = round(across * (self._width - size))
        top = self._top + round(
            (self._floor_top() - self._top - size) * (0.5 + 0.4 * np.sin(time_s))
        )
        field = luma[top : top + size, left : left + size]
        field[self._dot[: field.shape[0], : field.shape[1]]] = _LIGHT

    def _draw_flash(self, luma: NDArray[np.uint8], flash: bool) -> None:
        floor = self._floor_top()
        side = (self._height - floor) * 2 // 3
        margin = (self._height - floor - side) // 2
        left = self._width - side - margin
        luma[floor + margin : floor + margin + side, left : left + side] = (
            barcode.WHITE if flash else barcode.BLACK
        )

    def _draw_text(self, luma: NDArray[np.uint8], text: str, row: int) -> None:
        pixels = self._dot_pixels
        top = self._floor_top() + (2 + row * (_GLYPH_ROWS + 2)) * pixels
        mask = _text_dots(text).repeat(pixels, axis=0).repeat(pixels, axis=1)
        field = luma[top : top + mask.shape[0], 2 * pixels : 2 * pixels + mask.shape[1]]
        field[mask[: field.shape[0], : field.shape[1]]] = _LIGHT


def _disc(diameter: int) -> NDArray[np.bool_]:
    axis = np.arange(diameter) - (diameter - 1) / 2
    return axis[:, None] ** 2 + axis**2 <= (diameter / 2) ** 2


def _text_dots(text: str) -> NDArray[np.bool_]:
    """One line of text as dots, shape (7, 6 x characters)."""
    rows = np.array([_GLYPHS[character] for character in text], np.uint8).T
    return (rows[:, :, None] >> np.arange(5, -1, -1) & 1).astype(bool).reshape(_GLYPH_ROWS, -1)
