"""What ComfyStream would refuse, or take and silently not run, found before it is asked.

ComfyStream answers a workflow it can't convert with a bare 500, and one that ComfyUI can't
execute with success, after which it runs its own default workflow for good (measured on
v0.1.8). Either way the cause is only in its log; here it gets a node and a reason.

What can't be known here is which node classes a server has and what inputs they take: an
unknown class passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

VIDEO_INPUTS = frozenset({"LoadTensor", "PrimaryInputLoadImage", "LoadImage"})
AUDIO_INPUTS = frozenset({"LoadAudioTensor"})
VIDEO_OUTPUTS = frozenset({"SaveTensor", "PreviewImage", "SaveImage"})
AUDIO_OUTPUTS = frozenset({"SaveAudioTensor"})
TEXT_OUTPUTS = frozenset({"SaveTextTensor"})
OUTPUTS = VIDEO_OUTPUTS | AUDIO_OUTPUTS | TEXT_OUTPUTS
MOST_INPUTS = 2
MOST_OUTPUTS = 3

EXPORT_HINT = "export it with Workflow > Export (API) in ComfyUI"


@dataclass(frozen=True, slots=True)
class WorkflowFault:
    """One reason against a workflow."""

    problem: str
    node: str | None = None
    """The id of the node at fault, if it is one node's."""


@dataclass(slots=True)
class WorkflowReport:
    """What a check found."""

    faults: list[WorkflowFault] = field(default_factory=list)
    """Each alone keeps ComfyStream from running the workflow."""
    warnings: list[str] = field(default_factory=list)
    """It runs, though maybe not as meant."""


def check_workflow(workflow: dict[str, Any]) -> WorkflowReport:
    """Check one workflow in ComfyUI's API format: ``{id: {"class_type", "inputs"}}``."""
    report = WorkflowReport()
    wrong_format = _recognise_other_format(workflow)
    if wrong_format:
        report.faults.append(WorkflowFault(wrong_format))
        return report
    nodes: dict[str, dict[str, Any]] = {}
    for node_id, node in workflow.items():
        problem = _check_node(node)
        if problem:
            report.faults.append(WorkflowFault(problem, node_id))
        if isinstance(node, dict):
            nodes[node_id] = node
    links = _check_links(nodes, report)
    _check_cycles(links, report)
    _check_counts(nodes, report)
    _check_outputs(nodes, links, report)
    if not report.faults:
        _check_live_input(nodes, links, report)
    return report


def classes_of(workflow: dict[str, Any]) -> Counter[str]:
    """How often each node class occurs; nodes without one are left out."""
    return Counter(
        node["class_type"]
        for node in workflow.values()
        if isinstance(node, dict) and isinstance(node.get("class_type"), str)
    )


def takes_sound(workflows: list[dict[str, Any]]) -> bool:
    """Whether one of them takes sound from the stream."""
    return any(classes_of(workflow).keys() & AUDIO_INPUTS for workflow in workflows)


def gives_sound(workflows: list[dict[str, Any]]) -> bool:
    """Whether one of them gives sound back to the stream."""
    return any(classes_of(workflow).keys() & AUDIO_OUTPUTS for workflow in workflows)


def quoted(name: str) -> str:
    """A node id, class or input name as messages show it: one short line."""
    shown = name if len(name) <= 40 else f"{name[:37]}..."
    return repr(shown) if not shown.isprintable() or " " in shown or not shown else shown


def _recognise_other_format(workflow: dict[str, Any]) -> str | None:
    if not workflow:
        return "has no nodes"
    if isinstance(workflow.get("nodes"), list):
        return f"is in the format of ComfyUI's editor, which ComfyStream can't run; {EXPORT_HINT}"
    for wrapper in ("prompt", "output", "workflow"):
        inner = workflow.get(wrapper)
        if isinstance(inner, dict) and "class_type" not in inner:
            return f"is a wrapper around a workflow; send what stands under {wrapper!r}"
    return None


