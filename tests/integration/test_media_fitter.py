"""Pictures brought to the session's size: geometry, colour, time."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from relay.media.access_unit import TIME_BASE
from relay.media.fitter import FrameFitter
from relay.session_config import Fit

RED, BLUE = (200, 40, 30), (30, 60, 210)
BLACK = (0, 0, 0)


def solid(width: int, height: int, *, colour: tuple[int, int, int] = RED) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def picture(pixels: np.ndarray, *, hd: bool = False, full: bool = False) -> av.VideoFrame:
    """A yuv420p frame of RGB pixels, tagged with the matrix and range it is in."""
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuvj420p" if full else "yuv420p",
        dst_colorspace=Colorspace.ITU709 if hd else Colorspace.ITU601,
        dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
    )
    frame.colorspace = Colorspace.ITU709 if hd else Colorspace.ITU601
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    frame.pts, frame.time_base = 12345678901, TIME_BASE
    return frame


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """The pixels as whoever ignores the tags reads them: BT.601, limited range."""
    plain = frame.reformat(format="yuv420p")
    plain.colorspace, plain.color_range = Colorspace.DEFAULT, ColorRange.UNSPECIFIED
    return plain.to_ndarray(format="rgb24").astype(int)


def close(pixel: np.ndarray, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool(np.abs(pixel - np.array(colour)).max() <= tolerance)


def test_a_picture_that_is_right_is_not_touched() -> None:
    """The same object comes back, whatever the fit."""
    frame = picture(solid(512, 512))
    for fit in Fit:
        assert FrameFitter(512, 512, fit).fit(frame) is frame


@pytest.mark.parametrize(
    ("size", "aspect", "box"),
    [
        ((1280, 720), Fraction(1), (0, 112, 512, 288)),
        ((360, 640), Fraction(1), (112, 0, 288, 512)),
        ((320, 240), Fraction(1), (0, 64, 512, 384)),
        ((720, 576), Fraction(16, 11), (0, 115, 512, 282)),
        ((64, 64), Fraction(1), (0, 0, 512, 512)),
        ((1920, 4), Fraction(1), (0, 254, 512, 2)),
    ],
)
def test_contain_shows_all_of_it_between_black_bars(
    size: tuple[int, int], aspect: Fraction, box: tuple[int, int, int, int]
) -> None:
    """In the middle, with the shape it is meant to be seen in."""
    fitted = FrameFitter(512, 512).fit(picture(solid(*size)), aspect)
    assert (fitted.width, fitted.height, fitted.format.name) == (512, 512, "yuv420p")
    x, y, width, height = box
    pixels = rgb(fitted)
    inside = np.zeros((512, 512), bool)
    inside[y : y + height, x : x + width] = True
    red = np.abs(pixels - np.array(RED)).max(axis=2) < 40
    # Chroma is shared by two rows and columns, so an edge may be off by one.
    assert (red != inside).sum() <= 2 * 2 * 512
    assert close(pixels[y + height // 2, 256], RED)
    if y > 4:
        assert close(pixels[0, 256], BLACK)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (360, 640), (100, 1000)])
def test_cover_fills_the_frame_with_the_middle(width: int, height: int) -> None:
    """The sides that hang over are cut, as much on the one as on the other."""
    pixels = solid(width, height, colour=BLUE)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    pixels[top : top + side, left : left + side] = RED
    fitted = rgb(FrameFitter(256, 256, Fit.COVER).fit(picture(pixels)))
    assert fitted.shape == (256, 256, 3)
    assert close(fitted[8:-8, 8:-8].reshape(-1, 3).mean(axis=0), RED)


def test_stretch_fills_the_frame_with_all_of_it() -> None:
    """Left half and right half stay halves."""
    pixels = solid(1280, 720)
    pixels[:, 640:] = BLUE
    fitted = rgb(FrameFitter(512, 512, Fit.STRETCH).fit(picture(pixels)))
    assert close(fitted[10:-10, 10:250].reshape(-1, 3).mean(axis=0), RED)
    assert close(fitted[10:-10, 262:-10].reshape(-1, 3).mean(axis=0), BLUE)


def test_narrow_pixels_are_made_square() -> None:
    """720x480 at 8:9 is 4:3: contained in a square it is 512x384."""
    fitted = rgb(FrameFitter(512, 512).fit(picture(solid(720, 480)), Fraction(8, 9)))
    assert close(fitted[70, 256], RED)
    assert close(fitted[56, 256], BLACK)
    assert close(fitted[256, 2], RED)


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize(
    ("hd", "full"), [(False, False), (True, False), (False, True), (True, True)]
)
@pytest.mark.parametrize("size", [(512, 512), (640, 360)])
def test_colours_are_kept_whatever_matrix_and_range_they_came_in(
    fit: Fit, hd: bool, full: bool, size: tuple[int, int]
) -> None:
    """What comes out is BT.601 in limited range, so that the same colour means the same values."""
    fitted = FrameFitter(512, 512, fit).fit(picture(solid(*size), hd=hd, full=full))
    assert fitted.format.name == "yuv420p"
    assert fitted.color_range in (ColorRange.MPEG, ColorRange.UNSPECIFIED)
    assert close(rgb(fitted)[256, 256], RED)


def test_untagged_pictures_keep_their_values() -> None:
    """Whoever reads them on the way reads them the same."""
    frame = picture(solid(640, 360))
    frame.colorspace, frame.color_range = Colorspace.DEFAULT, ColorRange.UNSPECIFIED
    before = bytes(frame.planes[0])[100], bytes(frame.planes[1])[100], bytes(frame.planes[2])[100]
    fitted = FrameFitter(512, 512).fit(frame)
    after = [plane[0] for plane in (bytes(p)[128 * 512 :] for p in fitted.planes[:1])]
    assert abs(after[0] - before[0]) <= 1


@pytest.mark.parametrize("name", ["rgb24", "gray", "yuv444p", "yuv420p10le", "nv12", "yuva420p"])
def test_other_pixel_formats_are_converted(name: str) -> None:
    """Deep, grey, planar or packed."""
    frame = av.VideoFrame.from_ndarray(solid(320, 240), format="rgb24").reformat(format=name)
    fitted = FrameFitter(512, 512).fit(frame)
    assert (fitted.format.name, fitted.width) == ("yuv420p", 512)


def test_times_come_through_exactly_in_any_order() -> None:
    """Large, negative, repeated, backwards, missing."""
    fitter = FrameFitter(64, 64)
    for pts in (0, 1, 1 << 40, -5, -5, 7, None):
        frame = picture(solid(32, 32))
        frame.pts = pts
        fitted = fitter.fit(frame)
        assert fitted.pts == pts
        assert fitted.time_base == TIME_BASE


def test_a_change_of_shape_is_followed_at_once() -> None:
    """Picture by picture, with no picture lost or late."""
    fitter = FrameFitter(128, 128)
    for colour, size in [(RED, (64, 64)), (BLUE, (320, 180)), (RED, (90, 200)), (BLUE, (64, 64))]:
        fitted = fitter.fit(picture(solid(*size, colour=colour)))
        assert close(rgb(fitted)[64, 64], colour)
        fresh = FrameFitter(128, 128).fit(picture(solid(*size, colour=colour)))
        assert np.array_equal(fitted.to_ndarray(), fresh.to_ndarray())


def test_the_size_asked_for_must_be_even() -> None:
    """Chroma has half the pixels."""
    with pytest.raises(ValueError, match="even"):
        FrameFitter(511, 512)
    with pytest.raises(ValueError, match="even"):
        FrameFitter(512, 0)
