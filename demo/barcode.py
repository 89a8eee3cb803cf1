"""A frame's number drawn in its picture, so that it can be told again at the far end.

Two rows of black and white cells across the top of the picture, 24 cells a row:

    row 0:  1 0 | number, high 12 bits | checksum, high 8 bits | 0 1
    row 1:  0 1 | number, low 12 bits  | checksum, low 8 bits  | 1 0

The four cells at the ends are the sync pattern. It tells polarity, so a reader knows whether
the picture was inverted on its way, and it differs between the rows, so no column of the strip
is uniform and black bars beside the picture can be found. The checksum is CRC-16/CCITT over the
three bytes of the number. What is read is either right or None (a wrong reading of noise has
the odds of 7 sync bits and 16 checksum bits).

The strip survives scaling, ImageInvert and repeated lossy encoding because a cell is wide (21
pixels at 512) and only its middle is looked at. It does not survive being cut: a session with
`fit: cover` loses it.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
from numpy.typing import NDArray

CELLS_PER_ROW = 24
ROWS = 2
MAX_NUMBER = (1 << 24) - 1
ROW_HEIGHT_FRACTION = 1 / 16
"""Of the picture's height: 32 lines at 512x512, 18 when 1280x720 is fitted into that."""

BLACK, WHITE, NEUTRAL = 16, 235, 128
"""Y'CbCr levels, limited range (ITU-R BT.601)."""
MIN_CONTRAST = 64
"""Between the means of white and black sync cells; drawn: 219."""
BAR_CONTRAST = 24
"""A line whose samples span less than this is taken for a bar beside the picture."""

_SYNC = np.array([[1, 0, 0, 1], [0, 1, 1, 0]], dtype=bool)
_SYNC_CELLS = [0, 1, CELLS_PER_ROW - 2, CELLS_PER_ROW - 1]
_SAMPLES_PER_CELL = 5

Luma = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture says about itself."""

    number: int
    inverted: bool


@dataclass(frozen=True, slots=True)
class Area:
    """Where the picture lies in a frame, in pixels."""

    left: int
    top: int
    width: int
    height: int


def strip_height(height: int) -> int:
    """Lines, even, that the barcode takes at the top of a picture `height` lines high."""
    return 2 * _row_height(height)


def draw(number: int, width: int, height: int) -> av.VideoFrame:
    """A grey yuv420p picture with the barcode of `number`; `width` and `height` even."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        luma_view(plane)[:] = NEUTRAL
    stamp(luma_view(frame.planes[0])[:, :width], number)
    return frame


def stamp(luma: Luma, number: int) -> None:
    """Draw the barcode into a luma plane, shape (height, width), in place.

    The chroma under the strip should be neutral: a colour conversion on the way would otherwise
    move the levels.

    Raises:
        ValueError: `number` is not within 0..MAX_NUMBER.
    """
    height, width = luma.shape
    row_height = _row_height(height)
    levels = np.where(_cells(number), np.uint8(WHITE), np.uint8(BLACK))
    lines = levels[:, _column_cells(width)]
    luma[:row_height] = lines[0]
    luma[row_height : 2 * row_height] = lines[1]


def read(picture: av.VideoFrame | NDArray[np.uint8], area: Area | None = None) -> Reading | None:
    """The number in a picture, or None if there is none to be read.

    Args:
        picture: a frame of any format, or an array, gray (height, width) or RGB (height, width,
            3).
        area: where in it the source picture lies; None looks at the whole frame first and then
            for the centred picture between bars.
    """
    luma = _luma(picture)
    height, width = luma.shape
    if area is not None:
        return _read_area(luma, area)
    reading = _read_area(luma, Area(0, 0, width, height))
    if reading is None:
        found = find_area(luma)
        if found is not None:
            reading = _read_area(luma, found)
    return reading


