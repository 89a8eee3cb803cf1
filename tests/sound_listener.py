"""What a listener hears on an output: samples in their place, tones, gaps, and beeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relay.media.access_unit import CLOCK_RATE, AccessUnit
from relay.media.audio_decoder import AudioDecoder

RATE = 48_000
AUDIBLE = 0.01


@dataclass
class Heard:
    """Decoded sound of one channel, 48 kHz, on one time line."""

    start_pts: int
    samples: NDArray[np.float64]
    """Shape (2, n), full scale 1; silence where there was none."""
    missing_s: float
    """How much of it was not there."""

    def at(self, pts: int, seconds: float) -> NDArray[np.float64]:
        """The samples from `pts` on."""
        first = round((pts - self.start_pts) * RATE / CLOCK_RATE)
        return self.samples[:, max(0, first) : max(0, first + round(seconds * RATE))]

    def tone(self, side: int, pts: int, seconds: float = 0.2) -> float:
        """The strongest frequency of a channel there, Hz; 0.0 if all is silent."""
        samples = self.at(pts, seconds)[side]
        if len(samples) < RATE // 50 or np.abs(samples).max() < AUDIBLE:
            return 0.0
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        return float(np.argmax(spectrum) * RATE / len(samples))

    def quiet_spans(self, from_pts: int, to_pts: int, side: int = 0) -> list[tuple[int, float]]:
        """Where a tone that should be there is not for more than 5 ms: pts, seconds."""
        samples = np.abs(self.at(from_pts, (to_pts - from_pts) / CLOCK_RATE)[side])
        step = RATE // 200
        loud = samples[: len(samples) // step * step].reshape(-1, step).max(axis=1) > AUDIBLE
        spans, began = [], None
        for number, is_loud in enumerate([*loud, True]):
            if not is_loud and began is None:
                began = number
            elif is_loud and began is not None:
                spans.append((from_pts + began * 450, (number - began) / 200))
                began = None
        return spans

    def onsets(self, threshold: float = 0.05) -> list[float]:
        """When sound begins after at least 0.2 s without, in ticks."""
        loud = np.flatnonzero(np.abs(self.samples).max(axis=0) > threshold)
        if not len(loud):
            return []
        begins = [loud[0], *(b for a, b in pairwise(loud) if b - a > RATE // 5)]
        return [self.start_pts + float(b) * CLOCK_RATE / RATE for b in begins]


def hear(units: Sequence[AccessUnit]) -> Heard:
    """Decode all of it and lay it out by its pts."""
    decoder = AudioDecoder()
    parts: list[tuple[int, NDArray[np.float64]]] = []
    for unit in units:
        parts += [(pcm.pts, _as_stereo(pcm.frame)) for pcm in decoder.decode(unit)]
    assert parts, "nothing to hear"
    assert not decoder.errors
    start = min(pts for pts, _ in parts)
    ends = [pts + round(s.shape[1] * CLOCK_RATE / RATE) for pts, s in parts]
    length = round((max(ends) - start) * RATE / CLOCK_RATE) + 1
    samples, present = np.zeros((2, length)), np.zeros(length, bool)
    for pts, part in parts:
        first = round((pts - start) * RATE / CLOCK_RATE)
        samples[:, first : first + part.shape[1]] = part
        present[first : first + part.shape[1]] = True
    return Heard(start, samples, float((~present[:-1]).sum()) / RATE)


def _as_stereo(frame: Any) -> NDArray[np.float64]:
    assert frame.sample_rate == RATE, "only outputs of 48 kHz"
    array = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        array = array.reshape(-1, channels).T
    scale = 32768.0 if array.dtype == np.int16 else 1.0
    stereo = array if channels > 1 else np.repeat(array, 2, axis=0)
    return stereo[:2].astype(np.float64) / scale
