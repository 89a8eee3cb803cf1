"""Stages 2 and 3 in one object: trickle bytes in, pictures of the session's size out."""

from __future__ import annotations

import time
from collections.abc import Callable

from relay.errors import MediaError
from relay.media.access_unit import AccessUnit, DecodedFrame, ElementaryStream, MediaKind
from relay.media.decoder import VideoDecoder
from relay.media.demuxer import TsDemuxer
from relay.media.fitter import FrameFitter
from relay.media.pes import DemuxerStats
from relay.session_config import Fit


class TrickleStreamDecoder:
    """Reads a trickle video channel.

    Either with `feed`, which does everything in one call::

        decoder = TrickleStreamDecoder(512, 512)
        async for segment in subscriber:
            async for data in segment:
                for item in decoder.feed(data):
                    ...  # DecodedFrame, or AccessUnit of audio
            for item in decoder.end_segment():
                ...

    or in two steps, for those who keep codecs off their event loop: `demux` and
    `segment_boundary` are cheap and belong on the loop, `decode` and `flush` take milliseconds and
    belong in a thread, one call at a time.

    Args:
        width, height: even; what every picture is brought to. None for both: pictures are
            left as they are, in size, shape and pixel format.
        fit: contain (bars), cover (crop) or stretch.
        drop_damaged: freeze after a loss until the next keyframe, instead of concealing it.
        clock: seconds, where no `arrived_at` is given.
    """

    def __init__(
        self,
        width: int | None = 512,
        height: int | None = 512,
        fit: Fit = Fit.CONTAIN,
        *,
        drop_damaged: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unfit_pictures = 0
        """Pictures that could not be brought to the size, and were dropped."""
        self._fitter = None
        if width is not None and height is not None:
            self._fitter = FrameFitter(width, height, fit)
        self._drop_damaged = drop_damaged
        self._clock = clock
        self._demuxer = TsDemuxer()
        self._decoder: VideoDecoder | None = None
        self._past_errors = 0
        self._closed = False

    @property
    def stats(self) -> DemuxerStats:
        """What the demuxer saw."""
        return self._demuxer.stats

    @property
    def decode_errors(self) -> int:
        """Access units that no decoder could make anything of."""
        return self._past_errors + (self._decoder.errors if self._decoder is not None else 0)

    @property
    def problem(self) -> str | None:
        """Why no pictures come out, in words, as far as that can be told; None while some do."""
        return self._decoder.problem if self._decoder is not None else None

    @property
    def video(self) -> ElementaryStream | None:
        """The video stream announced just now."""
        return self._demuxer.video

    @property
    def audio(self) -> ElementaryStream | None:
        """The audio stream announced just now."""
        return self._demuxer.audio

    def resize(self, width: int, height: int) -> None:
        """Bring pictures to another size from the next one on. May be called while one is decoded
        in a thread."""
        fit = self._fitter.fit_mode if self._fitter is not None else Fit.CONTAIN
        self._fitter = FrameFitter(width, height, fit)

    def demux(self, data: bytes, arrived_at: float | None = None) -> list[AccessUnit]:
        """The access units, video and audio, that these bytes of the channel complete."""
        return self._demuxer.feed(data, self._clock() if arrived_at is None else arrived_at)

    def segment_boundary(self, arrived_at: float | None = None) -> list[AccessUnit]:
        """A segment ended: the access units that were still open."""
        at = self._clock() if arrived_at is None else arrived_at
        return self._demuxer.segment_boundary(at)

    def decode(self, unit: AccessUnit) -> list[DecodedFrame]:
        """The pictures that a video access unit completes, fitted; none for audio.

        Raises:
            MediaError: there is no decoder for the stream's codec, or this object is closed.
        """
        if self._closed:
            raise MediaError("the stream decoder is closed", code="decoder_closed")
        if unit.stream.kind is not MediaKind.VIDEO:
            return []
        frames: list[DecodedFrame] = []
        if self._decoder is None or self._decoder.codec != unit.stream.codec:
            frames += self.flush()
            if self._decoder is not None:
                self._past_errors += self._decoder.errors
                self._decoder.close()
            self._decoder = VideoDecoder(unit.stream.codec, drop_damaged=self._drop_damaged)
        return frames + self._fit(self._decoder.decode(unit))

    def flush(self) -> list[DecodedFrame]:
        """The pictures that B-frames still hold back, at the end of the stream."""
        return self._fit(self._decoder.flush()) if self._decoder is not None else []

    def reset(self) -> None:
        """Forget everything decoded so far: the next picture to come out is of a keyframe."""
        if self._decoder is not None:
            self._decoder.reset()

    def feed(self, data: bytes, arrived_at: float | None = None) -> list[DecodedFrame | AccessUnit]:
        """Pictures, and audio access units, that these bytes of the channel complete.

        Raises:
            MediaError: as `decode`.
        """
        return self._decode_all(self.demux(data, arrived_at))

    def end_segment(self, arrived_at: float | None = None) -> list[DecodedFrame | AccessUnit]:
        """What the end of a segment completes, decoded; the counterpart of `feed`."""
        return self._decode_all(self.segment_boundary(arrived_at))

    def close(self) -> None:
        """Free decoder and filter graph. Idempotent."""
        self._closed = True
        if self._decoder is not None:
            self._past_errors += self._decoder.errors
            self._decoder.close()
            self._decoder = None
        if self._fitter is not None:
            self._fitter.close()

    def _decode_all(self, units: list[AccessUnit]) -> list[DecodedFrame | AccessUnit]:
        items: list[DecodedFrame | AccessUnit] = []
        for unit in units:
            if unit.stream.kind is MediaKind.VIDEO:
                items += self.decode(unit)
            else:
                items.append(unit)
        return items

    def _fit(self, frames: list[DecodedFrame]) -> list[DecodedFrame]:
        fitter = self._fitter
        if fitter is None or self._decoder is None:
            return frames
        fitted = []
        ratio = self._decoder.sample_aspect_ratio
        for decoded in frames:
            try:
                decoded.frame = fitter.fit(decoded.frame, ratio)
            except MediaError:
                self.unfit_pictures += 1
                continue
            fitted.append(decoded)
        return fitted
