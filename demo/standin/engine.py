"""The worker thread that runs workflows one after another, and the queues around it.

The queue lengths are ComfyStream's: one picture waits for the worker, and a newer one takes its
place; audio in, and everything out, is unbounded. Media goes in on the event loop, is taken on
the worker thread, and comes out on the event loop again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

import av
import numpy as np

from demo.standin.faults import FaultBoard
from demo.standin.nodes import NODE_CLASSES, Audio, Image, NodeFailed
from demo.standin.workflow import Workflow

T = TypeVar("T")

MIN_FREE_RUN_S = 0.01
"""A run that takes nothing from the stream would otherwise spin and flood the outputs."""


class InputTimeout(Exception):
    """No media of a kind came in time. The runner tries again."""

    def __init__(self, kind: str, timeout_s: float) -> None:
        super().__init__(f"No {kind} frames available after {timeout_s}s timeout")


class EngineClosed(Exception):
    """The server is shutting down."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a received picture leaves in the queue of labels."""

    sequence: int
    """Counts the pictures of the process."""
    pts: int | None
    time_base: Fraction | None
    pixels: int
    passed: av.VideoFrame | None
    """The picture itself, if the workflow takes no video."""


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """One picture on its way to the workflow."""

    image: Image
    label: Label | None
    """None in a warm-up."""


@dataclass(frozen=True, slots=True)
class VideoOutput:
    image: Image
    label: Label | None
    """Of the picture that it truly shows; None in a warm-up."""


class StreamInput(Generic[T]):
    """A queue from the event loop to the worker thread.

    Args:
        capacity: the oldest item makes room for one more than this; None for no limit.
    """

    def __init__(self, capacity: int | None) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._closed = False
        self.replaced = 0
        """Items that a newer one pushed out."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        with self._changed:
            if self._capacity is not None and len(self._items) >= self._capacity:
                self._items.popleft()
                self.replaced += 1
            self._items.append(item)
            self._changed.notify()

    def get(self, kind: str, timeout_s: float) -> T:
        """The oldest item, waiting on the calling thread.

        Raises:
            InputTimeout: none came within `timeout_s`.
            EngineClosed: `close` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            if self._closed:
                raise EngineClosed
            if not self._items:
                raise InputTimeout(kind, timeout_s)
            return self._items.popleft()

    def clear(self) -> None:
        with self._changed:
            self._items.clear()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Run:
    """One run of a workflow: evaluates its output nodes and what they depend on, on the worker.

    Raises:
        NodeFailed: unknown classes, links to nowhere, missing inputs, or a node's own failure.
        InputTimeout: the stream gave nothing in time.
    """

    def __init__(
        self, engine: Engine, workflow: Workflow, memories: dict[tuple[str, str], dict[str, Any]]
    ) -> None:
        self.source: StreamFrame | None = None
        self.took_media_at: float | None = None
        self.images: list[Image] = []
        self.audio: list[np.ndarray] = []
        self.texts: list[str] = []
        self._engine = engine
        self._workflow = workflow
        self._memories = memories
        self._results: dict[str, tuple[Any, ...]] = {}
        self._pending: set[str] = set()

    def execute(self) -> None:
        self._check()
        for node_id, node in self._workflow.items():
            if NODE_CLASSES[node["class_type"]].is_output:
                self._result(node_id)

    def take_image(self, timeout_s: float) -> Image:
        frame = self._engine.image_inputs.get("video", timeout_s)
        self.took_media_at = time.monotonic()
        self.source = frame
        return frame.image

    def take_audio(self, timeout_s: float) -> Audio:
        chunk = self._engine.audio_inputs.get("audio", timeout_s)
        self.took_media_at = time.monotonic()
        return chunk

    def give_image(self, image: Image) -> None:
        self.images.append(image)

    def give_audio(self, samples: np.ndarray) -> None:
        self.audio.append(samples)

    def give_text(self, text: str) -> None:
        self.texts.append(text)

    def _check(self) -> None:
        for node_id, node in self._workflow.items():
            node_class = NODE_CLASSES.get(node["class_type"])
            if node_class is None:
                raise NodeFailed(
                    f"Cannot execute because node {node['class_type']} does not exist. "
                    f"Node ID '#{node_id}'"
                )
            for name, input_type in node_class.inputs.items():
                if input_type.required and name not in node["inputs"]:
                    raise NodeFailed(f"Required input is missing: {name} of node '#{node_id}'")
            for value in node["inputs"].values():
                if _is_link(value) and value[0] not in self._workflow:
                    raise NodeFailed(f"Node '#{node_id}' is linked to '#{value[0]}', not there")

    def _result(self, node_id: str) -> tuple[Any, ...]:
        if node_id in self._results:
            return self._results[node_id]
        if node_id in self._pending:
            raise NodeFailed(f"Dependency cycle at node '#{node_id}'")
        self._pending.add(node_id)
        node = self._workflow[node_id]
        node_class = NODE_CLASSES[node["class_type"]]
        inputs = {
            name: self._result(value[0])[value[1]] if _is_link(value) else value
            for name, value in node["inputs"].items()
            if name in node_class.inputs
        }
        memory = self._memories.setdefault((node_id, node_class.name), {})
        try:
            result = node_class.function(self, memory, **inputs)
        except (NodeFailed, InputTimeout, EngineClosed):
            raise
        except Exception as error:
            raise NodeFailed(f"Node '#{node_id}' ({node_class.name}): {error}") from error
        self._results[node_id] = result
        return result


