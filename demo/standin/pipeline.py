"""The one pipeline of the process: its state, its prompts, and frames in and out of it.

Whoever sends frames puts them here, and whoever sends them back takes them from here; nothing
ties an output to the connection its input came from. Each received frame leaves a label in a
queue, and an output gets the label at its head. A frame that a newer one replaced before the
worker took it leaves its label behind, so from then on outputs carry earlier timestamps than
they should, and the labels, with the frames they belong to, pile up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import av
import numpy as np

from demo.standin.engine import Engine, Label, StreamFrame
from demo.standin.faults import FaultBoard, Faults
from demo.standin.nodes import Audio, Image
from demo.standin.runner import WorkflowRunner
from demo.standin.workflow import StreamPorts

logger = logging.getLogger(__name__)

WARM_UP_RUNS = 5
WARM_UP_AUDIO_RATE = 48_000
WARM_UP_AUDIO_SAMPLES = WARM_UP_AUDIO_RATE // 2
SILENCE_SAMPLES = 1024
RETAINED_BYTES_PER_PIXEL = 13.5
"""Of yuv420p, 1.5; of three floats, 12."""
WARM_UP_STALLED_S = 0.3
"""A warm-up that has waited this long with nothing for the worker to do will wait for ever."""


class PipelineState(StrEnum):
    UNINITIALIZED = "UNINITIALIZED"
    INITIALIZING = "INITIALIZING"
    READY = "READY"
    STREAMING = "STREAMING"
    ERROR = "ERROR"


_S = PipelineState
_TRANSITIONS = {
    _S.UNINITIALIZED: {_S.INITIALIZING, _S.READY, _S.ERROR},
    _S.INITIALIZING: {_S.READY, _S.ERROR},
    _S.READY: {_S.INITIALIZING, _S.STREAMING, _S.UNINITIALIZED, _S.ERROR},
    _S.STREAMING: {_S.READY, _S.ERROR},
    _S.ERROR: {_S.INITIALIZING, _S.READY, _S.UNINITIALIZED},
}


class InvalidTransition(Exception):
    """The pipeline can't go from its state to that one."""


