"""A picture of a session for people who look: the newest one, as JPEG, encoded while they look.

Where the pipeline has a picture it shows it here, which costs it an assignment; one that it has
not decoded, with the means to. Nothing is decoded or encoded unless somebody asks; then on a thread
of its own beside the codecs', once for all who ask for the same size within a tenth of a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from relay.codec_executor import CodecExecutor
from relay.media.access_unit import DecodedFrame
from relay.media.jpeg import JpegEncoder

WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
"""Widths that a picture is made in, beside its own: few, so that viewers share them."""
LatePicture = Callable[[], Awaitable[DecodedFrame | None]]
"""Decodes the newest picture there is; None if it can't be."""
OnPicture = Callable[[DecodedFrame | LatePicture], None]
"""Told of each picture, or how to decode it."""
KEPT_S = 0.5
"""A single JPEG may be so old; who wants them live says less."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """An encoded picture."""

    data: bytes
    number: int
    """Which of the pictures shown it is, from 1."""
    width: int
    height: int
    made_at: float


class PicturePreview:
    """The newest picture at one place of a session. Belongs to the event loop.

    Args:
        jpegs: used on the thread beside the codecs' alone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        codecs: CodecExecutor,
        jpegs: JpegEncoder,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = 0
        """Of the newest picture; 0 before the first."""
        self.closed = False
        self.watchers: set[asyncio.Event] = set()
        """Set with each new picture, and at the end."""
        self._codecs = codecs
        self._jpegs = jpegs
        self._clock = clock
        self._picture: DecodedFrame | LatePicture | None = None
        self._made: dict[int, Jpeg] = {}
        self._making: dict[int, asyncio.Lock] = {}

    @property
    def resting(self) -> bool:
        """Whether no JPEGs are made: the relay has too much to do."""
        return self._codecs.beside_rests

    def show(self, picture: DecodedFrame | LatePicture) -> None:
        """The newest picture is this one. Its planes are read later, and never written."""
        if self.closed:
            return
        self._picture = picture
        self.number += 1
        self._wake()

    async def jpeg(self, width: int | None = None, *, max_age_s: float = KEPT_S) -> Jpeg | None:
        """The newest picture, or one that was encoded `max_age_s` ago at the most.

        Args:
            width: in pixels; made as wide as the next of `WIDTHS`, and never wider than it is.

        Returns:
            None before the first picture, after the end, and while it is `resting`.
        """
        if self.resting:
            return None
        picture = await self._newest()
        if picture is None:
            return None
        wide = _width_for(picture.frame.width, width)
        async with self._making.setdefault(wide, asyncio.Lock()):
            made = self._made.get(wide)
            if made is not None and (
                made.number == self.number or self._clock() - made.made_at < max_age_s
            ):
                return made
            picture, number = await self._newest(), self.number
            if picture is None:
                return None
            made_at = self._clock()
            data, height = await self._codecs.run_beside(self._jpegs.encode, picture.frame, wide)
            made = Jpeg(data, number, wide, height, made_at)
            if not self.closed:
                self._made[wide] = made
            return made

    def close(self) -> None:
        """There will be no picture any more. Idempotent."""
        self.closed = True
        self._picture = None
        self._made.clear()
        self._making.clear()
        self._wake()

    async def _newest(self) -> DecodedFrame | None:
        picture = self._picture
        return picture if picture is None or isinstance(picture, DecodedFrame) else await picture()

    def _wake(self) -> None:
        for watcher in self.watchers:
            watcher.set()


def _width_for(own: int, wanted: int | None) -> int:
    if wanted is None:
        return own
    return min([own, *(width for width in WIDTHS if width >= wanted)])