class Engine:
    """The worker and its queues; belongs to one event loop.

    Args:
        board: gives the time of a run, its failure, and the ratio of outputs to inputs.
    """

    def __init__(self, board: FaultBoard) -> None:
        self.image_inputs: StreamInput[StreamFrame] = StreamInput(capacity=1)
        self.audio_inputs: StreamInput[Audio] = StreamInput(capacity=None)
        # Without a bound, as ComfyStream's are: what nobody reads piles up there too.
        self.video_outputs: asyncio.Queue[VideoOutput] = asyncio.Queue()
        self.audio_outputs: asyncio.Queue[np.ndarray] = asyncio.Queue()
        self.text_outputs: asyncio.Queue[str] = asyncio.Queue()
        self.runs = 0
        """Runs that ended with outputs."""
        self.idle = True
        """The worker runs nothing, or waits for input in a run."""
        self._board = board
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="standin-worker")
        self._stop = threading.Event()
        self._memories: dict[tuple[str, str], dict[str, Any]] = {}
        self._stream_runs = 0
        self._output_credit = 0.0

    async def run(self, workflow: Workflow) -> None:
        """Run `workflow` once, after what the worker is doing now.

        A cancelled `run` only stops waiting: once begun, the run goes on, takes its frame and
        gives its outputs.

        Raises:
            NodeFailed, InputTimeout, EngineClosed: as `Run`.
        """
        await asyncio.wrap_future(self._executor.submit(self._run, workflow))

    def workflow_changed(self) -> None:
        """Count runs towards `Faults.fail_after_runs` from here."""
        self._stream_runs = 0

    def clear(self) -> None:
        """Forget everything that waits on either side of the worker."""
        self.image_inputs.clear()
        self.audio_inputs.clear()
        for queue in (self.video_outputs, self.audio_outputs, self.text_outputs):
            while not queue.empty():
                queue.get_nowait()

    async def aclose(self) -> None:
        """End the worker thread, at once if it waits for input or spends processing time."""
        self._stop.set()
        self.image_inputs.close()
        self.audio_inputs.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._executor.shutdown)

    def _run(self, workflow: Workflow) -> None:
        known = {(node_id, node["class_type"]) for node_id, node in workflow.items()}
        self._memories = {key: self._memories[key] for key in known & self._memories.keys()}
        run = Run(self, workflow, self._memories)
        started_at = time.monotonic()
        run.execute()
        faults = self._board.current
        if run.source is not None and run.source.label is not None:
            self._stream_runs += 1
            if faults.fail_after_runs is not None and (
                self._stream_runs == faults.fail_after_runs + 1
            ):
                raise NodeFailed("a node failed, as asked")
        self.idle = False
        try:
            process_s = faults.process_ms[self.runs % len(faults.process_ms)] / 1000
            if run.took_media_at is None:
                process_s = max(process_s, MIN_FREE_RUN_S)
            remaining_s = (run.took_media_at or started_at) + process_s - time.monotonic()
            if remaining_s > 0 and self._stop.wait(remaining_s):
                raise EngineClosed
        finally:
            self.idle = True
        self.runs += 1
        self._loop.call_soon_threadsafe(self._deliver, run)

    def _deliver(self, run: Run) -> None:
        label = run.source.label if run.source is not None else None
        for image in run.images:
            for _ in range(self._copies(label)):
                self.video_outputs.put_nowait(VideoOutput(image, label))
        for samples in run.audio:
            self.audio_outputs.put_nowait(samples)
        for text in run.texts:
            self.text_outputs.put_nowait(text)

    def _copies(self, label: Label | None) -> int:
        if label is None:
            return 1
        self._output_credit += self._board.current.output_ratio
        copies = int(self._output_credit)
        self._output_credit -= copies
        return copies


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )
