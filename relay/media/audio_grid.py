"""Sound of any rate, layout and regularity, made 48 kHz stereo in blocks of 20 ms without gaps.

The blocks lie on a grid that is anchored at the source's first timestamp and stays with it:

- silence fills what the source leaves out, and what it sends twice is cut;
- timestamps that jitter are counted through, and a source whose samples come a little faster or
  slower than its timestamps say is followed, a few samples a block, too few to be heard;
- a jump of more than ten seconds, or backward by more than one, is another time line: the grid
  is anchored anew.

20 ms are 960 samples and 1800 ticks, and a sample is 15/8 ticks: nothing is ever rounded twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import av

from relay.media import arrays as np
from relay.media.access_unit import CLOCK_RATE
from relay.media.audio_decoder import PcmFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_RATE: Final = 48_000
BLOCK_SAMPLES: Final = 960
BLOCK_TICKS: Final = 1800
TICKS_PER_SAMPLE: Final = CLOCK_RATE / SAMPLE_RATE

Samples: TypeAlias = "NDArray[np.int16]"
"""Shape (n, 2), 48 kHz."""

_GAP_TICKS = CLOCK_RATE * 4 // 100
"""Timestamps this far off are meant: a gap or an overlap. Below it is jitter (RTMP has up to a
frame of it, 23 ms)."""
_JUMP_FORWARD = 10 * CLOCK_RATE
_JUMP_BACKWARD = CLOCK_RATE
_DRIFT_TICKS = CLOCK_RATE * 2 / 1000
"""A mean error from which it is made up for, until it is a quarter of that."""
_ERROR_SHARE = 1 / 32
"""Of each new error in the mean: that of about the last half second."""
_STRETCH = 1 / 250
"""Most samples inserted or left out, as a share: 7 cents of pitch, while it lasts."""


@dataclass(slots=True)
class SoundBlock:
    """20 ms of sound."""

    pts: int
    """90 kHz ticks, of its first sample."""
    samples: Samples
    """Shape (960, 2)."""
    arrived_at: float = 0.0
    silent: bool = False
    """All of it stands for sound that the source did not have."""


class AudioGrid:
    """Puts decoded sound on the grid. Not thread-safe: one call at a time, from any thread."""

    def __init__(self) -> None:
        self.samples_filled = 0
        """Silence put in where the source had nothing."""
        self.samples_cut = 0
        """Sound left out because its time was taken: it came twice, or after it was filled."""
        self.samples_stretched = 0
        """Samples put in or left out to follow the source's clock."""
        self.anchored = 0
        """How often the grid was anchored: once, and once for every new time line."""
        self.layouts: Counter[str] = Counter()
        """Sound taken, in frames, by format."""
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[int, str, str] | None = None
        self._input_samples = 0
        self._output_samples = 0
        self._held: list[tuple[Samples, bool]] = []
        self._held_samples = 0
        self._behind_silence = False
        self._anchor: int | None = None
        self._position = 0
        self._error = 0.0
        self._following = False
        self._arrived_at = 0.0

    @property
    def end_pts(self) -> int | None:
        """The time up to which there is sound, in ticks; None before the first."""
        if self._anchor is None:
            return None
        return self._anchor + round((self._position + self._inside_resampler) * TICKS_PER_SAMPLE)

    def add(self, pcm: PcmFrame) -> list[SoundBlock]:
        """Take the next decoded frame; the blocks that it completes."""
        self._arrived_at = pcm.arrived_at
        blocks: list[SoundBlock] = []
        self._follow_format(pcm.frame)
        end = self.end_pts
        if end is None or not -_JUMP_BACKWARD < pcm.pts - end < _JUMP_FORWARD:
            blocks += self._anchor_at(pcm.pts)
            end = pcm.pts
        error = pcm.pts - end
        cut = 0
        # Behind silence there is no count to go on with, so the timestamp is taken exactly.
        tolerance = 0 if self._behind_silence else _GAP_TICKS
        if error > tolerance:
            self._flush_resampler()
            self._fill(round(error / TICKS_PER_SAMPLE))
            self._error = 0.0
        elif error < -tolerance:
            cut = round(-error / TICKS_PER_SAMPLE)
            self._error = 0.0
        else:
            self._error += (error - self._error) * _ERROR_SHARE
        samples = self._resample(pcm.frame)
        if cut:
            cut = min(cut, len(samples))
            self.samples_cut += cut
            samples = samples[cut:]
        if len(samples):
            self._behind_silence = False
            self._append(self._stretched(samples), silent=False)
        return blocks + self._cut_blocks()

    def fill(self, until_pts: int, arrived_at: float) -> list[SoundBlock]:
        """Put silence from the end of what there is up to `until_pts`; the blocks it completes.

        What comes later for that time is cut.
        """
        self._arrived_at = arrived_at
        blocks: list[SoundBlock] = []
        end = self.end_pts
        if end is None or not -_JUMP_FORWARD < until_pts - end < _JUMP_FORWARD:
            blocks += self._anchor_at(until_pts)
            self._behind_silence = True
            return blocks
        missing = round((until_pts - end) / TICKS_PER_SAMPLE)
        if missing > 0:
            self._flush_resampler()
            self._fill(missing)
        return blocks + self._cut_blocks()

    def finish(self) -> list[SoundBlock]:
        """The end: what is left, made a whole block with silence."""
        self._flush_resampler()
        blocks = self._cut_blocks()
        if self._held_samples:
            self._append(silence(BLOCK_SAMPLES - self._held_samples), silent=True)
            blocks += self._cut_blocks()
        return blocks

    def _anchor_at(self, pts: int) -> list[SoundBlock]:
        """End the time line there is, if any, and begin one at `pts`."""
        blocks = self.finish() if self._anchor is not None else []
        self._anchor, self._position = pts, 0
        self._error, self._following = 0.0, False
        self._behind_silence = False
        self.anchored += 1
        return blocks

    def _follow_format(self, frame: av.AudioFrame) -> None:
        """A resampler for the frame's format, after the old one's last samples."""
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        self.layouts[f"{form[0]} Hz {form[1]}"] += 1
        if form == self._format:
            return
        self._flush_resampler()
        self._format = form

    @property
    def _inside_resampler(self) -> float:
        """Samples, at 48 kHz, that went into the resampler and have not come out."""
        if self._resampler is None or self._format is None:
            return 0.0
        return self._input_samples * SAMPLE_RATE / self._format[0] - self._output_samples

    def _resample(self, frame: av.AudioFrame) -> Samples:
        if self._resampler is None:
            # One channel is resampled as one and doubled: libswresample would take 3 dB off.
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            self._resampler = av.AudioResampler("s16", layout, SAMPLE_RATE)
            self._input_samples = self._output_samples = 0
        frame.pts = None  # libav would mend gaps of its own accord
        self._input_samples += frame.samples
        samples = _stereo(self._resampler.resample(frame))
        self._output_samples += len(samples)
        return samples

    def _flush_resampler(self) -> None:
        """Take out the few samples that a resampler holds for its filter."""
        if self._resampler is None:
            return
        wanted = round(self._inside_resampler)
        samples = _stereo(self._resampler.resample(None))
        self._resampler = None
        if len(samples) < wanted:
            samples = np.pad(samples, ((0, wanted - len(samples)), (0, 0)))
        self._append(samples[:wanted], silent=False)

    def _stretched(self, samples: Samples) -> Samples:
        """`samples`, a few more or fewer where the source's clock wants it."""
        if not self._following:
            self._following = abs(self._error) > _DRIFT_TICKS
        elif abs(self._error) < _DRIFT_TICKS / 4:
            self._following = False
        count = len(samples)
        most = int(count * _STRETCH)
        if not self._following or not most:
            return samples
        change = max(-most, min(most, round(self._error / TICKS_PER_SAMPLE)))
        if not change:
            return samples
        self._error -= change * TICKS_PER_SAMPLE
        self.samples_stretched += abs(change)
        # The last sample stays where it is, so that the next block joins without a step.
        positions = np.linspace((count - 1) / (count + change - 1), count - 1, count + change)
        indices = np.arange(count)
        channels = [np.interp(positions, indices, samples[:, side]) for side in (0, 1)]
        return np.stack(channels, axis=1).astype(np.int16)

    def _fill(self, count: int) -> None:
        self.samples_filled += count
        self._behind_silence = True
        self._append(silence(count), silent=True)

    def _append(self, samples: Samples, *, silent: bool) -> None:
        if len(samples):
            self._held.append((samples, silent))
            self._held_samples += len(samples)
            self._position += len(samples)

    def _cut_blocks(self) -> list[SoundBlock]:
        if self._held_samples < BLOCK_SAMPLES or self._anchor is None:
            return []
        samples = np.concatenate([part for part, _ in self._held])
        silent = np.concatenate([np.full(len(part), quiet) for part, quiet in self._held])
        first = (self._position - self._held_samples) // BLOCK_SAMPLES
        whole = self._held_samples // BLOCK_SAMPLES
        blocks = []
        for number in range(whole):
            span = slice(number * BLOCK_SAMPLES, (number + 1) * BLOCK_SAMPLES)
            pts = self._anchor + (first + number) * BLOCK_TICKS
            blocks.append(
                SoundBlock(pts, samples[span], self._arrived_at, bool(silent[span].all()))
            )
        rest = slice(whole * BLOCK_SAMPLES, None)
        self._held_samples -= whole * BLOCK_SAMPLES
        self._held = [(samples[rest], bool(silent[rest].all()))] if self._held_samples else []
        return blocks


def silence(count: int) -> Samples:
    """So many samples of it, shape (count, 2)."""
    return np.zeros((count, 2), np.int16)


def _stereo(frames: list[av.AudioFrame]) -> Samples:
    """Resampled frames as (n, 2)."""
    if not frames:
        return silence(0)
    parts = []
    for frame in frames:
        channels = frame.layout.nb_channels
        samples = frame.to_ndarray().reshape(-1, channels)
        parts.append(np.repeat(samples, 2, axis=1) if channels == 1 else samples)
    return np.concatenate(parts).astype(np.int16, copy=False)
