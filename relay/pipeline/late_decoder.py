"""Decodes the source's pictures when they come, or later, or not at all."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial

from relay.codec_executor import CodecExecutor
from relay.errors import MediaError
from relay.media.access_unit import AccessUnit, CodedFrame, DecodedFrame
from relay.media.decode_backlog import DecodeBacklog
from relay.media.stream_decoder import TrickleStreamDecoder

KEPT = 8
"""Pictures that were decoded for one who asked, and that another one may ask for, who is behind."""


class LateDecoder:
    """Belongs to the event loop; what is decoded for those who look is so beside the media.

    Args:
        decoder: nobody else decodes with it.
    """

    def __init__(self, decoder: TrickleStreamDecoder, codecs: CodecExecutor) -> None:
        self._decoder = decoder
        self._codecs = codecs
        self._backlog = DecodeBacklog()
        self._kept: OrderedDict[int, DecodedFrame] = OrderedDict()
        """By the number of the access unit."""
        self._turn = asyncio.Lock()
        self.holds = False
        """Whether `flush` may have something to give."""

    async def decode(self, unit: AccessUnit) -> list[DecodedFrame]:
        """The pictures that `unit` completes, fitted.

        Raises:
            MediaError: see `TrickleStreamDecoder.decode`.
        """
        async with self._turn:
            missed = self._backlog.take()
            self.holds = True
            return await self._codecs.run(self._decode_behind, missed, unit)

    def pass_by(self, unit: AccessUnit) -> CodedFrame:
        """`unit` is not decoded, unless somebody asks for its picture."""
        if unit.keyframe and self._kept:
            self._kept.clear()
        self._backlog.pass_by(unit)
        return CodedFrame(unit, partial(self._picture, unit), unit.pts, unit.arrived_at)

    async def flush(self) -> list[DecodedFrame]:
        """The pictures of those given to `decode` that B-frames still hold back; what is decoded
        next is an IDR picture."""
        if not self.holds:
            return []
        async with self._turn:
            self.holds = False
            return await self._codecs.run(self._decoder.flush)

    async def _picture(self, unit: AccessUnit) -> DecodedFrame | None:
        async with self._turn:
            units = self._backlog.take_up_to(unit)
            if units:
                try:
                    frames = await self._codecs.run(self._decode_all, units)
                except MediaError:
                    return None  # the input has ended
                for number, frame in frames:
                    self._kept[number] = frame
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return self._kept.get(unit.number)

    def _decode_behind(self, missed: list[AccessUnit], unit: AccessUnit) -> list[DecodedFrame]:
        self._decode_all(missed)
        return self._decoder.decode(unit)

    def _decode_all(self, units: list[AccessUnit]) -> list[tuple[int, DecodedFrame]]:
        """The last `KEPT` of them with the numbers of their units; runs on a codec thread."""
        if self._backlog.lost:
            self._backlog.lost = False
            self._decoder.reset()
        frames: list[tuple[int, DecodedFrame]] = []
        for unit in units:
            frames += [(unit.number, frame) for frame in self._decoder.decode(unit)]
            del frames[:-KEPT]
        return frames