def _check_node(node: object) -> str | None:
    if not isinstance(node, dict):
        return "must be an object with class_type and inputs"
    class_type = node.get("class_type")
    problems = []
    if "class_type" not in node:
        problems.append("has no class_type")
    elif not isinstance(class_type, str) or not class_type.strip():
        problems.append("has a class_type that is not a name")
    if "inputs" not in node:
        problems.append("has no inputs; give {} if it takes none")
    elif not isinstance(node["inputs"], dict):
        problems.append("has inputs that are not an object")
    return " and ".join(problems) or None


def _check_links(nodes: dict[str, dict[str, Any]], report: WorkflowReport) -> dict[str, list[str]]:
    """Reports broken links; returns for each node the existing ones it takes input from."""
    links: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    for node_id, node in nodes.items():
        inputs = node.get("inputs")
        if not isinstance(inputs, dict):
            continue
        for name, value in inputs.items():
            if not isinstance(value, list):
                continue
            if len(value) != 2 or not isinstance(value[1], int | float):
                # ComfyUI takes any list in a declared input for a link; which inputs a class
                # declares is not known here.
                report.warnings.append(
                    f"node {quoted(node_id)}: input {quoted(name)} is a list but not a link"
                    " [node id, output index]; most nodes can't run with it"
                )
                continue
            problem = _check_link(value[0], value[1], nodes)
            if problem:
                report.faults.append(WorkflowFault(f"input {quoted(name)} {problem}", node_id))
            else:
                links[node_id].append(value[0])
    return links


def _check_link(source: object, index: object, nodes: dict[str, dict[str, Any]]) -> str | None:
    if not isinstance(source, str):
        if isinstance(source, int) and str(source) in nodes:
            return f'links to node {source} by number; node ids are strings: ["{source}", ...]'
        return "links to something that is not a node id"
    if source not in nodes:
        return f"links to node {quoted(source)}, which is not in the workflow"
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        return f"links to an output of node {quoted(source)} that is not a whole number from 0"
    return None


def _check_cycles(links: dict[str, list[str]], report: WorkflowReport) -> None:
    # Kahn's algorithm: what is left when no node without open inputs remains, is cyclic.
    waiting = {node_id: set(sources) for node_id, sources in links.items()}
    users: dict[str, set[str]] = {node_id: set() for node_id in links}
    for node_id, sources in waiting.items():
        for source in sources:
            users[source].add(node_id)
    ready = [node_id for node_id, sources in waiting.items() if not sources]
    while ready:
        done = ready.pop()
        del waiting[done]
        for user in users[done]:
            waiting[user].discard(done)
            if not waiting[user]:
                ready.append(user)
    if not waiting:
        return
    position: dict[str, int] = {}
    node_id = next(iter(waiting))
    while node_id not in position:
        position[node_id] = len(position)
        node_id = next(iter(waiting[node_id]))
    cycle = list(position)[position[node_id] :]
    shown = " <- ".join(quoted(n) for n in [*cycle[:8], *(["..."] if len(cycle) > 8 else [])])
    report.faults.append(
        WorkflowFault(f"depends on its own output ({shown} <- {quoted(node_id)})", node_id)
    )