def find_area(luma: Luma) -> Area | None:
    """Where a picture with a barcode lies between bars of one colour, centred in the frame.

    Returns:
        None if the frame is all one colour.
    """
    height, width = luma.shape
    # 64 samples a line: at least two in every cell that spans the frame.
    top = _first_structured(luma[: height // 2, :: max(1, width // 64)])
    if top is None:
        return None
    strip = luma[top : top + max(2, (height - 2 * top) // 8), : width // 2]
    left = _first_structured(strip.T)
    if left is None:
        return None
    return Area(left, top, width - 2 * left, height - 2 * top)


def luma_view(plane: av.VideoPlane) -> Luma:
    """A video plane as a writable array (height, line size): padding columns included."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]


def _row_height(height: int) -> int:
    return max(2, round(height * ROW_HEIGHT_FRACTION))


def _first_structured(lines: Luma) -> int | None:
    """Index of the first row of `lines` that is not of one level throughout."""
    spans = lines.max(axis=1).astype(np.int16) - lines.min(axis=1)
    structured = np.flatnonzero(spans > BAR_CONTRAST)
    return int(structured[0]) if structured.size else None


def _checksum(number: int) -> int:
    return binascii.crc_hqx(number.to_bytes(3, "big"), 0xFFFF)


def _cells(number: int) -> NDArray[np.bool_]:
    """The strip of `number` as booleans, shape (ROWS, CELLS_PER_ROW), True for white."""
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"a barcode holds 0..{MAX_NUMBER}, not {number}")
    checksum = _checksum(number)
    rows = (
        (number >> 12) << 8 | checksum >> 8,
        (number & 0xFFF) << 8 | checksum & 0xFF,
    )
    cells = np.empty((ROWS, CELLS_PER_ROW), dtype=bool)
    cells[:, _SYNC_CELLS] = _SYNC
    for row, bits in enumerate(rows):
        cells[row, 2:-2] = [bits >> shift & 1 for shift in range(19, -1, -1)]
    return cells


def _number(cells: NDArray[np.bool_]) -> int | None:
    high, low = (int("".join("1" if cell else "0" for cell in row[2:-2]), 2) for row in cells)
    number = (high >> 8) << 12 | low >> 8
    return number if _checksum(number) == (high & 0xFF) << 8 | low & 0xFF else None


def _read_area(luma: Luma, area: Area) -> Reading | None:
    if area.width < 2 * CELLS_PER_ROW or area.height < 32:
        return None
    rows, columns = _sample_points(area)
    samples = luma[rows[:, None], columns]
    means = samples.reshape(ROWS, _SAMPLES_PER_CELL, CELLS_PER_ROW, _SAMPLES_PER_CELL).mean(
        axis=(1, 3)
    )
    sync = means[:, _SYNC_CELLS]
    white, black = sync[_SYNC].mean(), sync[~_SYNC].mean()
    if abs(white - black) < MIN_CONTRAST:
        return None
    cells = means > (white + black) / 2
    inverted = bool(white < black)
    if inverted:
        cells = ~cells
    if not np.array_equal(cells[:, _SYNC_CELLS], _SYNC):
        return None
    number = _number(cells)
    return None if number is None else Reading(number, inverted)


def _luma(picture: av.VideoFrame | NDArray[np.uint8]) -> Luma:
    if isinstance(picture, av.VideoFrame):
        if picture.format.name not in ("yuv420p", "yuvj420p", "nv12", "gray"):
            picture = picture.reformat(format="gray")
        return luma_view(picture.planes[0])[:, : picture.width]
    if picture.ndim == 3:
        return picture[:, :, 1]
    return picture


@lru_cache(maxsize=16)
def _column_cells(width: int) -> NDArray[np.intp]:
    """For each column of a picture, the cell that covers it."""
    return np.arange(width) * CELLS_PER_ROW // width


@lru_cache(maxsize=64)
def _sample_points(area: Area) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns that lie in the middle half of each cell."""
    inside = np.linspace(0.3, 0.7, _SAMPLES_PER_CELL)
    row_height = area.height * ROW_HEIGHT_FRACTION
    cell_width = area.width / CELLS_PER_ROW
    rows = (np.arange(ROWS)[:, None] + inside) * row_height
    columns = (np.arange(CELLS_PER_ROW)[:, None] + inside) * cell_width
    return (
        (area.top + rows.ravel()).astype(np.intp),
        (area.left + columns.ravel()).astype(np.intp),
    )
