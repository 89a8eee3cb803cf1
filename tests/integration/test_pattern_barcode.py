"""The barcode in the picture, through the scaling, inverting and encoding a relay does."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from demo import barcode
from demo.barcode import MAX_NUMBER, Area, Reading

SIZE = 512
STEP = 104_729  # a prime, so that all 24 bits change


def reencode(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    """Through x264 at 1 Mbit/s and back."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = frames[0].width, frames[0].height
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 30)
    encoder.framerate = Fraction(30)
    encoder.bit_rate = 1_000_000
    encoder.options = {"preset": "superfast", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    packets = []
    for index, frame in enumerate(frames):
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in packets for frame in decoder.decode(packet)]
    return decoded + list(decoder.decode(None))


def contain(frame: av.VideoFrame) -> np.ndarray:
    """The whole picture centred in SIZE x SIZE between black bars, as RGB."""
    scale = min(SIZE / frame.width, SIZE / frame.height)
    width, height = (int(side * scale) // 2 * 2 for side in (frame.width, frame.height))
    canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    canvas[top : top + height, left : left + width] = frame.reformat(
        width, height, "rgb24"
    ).to_ndarray()
    return canvas


def numbered(width: int, height: int, count: int = 12) -> Iterator[tuple[int, av.VideoFrame]]:
    """Barcodes over noise, which is the hardest thing to encode."""
    noise = np.random.default_rng(7)
    for index in range(count):
        number = index * STEP % MAX_NUMBER
        frame = barcode.draw(number, width, height)
        luma = barcode.luma_view(frame.planes[0])[barcode.strip_height(height) :]
        luma[:] = noise.integers(16, 236, luma.shape)
        yield number, frame


@pytest.mark.parametrize("size", [(512, 512), (1280, 720), (720, 1280), (640, 480)])
@pytest.mark.parametrize("inverted", [False, True])
def test_barcode_survives_the_relays_whole_way(size: tuple[int, int], inverted: bool) -> None:
    """Encoded, fitted into 512x512, inverted and encoded twice more, every number is read."""
    numbers, frames = zip(*numbered(*size), strict=True)
    fitted = []
    for frame in reencode(list(frames)):
        picture = contain(frame)
        if inverted:
            picture = 255 - picture
        fitted.append(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p"))
    readings = [barcode.read(frame) for frame in reencode(reencode(fitted))]
    assert readings == [Reading(number, inverted) for number in numbers]


def test_given_area_is_read_without_searching() -> None:
    """A picture that lies off centre is read where the caller says it lies."""
    canvas = np.full((300, 400), 16, np.uint8)
    barcode.stamp(canvas[100:260, 30:350], 4711)
    assert barcode.read(canvas) is None
    assert barcode.read(canvas, Area(30, 100, 320, 160)) == Reading(4711, False)


@pytest.mark.parametrize("picture_format", ["yuv420p", "rgb24", "nv12", "yuv444p"])
def test_any_pixel_format_is_read(picture_format: str) -> None:
    """A frame in another pixel format reads the same."""
    frame = barcode.draw(123_456, 256, 256).reformat(format=picture_format)
    assert barcode.read(frame) == Reading(123_456, False)


def test_a_damaged_number_is_refused() -> None:
    """Flipping any one cell of the strip gives no reading, rather than a wrong one."""
    clean = np.full((SIZE, SIZE), 128, np.uint8)
    barcode.stamp(clean, 1_000_003)
    height = barcode.strip_height(SIZE) // 2
    for cell in range(barcode.CELLS_PER_ROW * barcode.ROWS):
        row, column = divmod(cell, barcode.CELLS_PER_ROW)
        damaged = clean.copy()
        left, right = (round(side * SIZE / barcode.CELLS_PER_ROW) for side in (column, column + 1))
        field = damaged[row * height : (row + 1) * height, left:right]
        field[:] = 251 - field
        assert barcode.read(damaged) is None


def test_pictures_without_a_barcode_give_none() -> None:
    """Black, grey and noise say nothing, in any size."""
    noise = np.random.default_rng(3)
    for shape in [(64, 64), (512, 512), (288, 512)]:
        assert barcode.read(np.zeros(shape, np.uint8)) is None
        assert barcode.read(np.full(shape, 128, np.uint8)) is None
        assert barcode.read(noise.integers(0, 256, shape, dtype=np.uint8)) is None


def test_numbers_outside_24_bits_are_refused() -> None:
    """A number that does not fit is an error of the caller, not a wrong barcode."""
    for number in (-1, MAX_NUMBER + 1):
        with pytest.raises(ValueError, match="holds"):
            barcode.draw(number, 64, 64)