class Pipeline:
    """What all connections in prompt mode share.

    Args:
        board: the faults in force.
        audio_timeout_s: how long a sender waits for received audio before it sends silence.
    """

    def __init__(self, board: FaultBoard, *, audio_timeout_s: float = 1.0) -> None:
        self.engine = Engine(board)
        self.runner = WorkflowRunner(self.engine, board)
        self.state = PipelineState.UNINITIALIZED
        self.width: Any = 512
        self.height: Any = 512
        self.frames_received = 0
        self.frames_returned = 0
        self._last_frame_at = time.monotonic()
        self._board = board
        self._audio_timeout_s = audio_timeout_s
        self._ports: StreamPorts | None = StreamPorts()
        self._video_labels = _VideoLabels()
        self._audio_labels: asyncio.Queue[tuple[av.AudioFrame, bool]] = asyncio.Queue()
        self._audio_out = np.empty(0, np.int16)
        self._prompt_lock = asyncio.Lock()
        self._unwedged = asyncio.Event()
        self._warm_up_waiting_since: float | None = None
        self._rng = np.random.default_rng()
        board.subscribe(self._on_faults)

    # Prompts and state.

    @property
    def ports(self) -> StreamPorts:
        """What the workflows take and give, as last looked up: a workflow that fell back to
        passing through is not noticed here."""
        if self._ports is None:
            self._ports = StreamPorts.of(self.runner.workflows)
        return self._ports

    @property
    def wedged(self) -> bool:
        """The prompt lock is held by something that will not end."""
        if not self._prompt_lock.locked():
            return False
        if not self._unwedged.is_set():
            return True
        waiting_since = self._warm_up_waiting_since
        return (
            waiting_since is not None
            and time.monotonic() - waiting_since > WARM_UP_STALLED_S
            and self.engine.idle
            and not (self.runner.running and len(self.engine.image_inputs))
        )

    async def apply_prompts(self, prompts: Any, *, lose_warm_up_output: bool = False) -> None:
        """Replace the workflows, for everybody, and warm them up with five runs.

        Holds the prompt lock, without a time limit, until the warm-up got as many outputs as it
        put inputs.

        Args:
            prompts: one workflow or a list of them.
            lose_warm_up_output: somebody else takes an output of the warm-up.

        Raises:
            Exception: the prompts are refused, or the size to warm up with is no size; the
                state is ERROR.
        """
        prompt_list = prompts if isinstance(prompts, list) else [prompts]
        async with self._prompt_lock:
            await self._unwedged.wait()
            was_streaming = self.state is PipelineState.STREAMING
            if was_streaming:
                self._set_state(PipelineState.READY)
            if self.state is not PipelineState.UNINITIALIZED:
                await self.runner.stop()
                with contextlib.suppress(InvalidTransition):
                    self._set_state(PipelineState.READY)
            self._clear()
            self.engine.clear()
            with self._error_state():
                self.runner.set_prompts(prompt_list)
                self._ports = StreamPorts.of(self.runner.workflows)
                self._set_state(PipelineState.READY)
                self._set_state(PipelineState.INITIALIZING)
                await self._warm_up(lose_warm_up_output)
            self._set_state(PipelineState.READY)
            if was_streaming:
                self.start_streaming()

    async def update_prompts(self, prompts: Any) -> None:
        """Replace the workflows in place, each after one run that succeeds.

        Raises:
            Exception: refused; the message is for the control channel, the state is ERROR.
        """
        with self._error_state():
            await self.runner.update_prompts(prompts if isinstance(prompts, list) else [prompts])
            self._ports = StreamPorts.of(self.runner.workflows)

    def start_streaming(self) -> None:
        """Run the workflows on what is received.

        Raises:
            InvalidTransition: there are none that could run.
        """
        if self.state not in (PipelineState.READY, PipelineState.STREAMING):
            raise InvalidTransition(f"Cannot start streaming in state: {self.state}")
        self._set_state(PipelineState.STREAMING)

    def pause(self) -> None:
        """Stop running; what is received piles up, and nothing returns."""
        if self.state is PipelineState.STREAMING:
            self._set_state(PipelineState.READY)

    async def stop_prompts(self, *, cleanup: bool) -> None:
        """Stop running, for everybody; with `cleanup`, also forget all media."""
        if self.state in (PipelineState.STREAMING, PipelineState.INITIALIZING):
            self._set_state(PipelineState.READY)
        await self.runner.stop()
        if cleanup:
            self.engine.clear()
            self._clear()
            self._ports = None
        with contextlib.suppress(InvalidTransition):
            self._set_state(
                PipelineState.UNINITIALIZED if cleanup else PipelineState.READY,
            )

    async def aclose(self) -> None:
        """End the runner and the worker thread."""
        self._unwedged.set()
        await self.runner.stop()
        await self.engine.aclose()

    # Frames.

    def put_video_frame(self, frame: av.VideoFrame, *, lost: bool = False) -> None:
        """Hand a received frame to the workflow and queue its label.

        Args:
            lost: queue only the label, as if a newer frame had replaced this one at once.
        """
        takes_video = self.ports.video_in
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
            self.engine.image_inputs.put(StreamFrame(image, label))
        self._video_labels.put_nowait(label)

    def put_audio_frame(self, frame: av.AudioFrame) -> None:
        """Hand received audio to the workflow, as mono, and queue its label."""
        ports = self.ports
        if ports.audio_in:
            self.engine.audio_inputs.put(Audio(_mono(frame), frame.sample_rate))
        self._audio_labels.put_nowait((frame, not (ports.audio_in and ports.audio_out)))

    async def processed_video_frame(self) -> av.VideoFrame:
        """The next frame to send: an output under the next label, or a frame passed through."""
        if self.ports.video_in and not self._board.current.pairing_bug:
            return await self._truly_paired_frame()
        label = await self._video_labels.get()
        frame = label.passed
        if frame is None:
            output = await self.engine.video_outputs.get()
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
            chunk = await self.engine.audio_outputs.get()
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
        if not self.ports.text_out or self.engine.text_outputs.empty():
            return None
        return self.engine.text_outputs.get_nowait()

    def queue_lengths(self) -> dict[str, int]:
        """Items in every queue of the process."""
        return {
            "image_inputs": len(self.engine.image_inputs),
            "video_labels": self._video_labels.qsize(),
            "video_outputs": self.engine.video_outputs.qsize(),
            "audio_inputs": len(self.engine.audio_inputs),
            "audio_labels": self._audio_labels.qsize(),
            "audio_outputs": self.engine.audio_outputs.qsize(),
            "audio_out_samples": len(self._audio_out),
            "text_outputs": self.engine.text_outputs.qsize(),
        }

    @property
    def last_frame_age_s(self) -> float:
        """Time since the last frame came, or since the start."""
        return time.monotonic() - self._last_frame_at

    def retained_bytes(self) -> int:
        """What a ComfyStream would hold for the labels that wait: each frame as it was received,
        and as the float32 tensor made of it. Measured there: 107 MB/s at 512x512 and 30 fps."""
        return int(self._video_labels.pixels * RETAINED_BYTES_PER_PIXEL)

    # Inside.

    async def _warm_up(self, lose_output: bool) -> None:
        ports = self.ports
        if ports.video_in:
            noise = self._rng.standard_normal((self.height, self.width, 3))
            image = np.clip(noise * 255, 0, 255).astype(np.uint8)
            for _ in range(WARM_UP_RUNS):
                self.engine.image_inputs.put(StreamFrame(image, None))
                lose_output = await self._warm_up_outputs(ports, lose_output)
        if ports.audio_in:
            samples = self._rng.integers(-32768, 32768, WARM_UP_AUDIO_SAMPLES).astype(np.int16)
            for _ in range(WARM_UP_RUNS):
                self.engine.audio_inputs.put(Audio(samples, WARM_UP_AUDIO_RATE))
                lose_output = await self._warm_up_outputs(ports, lose_output)

    async def _warm_up_outputs(self, ports: StreamPorts, lose_output: bool) -> bool:
        self._warm_up_waiting_since = time.monotonic()
        try:
            for _ in range(2 if lose_output else 1):
                if ports.video_out:
                    await self.engine.video_outputs.get()
                if ports.audio_out:
                    await self.engine.audio_outputs.get()
            self.next_text()
        finally:
            self._warm_up_waiting_since = None
        return False

    async def _truly_paired_frame(self) -> av.VideoFrame:
        while True:
            output = await self.engine.video_outputs.get()
            if output.label is not None:
                break
        self._video_labels.drop_through(output.label.sequence)
        self.frames_returned += 1
        return _picture(output.image, output.label)

    @contextlib.contextmanager
    def _error_state(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            with contextlib.suppress(InvalidTransition):
                self._set_state(PipelineState.ERROR)
            raise

    def _set_state(self, new: PipelineState) -> None:
        old = self.state
        if new is old:
            return
        if new not in _TRANSITIONS[old]:
            raise InvalidTransition(f"Invalid transition: {old} -> {new}")
        self.state = new
        if new in (PipelineState.INITIALIZING, PipelineState.STREAMING):
            self.runner.resume()
        else:
            self.runner.pause()
        logger.info("pipeline state: %s -> %s", old, new)

    def _clear(self) -> None:
        for queue in (self._video_labels, self._audio_labels):
            while not queue.empty():
                queue.get_nowait()
        self._audio_out = np.empty(0, np.int16)

    def _on_faults(self, faults: Faults) -> None:
        if faults.wedged:
            self._unwedged.clear()
        else:
            self._unwedged.set()


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
