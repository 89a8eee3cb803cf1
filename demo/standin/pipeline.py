"""The one pipeline of the process: its prompts, its state, and the lock that can wedge it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import numpy as np

from demo.standin.engine import Engine, StreamFrame
from demo.standin.faults import FaultBoard, Faults
from demo.standin.nodes import Audio
from demo.standin.runner import WorkflowRunner
from demo.standin.stream_media import StreamMedia
from demo.standin.workflow import StreamPorts

logger = logging.getLogger(__name__)

WARM_UP_RUNS = 5
WARM_UP_AUDIO_RATE = 48_000
WARM_UP_AUDIO_SAMPLES = WARM_UP_AUDIO_RATE // 2
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
        self.media = StreamMedia(self.engine, lambda: self.ports, board, audio_timeout_s)
        self._ports: StreamPorts | None = StreamPorts()
        self._prompt_lock = asyncio.Lock()
        self._unwedged = asyncio.Event()
        self._warm_up_waiting_since: float | None = None
        self._rng = np.random.default_rng()
        board.subscribe(self._on_faults)

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
            self.media.clear()
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
            self.media.clear()
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
            self.media.next_text()
        finally:
            self._warm_up_waiting_since = None
        return False

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

    def _on_faults(self, faults: Faults) -> None:
        if faults.wedged:
            self._unwedged.clear()
        else:
            self._unwedged.set()
