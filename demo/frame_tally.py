"""What became of every frame between two channels: counted, timed, and checked against pixels.

Frames (pictures, or PES packets of audio) are matched by pts, and where pictures were read, by
the number drawn in them: a frame whose pts is on the input but whose picture is another frame's
is the worst of errors, and neither check alone would see it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from demo.barcode import Reading

PTS_MODULUS = 1 << 33
CLOCK_RATE = 90_000
_KEPT_FRAMES = 2_000
"""Older frames are settled and forgotten, so that a demo can run for days."""
_KEPT_DELAYS = 200_000
_EARLY_KEPT = 1_000


@dataclass(slots=True)
class _Frame:
    position: int
    input_at: float
    output_at: float | None = None
    copies: int = 0
    late: bool = False
    input_reading: Reading | None = None
    output_reading: Reading | None = None
    output_decoded: bool = False


@dataclass(slots=True)
class _Early:
    """Output frames whose twin on the input has not been seen (yet)."""

    arrivals: list[float] = field(default_factory=list)
    reading: Reading | None = None
    decoded: bool = False


@dataclass(slots=True)
class TallySummary:
    """Counts and delays of the frames between two points of media time."""

    input_frames: int = 0
    delivered: int = 0
    """Of them, those that came out at least once."""
    lost: int = 0
    """Those that did not, although later ones did."""
    duplicated: int = 0
    """Further copies."""
    out_of_order: int = 0
    """Came out after a later one."""
    verified: int = 0
    """The picture under this pts shows this frame's number."""
    inverted: int = 0
    """Of the verified, those with inverted polarity."""
    mislabelled: int = 0
    """The picture shows another frame's number: content and pts do not belong together."""
    unreadable: int = 0
    """The picture could be read on the input and not on the output."""
    foreign: int = 0
    """Output frames with a pts that is on no input frame."""
    delays_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_DELAYS))
    """From the last byte of a frame on the input to its last byte on the output."""

    def delay_ms(self, percent: float) -> float | None:
        """A percentile of the delays, None without any."""
        return percentile_ms(self.delays_s, percent)

    @property
    def clean(self) -> bool:
        """Every frame once, in order, under its own time."""
        faults = self.lost + self.duplicated + self.out_of_order + self.mislabelled + self.foreign
        return self.delivered > 0 and faults == 0

    def _add(self, frame: _Frame) -> None:
        self.input_frames += 1
        if frame.output_at is None:
            self.lost += 1
            return
        self.delivered += 1
        self.duplicated += frame.copies - 1
        self.out_of_order += frame.late
        self.delays_s.append(frame.output_at - frame.input_at)
        if frame.input_reading is None or not frame.output_decoded:
            return
        if frame.output_reading is None:
            self.unreadable += 1
        elif frame.output_reading.number != frame.input_reading.number:
            self.mislabelled += 1
        else:
            self.verified += 1
            self.inverted += frame.output_reading.inverted != frame.input_reading.inverted


class FrameTally:
    """Follows the frames of an input and an output channel.

    Args:
        warm_up_s: media time after the first frame on the output that `summary` leaves out.
    """

    def __init__(self, warm_up_s: float = 0.0) -> None:
        self.input_frames = 0
        self.output_frames = 0
        self._warm_up = round(warm_up_s * CLOCK_RATE)
        self._frames: dict[int, _Frame] = {}
        self._by_pts: dict[int, _Frame] = {}
        self._early: dict[int, _Early] = {}
        self._position: int | None = None
        self._first_output: int | None = None
        self._highest_output: int | None = None
        self._settled = TallySummary()

    def on_input(self, pts: int, at: float) -> None:
        """The last byte of an input frame came at `at`, in seconds on the caller's clock."""
        pts %= PTS_MODULUS
        self._position = position = self._place(pts)
        self.input_frames += 1
        frame = self._frames[position] = self._by_pts[pts] = _Frame(position, at)
        if (early := self._early.pop(pts, None)) is not None:
            for output_at in early.arrivals:
                self._match(frame, output_at)
            frame.output_reading, frame.output_decoded = early.reading, early.decoded
        if len(self._frames) > _KEPT_FRAMES:
            self._settle_oldest()

    def on_output(self, pts: int, at: float) -> float | None:
        """The last byte of an output frame came at `at`.

        Returns:
            its delay in seconds; None for a copy, or if no input frame has this pts so far.
        """
        pts %= PTS_MODULUS
        self.output_frames += 1
        frame = self._by_pts.get(pts)
        if frame is None:
            # Its twin may still come, if it is on another connection.
            self._early.setdefault(pts, _Early()).arrivals.append(at)
            if len(self._early) > _EARLY_KEPT:
                oldest = self._early.pop(next(iter(self._early)))
                self._settled.foreign += len(oldest.arrivals)
            return None
        return self._match(frame, at)

    def on_input_picture(self, pts: int, reading: Reading | None) -> None:
        """What an input frame's picture says."""
        frame = self._by_pts.get(pts % PTS_MODULUS)
        if frame is not None:
            frame.input_reading = reading

    def on_output_picture(self, pts: int, reading: Reading | None) -> None:
        """What an output frame's picture says."""
        frame = self._by_pts.get(pts % PTS_MODULUS)
        if frame is not None:
            frame.output_reading, frame.output_decoded = reading, True
        elif (early := self._early.get(pts % PTS_MODULUS)) is not None:
            early.reading, early.decoded = reading, True

    def summary(self) -> TallySummary:
        """Everything up to the latest frame on the output, the warm-up left out."""
        settled = self._settled
        total = TallySummary(
            **{
                name: getattr(settled, name)
                for name in TallySummary.__slots__
                if name != "delays_s"
            }
        )
        total.delays_s.extend(settled.delays_s)
        total.foreign += sum(len(early.arrivals) for early in self._early.values())
        for frame in self._frames.values():
            if self._counts(frame):
                total._add(frame)
        return total

    def _place(self, pts: int) -> int:
        """The pts, unwrapped: the position nearest to the last one."""
        if self._position is None:
            return pts
        half = PTS_MODULUS // 2
        return self._position + (pts - self._position + half) % PTS_MODULUS - half

    def _match(self, frame: _Frame, at: float) -> float | None:
        frame.copies += 1
        if frame.output_at is not None:
            return None
        frame.output_at = at
        if self._first_output is None:
            self._first_output = frame.position
        if self._highest_output is None or frame.position > self._highest_output:
            self._highest_output = frame.position
        else:
            frame.late = True
        return at - frame.input_at

    def _counts(self, frame: _Frame) -> bool:
        if self._first_output is None or self._highest_output is None:
            return False
        return self._first_output + self._warm_up <= frame.position <= self._highest_output

    def _settle_oldest(self) -> None:
        position = next(iter(self._frames))
        frame = self._frames.pop(position)
        pts = position % PTS_MODULUS
        if self._by_pts.get(pts) is frame:
            del self._by_pts[pts]
        if self._counts(frame):
            self._settled._add(frame)


def percentile_ms(delays_s: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile in milliseconds, None without a sample."""
    if not delays_s:
        return None
    ordered = sorted(delays_s)
    return round(ordered[round((len(ordered) - 1) * percent / 100)] * 1000, 2)