def _check_counts(nodes: dict[str, dict[str, Any]], report: WorkflowReport) -> None:
    primary = list(_of_class(nodes, {"PrimaryInputLoadImage"}))
    others = list(_of_class(nodes, (VIDEO_INPUTS | AUDIO_INPUTS) - {"PrimaryInputLoadImage"}))
    pictures = list(_of_class(nodes, {"LoadImage"}))
    outputs = list(_of_class(nodes, OUTPUTS))
    video_outputs = list(_of_class(nodes, VIDEO_OUTPUTS))
    audio_outputs = list(_of_class(nodes, AUDIO_OUTPUTS))
    if not primary and not others:
        report.faults.append(
            WorkflowFault("has no live input; add a LoadTensor node (LoadAudioTensor for sound)")
        )
    if len(primary) > 1:
        report.faults.append(
            WorkflowFault(
                f"has {len(primary)} PrimaryInputLoadImage nodes ({_listed(primary)}); keep one"
            )
        )
    if not primary and len(others) > MOST_INPUTS:
        report.faults.append(
            WorkflowFault(
                f"has {len(others)} inputs ({_listed(others)}), more than {MOST_INPUTS}; make the"
                " live one PrimaryInputLoadImage, then pictures may be as many as you like"
            )
        )
    if not primary and len(pictures) == len(others) == MOST_INPUTS:
        report.faults.append(
            WorkflowFault(
                f"has two LoadImage nodes ({_listed(pictures)}) and none is the live one; make it"
                " PrimaryInputLoadImage"
            )
        )
    if not outputs:
        report.faults.append(
            WorkflowFault("has no output; add a SaveTensor node (SaveAudioTensor for sound)")
        )
    if len(outputs) > MOST_OUTPUTS:
        report.faults.append(
            WorkflowFault(
                f"has {len(outputs)} outputs ({_listed(outputs)}), more than {MOST_OUTPUTS}"
            )
        )
    if len(video_outputs) > 1:
        report.faults.append(
            WorkflowFault(
                f"has {len(video_outputs)} video outputs ({_listed(video_outputs)}); each would"
                " send every frame once more and the delay would grow without end; keep one"
            )
        )
    if len(audio_outputs) > 1:
        report.faults.append(
            WorkflowFault(
                f"has {len(audio_outputs)} audio outputs ({_listed(audio_outputs)}); keep one"
            )
        )


def _check_outputs(
    nodes: dict[str, dict[str, Any]], links: dict[str, list[str]], report: WorkflowReport
) -> None:
    for node_id in _of_class(nodes, OUTPUTS):
        inputs = nodes[node_id].get("inputs")
        has_link = isinstance(inputs, dict) and any(isinstance(v, list) for v in inputs.values())
        if isinstance(inputs, dict) and not has_link and not links[node_id]:
            report.faults.append(
                WorkflowFault("is an output that nothing is connected to", node_id)
            )


def _check_live_input(
    nodes: dict[str, dict[str, Any]], links: dict[str, list[str]], report: WorkflowReport
) -> None:
    primary = list(_of_class(nodes, {"PrimaryInputLoadImage"}))
    tensors = list(_of_class(nodes, {"LoadTensor"} | AUDIO_INPUTS))
    pictures = list(_of_class(nodes, {"LoadImage"}))
    if not primary and tensors and len(pictures) == 1:
        report.warnings.append(
            f"node {quoted(pictures[0])}: ComfyStream replaces the only LoadImage by the live"
            " picture; make the live one PrimaryInputLoadImage to keep it"
        )
    live = {*primary, *tensors, *([] if primary or len(pictures) != 1 else pictures)}
    video = live - set(_of_class(nodes, AUDIO_INPUTS))
    if len(video) > 1:
        report.warnings.append(
            f"nodes {_listed(sorted(video))} each take a frame of their own, so every run uses"
            f" {len(video)} frames; connect one node to all that need the picture"
        )
    used: set[str] = set()
    to_visit = list(_of_class(nodes, OUTPUTS))
    while to_visit:
        node_id = to_visit.pop()
        if node_id not in used:
            used.add(node_id)
            to_visit.extend(links[node_id])
    for node_id in sorted(live - used):
        report.warnings.append(f"node {quoted(node_id)}: no output depends on this live input")


def _of_class(
    nodes: dict[str, dict[str, Any]], classes: frozenset[str] | set[str]
) -> Iterator[str]:
    for node_id, node in nodes.items():
        class_type = node.get("class_type")
        if isinstance(class_type, str) and class_type in classes:
            yield node_id


def _listed(node_ids: list[str]) -> str:
    shown = ", ".join(quoted(node_id) for node_id in node_ids[:8])
    return f"{shown}, ..." if len(node_ids) > 8 else shown
