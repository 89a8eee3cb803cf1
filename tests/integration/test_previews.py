"""Pictures for people: real JPEGs, made only when asked for, and once for all who ask."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import av
import numpy as np
import pytest

from demo import barcode
from relay.codec_executor import CodecExecutor
from relay.media.access_unit import DecodedFrame
from relay.media.jpeg import SIZES_KEPT, JpegEncoder
from relay.pipeline.previews import PicturePreview

T = TypeVar("T")


class CountingExecutor(CodecExecutor):
    """Counts what runs beside the codecs."""

    def __init__(self) -> None:
        super().__init__(1)
        self.beside = 0

    async def run_beside(self, call: Callable[..., T], *args: object) -> T:
        self.beside += 1
        return await super().run_beside(call, *args)


@pytest.fixture
async def codecs() -> AsyncIterator[CountingExecutor]:
    executor = CountingExecutor()
    yield executor
    executor.close()


def grey(luma: int, width: int = 512, height: int = 288) -> DecodedFrame:
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    planes[:height] = luma
    return DecodedFrame(av.VideoFrame.from_ndarray(planes, format="yuv420p"), 0)


def opened(jpeg: bytes) -> av.VideoFrame:
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize(("luma", "shown"), [(16, 0), (235, 255), (126, 128)])
def test_black_is_black_and_white_is_white(luma: int, shown: int) -> None:
    """JPEG has the full range (JFIF 1.02), video the limited one."""
    picture = opened(JpegEncoder().encode(grey(luma).frame, 512)[0])
    middle = picture.to_ndarray(format="rgb24")[100, 100]
    assert np.abs(middle.astype(int) - shown).max() <= 2


def test_the_picture_encoded_is_not_touched() -> None:
    """Another encoder may be at work on it."""
    frame = grey(100).frame
    frame.pts = 77
    before = [bytes(plane) for plane in frame.planes]
    JpegEncoder().encode(frame, 320)
    assert (frame.pts, [bytes(plane) for plane in frame.planes]) == (77, before)
    assert frame.format.name == "yuv420p"


def test_an_encoder_is_for_all_sizes() -> None:
    """Sizes that come and go, of pictures and of JPEGs, and a picture each time."""
    encoder = JpegEncoder()
    for source, wanted in [(512, 512), (512, 320), (640, 320), (64, 64)] * (SIZES_KEPT + 1):
        jpeg, height = encoder.encode(grey(50, source, source // 2).frame, wanted)
        picture = opened(jpeg)
        assert (picture.width, picture.height) == (wanted, height) == (wanted, wanted // 2)


@pytest.mark.parametrize(
    ("wanted", "size"),
    [(None, (512, 288)), (1, (160, 90)), (320, (320, 180)), (500, (512, 288)), (4096, (512, 288))],
)
async def test_sizes(codecs: CountingExecutor, wanted: int | None, size: tuple[int, int]) -> None:
    """As wide as the next of a few widths, in shape, and never blown up."""
    preview = PicturePreview(codecs, JpegEncoder())
    preview.show(grey(50))
    jpeg = await preview.jpeg(wanted)
    assert jpeg is not None
    picture = opened(jpeg.data)
    assert (picture.width, picture.height) == (jpeg.width, jpeg.height) == size


async def test_nothing_is_encoded_unless_somebody_looks(codecs: CountingExecutor) -> None:
    """A thousand pictures pass by for nothing; whoever asks gets the newest."""
    preview = PicturePreview(codecs, JpegEncoder())
    assert await preview.jpeg() is None
    for _ in range(1000):
        preview.show(grey(20, 64, 64))
    assert codecs.beside == 0
    preview.show(DecodedFrame(barcode.draw(4711, 512, 512), 0))
    jpeg = await preview.jpeg()
    assert jpeg is not None
    reading = barcode.read(opened(jpeg.data).reformat(format="yuv420p"))
    assert (reading and reading.number, jpeg.number, codecs.beside) == (4711, 1001, 1)


async def test_all_who_ask_share_one(codecs: CountingExecutor) -> None:
    """At the same moment, and within the time it is kept; a new size is a new picture."""
    now = 100.0
    preview = PicturePreview(codecs, JpegEncoder(), clock=lambda: now)
    preview.show(grey(50))
    first = await asyncio.gather(*(preview.jpeg(320) for _ in range(10)))
    assert (codecs.beside, len(set(map(id, first)))) == (1, 1)
    preview.show(grey(60))
    now += 0.4
    assert await preview.jpeg(320) is first[0]
    assert (await preview.jpeg(320, max_age_s=0.1)) is not first[0]
    now += 10
    await preview.jpeg(320)
    assert codecs.beside == 2  # the newest picture is that one still
    await preview.jpeg(160)
    assert codecs.beside == 3


async def test_watchers_are_woken_and_the_end_is_one(codecs: CountingExecutor) -> None:
    """After the end nothing of the picture is left."""
    preview, woken = PicturePreview(codecs, JpegEncoder()), asyncio.Event()
    preview.watchers.add(woken)
    preview.show(grey(50))
    assert woken.is_set()
    woken.clear()
    preview.close()
    preview.show(grey(50))
    assert woken.is_set()
    assert await preview.jpeg() is None


async def test_one_who_goes_does_not_spoil_it_for_others(codecs: CountingExecutor) -> None:
    """A cancelled request leaves the next one its turn."""
    preview = PicturePreview(codecs, JpegEncoder())
    preview.show(grey(50))
    asking: list[asyncio.Task[Any]] = [asyncio.ensure_future(preview.jpeg()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(getattr(result, "data", None) for result in results[1:])


async def test_nothing_is_made_while_previews_rest(codecs: CountingExecutor) -> None:
    """The relay has too much to do: not even for those who ask."""
    preview = PicturePreview(codecs, JpegEncoder())
    preview.show(grey(100))
    codecs.beside_rests = True
    assert preview.resting
    assert await preview.jpeg() is None
    assert codecs.beside == 0
    codecs.beside_rests = False
    assert await preview.jpeg() is not None
