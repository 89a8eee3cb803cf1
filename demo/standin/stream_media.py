"""Frames into the pipeline and out of it, and which timestamp goes with which picture.

Whoever receives frames puts them here, and whoever sends them back takes them from here; nothing
ties an output to the connection its input came from. Each received picture leaves a label in a
queue, and an output gets the label at its head. A picture that a newer one replaced before the
worker took it leaves its label behind, so from then on outputs carry earlier timestamps than
they should, and the labels pile up. The real server keeps every frame with its label; here a
label is a few numbers, and `StreamMedia.retained_bytes` tells what the frames would take.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import av
import numpy as np

from demo.standin.engine import Engine, Label, StreamFrame
from demo.standin.faults import FaultBoard
from demo.standin.nodes import Audio, Image
from demo.standin.workflow import StreamPorts

SILENCE_SAMPLES = 1024
RETAINED_BYTES_PER_PIXEL = 13.5
"""Of yuv420p, 1.5; of three floats, 12."""


class StreamMedia:
    """The queues between the connections and the engine.

    Args:
        engine: the worker and its queues.
        ports: tells which media the workflows in force take and give.
        board: whether pairing is by position.
        audio_timeout_s: how long a sender waits for received audio before it sends silence.
    """

    def __init__(
        self,
        engine: Engine,
        ports: Callable[[], StreamPorts],
        board: FaultBoard,
        audio_timeout_s: float,
    ) -> None:
        self.frames_received = 0
        self.frames_returned = 0
        self._engine = engine
        self._ports = ports
        self._board = board
        self._audio_timeout_s = audio_timeout_s
        self._last_frame_at = time.monotonic()
        self._video_labels = _VideoLabels()
        # Without a bound, as ComfyStream's: one for each frame of sound that came in.
        self._audio_labels: asyncio.Queue[tuple[av.AudioFrame, bool]] = asyncio.Queue()
        self._audio_out = np.empty(0, np.int16)

    def put_video_frame(self, frame: av.VideoFrame, *, lost: bool = False) -> None:
        """Hand a received frame to the workflow and queue its label.

        Args:
            lost: queue only the label, as if a newer frame had replaced this one at once.
        """
        takes_video = self._ports().video_in
        label = Label(
            sequence=self.frames_received,
            pts=frame.pts,
            time_base=frame.time_base,
            pixels=frame.width * frame.height,
            passed=None if takes_video else frame,
        )
        self.frames_received += 1
        self._last_frame_at = time.monotonic()
        if takes_video and not lost:
            image = frame.to_ndarray(format="rgb24")
            self._engine.image_inputs.put(StreamFrame(image, label))
        self._video_labels.put_nowait(label)

    def put_audio_frame(self, frame: av.AudioFrame) -> None:
        """Hand received audio to the workflow, as mono, and queue its label."""
        ports = self._ports()
        if ports.audio_in:
            self._engine.audio_inputs.put(Audio(_mono(frame), frame.sample_rate))
        self._audio_labels.put_nowait((frame, not (ports.audio_in and ports.audio_out)))

    async def processed_video_frame(self) -> av.VideoFrame:
        """The next frame to send: an output under the next label, or a frame passed through."""
        if self._ports().video_in and not self._board.current.pairing_bug:
            return await self._truly_paired_frame()
        label = await self._video_labels.get()
        frame = label.passed
        if frame is None:
            output = await self._engine.video_outputs.get()
            frame = _picture(output.image, label)
        self.frames_returned += 1
        return frame

    async def processed_audio_frame(self) -> av.AudioFrame:
        """The next audio to send: as long as what was received, under its timestamp.

        When nothing is received for a second, silence, mono and without a timestamp: more than
        an Opus encoder that has seen stereo can take.
        """
        try:
            async with asyncio.timeout(self._audio_timeout_s):
                label, passthrough = await self._audio_labels.get()
        except TimeoutError:
            return _silence()
        if passthrough:
            return label
        if label.samples > len(self._audio_out):
            chunk = await self._engine.audio_outputs.get()
            self._audio_out = np.concatenate([self._audio_out, chunk])
        mono, self._audio_out = np.split(self._audio_out, [label.samples])
        frame = av.AudioFrame.from_ndarray(
            np.repeat(mono, 2).reshape(1, -1), format="s16", layout="stereo"
        )
        frame.pts, frame.time_base = label.pts, label.time_base
        frame.sample_rate = label.sample_rate
        return frame

    def next_text(self) -> str | None:
        """The oldest text output, if the workflow makes any and one is there."""
        if not self._ports().text_out or self._engine.text_outputs.empty():
            return None
        return self._engine.text_outputs.get_nowait()

    def queue_lengths(self) -> dict[str, int]:
        """Items in every queue of the process."""
        return {
            "image_inputs": len(self._engine.image_inputs),
            "video_labels": self._video_labels.qsize(),
            "video_outputs": self._engine.video_outputs.qsize(),
            "audio_inputs": len(self._engine.audio_inputs),
            "audio_labels": self._audio_labels.qsize(),
            "audio_outputs": self._engine.audio_outputs.qsize(),
            "audio_out_samples": len(self._audio_out),
            "text_outputs": self._engine.text_outputs.qsize(),
        }

    @property
    def last_frame_age_s(self) -> float:
        """Time since the last frame came, or since the start."""
        return time.monotonic() - self._last_frame_at

    def retained_bytes(self) -> int:
        """What a ComfyStream would hold for the labels that wait: each frame as it was received,
        and as the float32 tensor made of it. Measured there: 107 MB/s at 512x512 and 30 fps."""
        return int(self._video_labels.pixels * RETAINED_BYTES_PER_PIXEL)

    def clear(self) -> None:
        """Forget every label and what is left of processed audio."""
        for queue in (self._video_labels, self._audio_labels):
            while not queue.empty():
                queue.get_nowait()
        self._audio_out = np.empty(0, np.int16)

    async def _truly_paired_frame(self) -> av.VideoFrame:
        while True:
            output = await self._engine.video_outputs.get()
            if output.label is not None:
                break
        self._video_labels.drop_through(output.label.sequence)
        self.frames_returned += 1
        return _picture(output.image, output.label)


class _VideoLabels(asyncio.Queue[Label]):
    """Labels in order of arrival."""

    _queue: deque[Label]

    @property
    def pixels(self) -> int:
        return sum(label.pixels for label in self._queue)

    def drop_through(self, sequence: int) -> None:
        """Forget the labels up to and including number `sequence`."""
        while self._queue and self._queue[0].sequence <= sequence:
            self.get_nowait()


def _picture(image: Image, label: Label) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame.pts, frame.time_base = label.pts, label.time_base
    return frame


def _mono(frame: av.AudioFrame) -> np.ndarray:
    samples = frame.to_ndarray()
    if samples.shape[0] == 1 and frame.layout.nb_channels == 2:
        return samples.reshape(-1, 2).mean(axis=1).astype(np.int16)
    return samples.mean(axis=0).astype(np.int16)


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, SILENCE_SAMPLES), np.int16), format="s16", layout="mono"
    )
    frame.sample_rate = 48_000
    return frame
