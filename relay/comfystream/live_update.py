"""What ComfyStream can change within a connection, and what it settles when that is offered."""

from __future__ import annotations

from typing import Any

from relay.comfystream.workflow_check import (
    AUDIO_INPUTS,
    AUDIO_OUTPUTS,
    TEXT_OUTPUTS,
    VIDEO_INPUTS,
    VIDEO_OUTPUTS,
    classes_of,
)

_KINDS = (VIDEO_INPUTS, VIDEO_OUTPUTS, AUDIO_INPUTS, AUDIO_OUTPUTS, TEXT_OUTPUTS)


def needs_new_offer(running: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Whether `wanted` can't take the place of `running` by update_prompts.

    That keeps the number of workflows (measured). Which media a connection carries, and whether
    text is sent, is looked up when it begins.
    """
    return len(running) != len(wanted) or _kinds(running) != _kinds(wanted)


def _kinds(workflows: list[dict[str, Any]]) -> list[bool]:
    classes = set().union(*(classes_of(workflow) for workflow in workflows))
    return [not classes.isdisjoint(kind) for kind in _KINDS]
