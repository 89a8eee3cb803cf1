"""What a prompt may look like, and what becomes of it before it runs.

A prompt is a ComfyUI workflow in API format: ``{node id: {"class_type", "inputs"}}``. Here its
shape and its inputs and outputs are checked and the image nodes of the ComfyUI page are replaced
by stream nodes. Whether its classes exist and its links lead anywhere shows only when it runs:
ComfyStream answers 200 to those and drops the workflow afterwards.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

Workflow = dict[str, dict[str, Any]]

VIDEO_INPUTS = frozenset({"LoadTensor", "PrimaryInputLoadImage", "LoadImage"})
VIDEO_OUTPUTS = frozenset({"SaveTensor", "PreviewImage", "SaveImage"})
AUDIO_INPUTS = frozenset({"LoadAudioTensor"})
AUDIO_OUTPUTS = frozenset({"SaveAudioTensor"})
TEXT_OUTPUTS = frozenset({"SaveTextTensor"})
MAX_INPUTS = 2
MAX_OUTPUTS = 3


class WorkflowRefused(Exception):
    """The prompt is no API-format workflow, or has the wrong inputs or outputs."""


@dataclass(frozen=True, slots=True)
class StreamPorts:
    """Which media a set of workflows takes from the stream and gives back."""

    video_in: bool = False
    video_out: bool = False
    audio_in: bool = False
    audio_out: bool = False
    text_out: bool = False

    @classmethod
    def of(cls, workflows: list[Workflow]) -> StreamPorts:
        classes = {node.get("class_type") for flow in workflows for node in flow.values()}
        return cls(
            video_in=bool(classes & VIDEO_INPUTS),
            video_out=bool(classes & VIDEO_OUTPUTS),
            audio_in=bool(classes & AUDIO_INPUTS),
            audio_out=bool(classes & AUDIO_OUTPUTS),
            text_out=bool(classes & TEXT_OUTPUTS),
        )


def passthrough_workflow() -> Workflow:
    """ComfyStream's default: the picture goes through unaltered."""
    return {
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
    }


def prepare(prompt: Any) -> Workflow:
    """Check the shape of a prompt and replace image nodes by stream nodes.

    Raises:
        WorkflowRefused: not a mapping of nodes, or inputs or outputs that ComfyStream refuses.
    """
    workflow = copy.deepcopy(_checked_shape(prompt))
    classes = Counter(node["class_type"] for node in workflow.values())
    primary = classes["PrimaryInputLoadImage"]
    inputs = sum(classes[name] for name in VIDEO_INPUTS | AUDIO_INPUTS) - primary
    outputs = sum(classes[name] for name in VIDEO_OUTPUTS | AUDIO_OUTPUTS | TEXT_OUTPUTS)
    if primary > 1:
        raise WorkflowRefused("too many primary inputs in prompt")
    if primary == 0 and inputs > MAX_INPUTS:
        raise WorkflowRefused("too many inputs in prompt")
    if primary + inputs == 0:
        raise WorkflowRefused("missing input")
    if outputs == 0:
        raise WorkflowRefused("missing output")
    if outputs > MAX_OUTPUTS:
        raise WorkflowRefused("too many outputs in prompt")

    only_load_image = primary == 0 and classes["LoadImage"] == 1
    for node in workflow.values():
        name = node["class_type"]
        if name == "PrimaryInputLoadImage" or (name == "LoadImage" and only_load_image):
            node.update(class_type="LoadTensor", inputs={})
        elif name in ("PreviewImage", "SaveImage"):
            node["class_type"] = "SaveTensor"
    return workflow


def _checked_shape(prompt: Any) -> Workflow:
    if not isinstance(prompt, dict):
        raise WorkflowRefused(f"Invalid inputs. Expected a workflow, got {type(prompt).__name__}")
    for node_id, node in prompt.items():
        if not isinstance(node, dict):
            raise WorkflowRefused(
                f"Invalid inputs for node {node_id}. Expected a node, got {type(node).__name__}"
            )
        if not isinstance(node.get("class_type"), str):
            raise WorkflowRefused(f"Invalid inputs for node {node_id}. Missing 'class_type'")
        if not isinstance(node.get("inputs"), dict):
            raise WorkflowRefused(f"Invalid inputs for node {node_id}. Missing 'inputs'")
    return prompt
