"""Keeps the workflows in force running, in turn, for as long as it is enabled.

A workflow that fails is replaced, without a word to anyone, by the one that passes the picture
through. Stopping cancels the runner but not the run that the worker is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from demo.standin.engine import Engine, EngineClosed, InputTimeout
from demo.standin.faults import FaultBoard, Faults
from demo.standin.nodes import NODE_CLASSES, NodeFailed
from demo.standin.workflow import Workflow, passthrough_workflow, prepare

logger = logging.getLogger(__name__)


class UpdateFailed(Exception):
    """A live update was refused; the message is what the control channel sends."""


class WorkflowRunner:
    """Runs a list of workflows round robin on the engine."""

    def __init__(self, engine: Engine, board: FaultBoard) -> None:
        self.workflows: list[Workflow] = []
        self.fallen_back = False
        """A workflow failed and the passthrough took its place."""
        self._engine = engine
        self._enabled = asyncio.Event()
        self._thawed = asyncio.Event()
        self._update_lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        board.subscribe(self._on_faults)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done() and self._enabled.is_set()

    def set_prompts(self, prompts: list[Any]) -> None:
        """Put other workflows in force; whether they run is not changed.

        Raises:
            WorkflowRefused: one of them is no workflow. The runner is left disabled, with the
                workflows it had.
            ValueError: there are none.
        """
        if not prompts:
            raise ValueError("Cannot set empty prompts list")
        was_enabled = self._enabled.is_set()
        self._enabled.clear()
        self.workflows = [prepare(prompt) for prompt in prompts]
        self.fallen_back = False
        self._engine.workflow_changed()
        self._ensure_task()
        if was_enabled:
            self._enabled.set()

    async def update_prompts(self, prompts: list[Any]) -> None:
        """Replace workflows one for one, each after one run of it that succeeds.

        Raises:
            UpdateFailed: another number of workflows, or a run that fails.
            WorkflowRefused: one of them is no workflow.
        """
        async with self._update_lock:
            if len(prompts) != len(self.workflows):
                raise UpdateFailed(
                    "Number of updated prompts must match the number of currently running prompts."
                )
            for index, prompt in enumerate(prompts):
                workflow = prepare(prompt)
                try:
                    await self._engine.run(workflow)
                except (NodeFailed, InputTimeout) as error:
                    raise UpdateFailed(f"Prompt update failed: {error}") from error
                self.workflows[index] = workflow
            self.fallen_back = False

    def pause(self) -> None:
        self._enabled.clear()

    def resume(self) -> None:
        self._ensure_task()
        self._enabled.set()

    async def stop(self) -> None:
        """Cancel the runner; the workflows stay in force for a later `resume`."""
        self._enabled.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def describe(self) -> dict[str, dict[str, Any]]:
        """What ``get_nodes`` answers: the known nodes of the workflows in force, by position."""
        return {str(index): _describe(flow) for index, flow in enumerate(self.workflows)}

    def _ensure_task(self) -> None:
        if self.workflows and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="standin runner")

    async def _run(self) -> None:
        while True:
            await self._enabled.wait()
            async with self._update_lock:
                workflows = list(self.workflows)
            for workflow in workflows:
                await self._thawed.wait()
                if not self._enabled.is_set():
                    break
                try:
                    await self._engine.run(workflow)
                except InputTimeout as error:
                    logger.debug("%s, trying again", error)
                except NodeFailed as error:
                    logger.warning("workflow failed, passing pictures through: %s", error)
                    await self._fall_back()
                    break
                except EngineClosed:
                    return

    async def _fall_back(self) -> None:
        self._enabled.clear()
        async with self._update_lock:
            self.workflows = [passthrough_workflow()]
        self.fallen_back = True
        self._enabled.set()

    def _on_faults(self, faults: Faults) -> None:
        if faults.frozen:
            self._thawed.clear()
        else:
            self._thawed.set()


def _describe(workflow: Workflow) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for node_id, node in workflow.items():
        node_class = NODE_CLASSES.get(node["class_type"])
        if node_class is None:
            continue
        inputs = {}
        for name, value in node["inputs"].items():
            known = node_class.inputs.get(name)
            inputs[name] = {
                "value": value,
                "type": known.type if known else "unknown",
                "min": known.min if known else None,
                "max": known.max if known else None,
                "widget": None,
            }
        nodes[node_id] = {"class_type": node_class.name, "inputs": inputs}
    return nodes
