"""Prompts, in every shape people send them, as the list of workflows ComfyStream takes.

    []                              pass the frames through unprocessed
    null, {}, ""                    the same, as ComfyStream has it, with a warning
    {workflow}                      one workflow in API format
    [{workflow}, ...]               several, which ComfyStream runs in turn
    "..."                           JSON text of one of the above
    ["...", ...]                    JSON text of a workflow in each place
    {"text": "..."}                 put into the operator's text workflow
    {"workflow": "name", ...}       a workflow of the operator's folder (prompt_library)
    [{"text": "..."}, ...]          the same in a list

JSON text inside JSON text is read once, not again. Messages name fields, nodes and classes and
never hold text of a prompt.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.comfystream.workflow_check import (
    AUDIO_OUTPUTS,
    VIDEO_OUTPUTS,
    WorkflowFault,
    WorkflowReport,
    check_workflow,
    classes_of,
    quoted,
)
from relay.errors import RelayError, RequestError
from relay.strict_json import parse_json

DEFAULT_WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
}
"""Inverts the picture. All three classes come with ComfyUI and ComfyStream."""

MOST_WORKFLOWS = 64
"""In one request. ComfyStream takes turns between them, so even a few are unusual."""
MOST_FAULTS = 100
MOST_WARNINGS = 20

_PLACEHOLDER = re.compile(r"\{\{\s*prompt\s*\}\}")


@dataclass(frozen=True, slots=True)
class PromptFault:
    """One fault of the prompts."""

    field: str
    """``prompts`` or ``prompts[2]``."""
    problem: str
    node: str | None = None

    def to_dict(self) -> dict[str, str]:
        """The entry in `details` of an HTTP answer."""
        plain = {"field": self.field, "problem": self.problem}
        return plain if self.node is None else plain | {"node": self.node}


class PromptsError(RequestError):
    """The prompts can't be run.

    Args:
        faults: all that were found, at least one.
    """

    def __init__(self, faults: list[PromptFault]) -> None:
        super().__init__(
            "; ".join(f"{fault.field} {fault.problem}" for fault in faults[:5]),
            code="invalid_prompts",
            http_status=422,
            details=[fault.to_dict() for fault in faults],
        )
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class NormalizedPrompts:
    """Prompts as ComfyStream takes them."""

    workflows: list[dict[str, Any]]
    """Empty passes the frames through."""
    warnings: tuple[str, ...] = ()


class TextWorkflow:
    """The operator's workflow that text prompts are put into.

    Args:
        workflow: API format; `{{prompt}}` stands in one or more of its string values.

    Raises:
        TextWorkflowError: it has no placeholder, or ComfyStream could not run it.
    """

    def __init__(self, workflow: dict[str, Any]) -> None:
        faults = [_with_node(fault) for fault in check_workflow(workflow).faults]
        if not faults and not holds_placeholder(workflow):
            faults.append("holds no {{prompt}} in any of its string values")
        if faults:
            raise TextWorkflowError("the text workflow " + "; ".join(faults))
        self._workflow = workflow

    @classmethod
    def load(cls, path: Path) -> TextWorkflow:
        """Read it from a file.

        Raises:
            TextWorkflowError: the file can't be read or used.
        """
        try:
            workflow = parse_json(path.read_bytes())
        except OSError as error:
            raise TextWorkflowError(
                f"the text workflow {path} can't be read: {error.strerror}"
            ) from None
        except ValueError as error:
            raise TextWorkflowError(f"the text workflow {path} {error}") from None
        if not isinstance(workflow, dict):
            raise TextWorkflowError(f"the text workflow {path} is not a JSON object")
        return cls(workflow)

    def fill(self, text: str) -> dict[str, Any]:
        """A workflow of its own with `text` in every place of the placeholder. The text goes
        into parsed values, so no quoting in it can change the workflow."""
        return fill_text(self._workflow, text)


class TextWorkflowError(RelayError):
    """The operator's text workflow can't be used."""

    code = "invalid_text_workflow"


def holds_placeholder(workflow: dict[str, Any]) -> bool:
    """Whether text can be put into it."""
    return fill_text(workflow, "") != workflow


def fill_text(workflow: dict[str, Any], text: str) -> dict[str, Any]:
    """A workflow of its own with `text` in every place of `{{prompt}}`."""
    filled: dict[str, Any] = _fill(workflow, text)
    return filled


NamedWorkflow = Callable[[str, str | None], tuple[dict[str, Any], WorkflowReport]]
"""The workflow of a name, with a text in it, and what its check found; raises ValueError in words
that follow the field."""


def normalize_prompts(
    prompts: object,
    text_workflow: TextWorkflow | None = None,
    named: NamedWorkflow | None = None,
) -> NormalizedPrompts:
    """Bring prompts to one shape and check them. What is passed in is not changed.

    Raises:
        PromptsError: with every fault of every workflow, up to `MOST_FAULTS`.
    """
    reader = _Reader(text_workflow, named)
    reader.read(prompts)
    if reader.faults:
        raise PromptsError(reader.faults)
    warnings = list(dict.fromkeys(reader.warnings))
    if len(warnings) > MOST_WARNINGS:
        warnings[MOST_WARNINGS:] = [f"and {len(warnings) - MOST_WARNINGS} more of that kind"]
    return NormalizedPrompts(reader.workflows, tuple(warnings))


class _Reader:
    """Collects workflows, faults and warnings from one request's prompts."""

    def __init__(self, text_workflow: TextWorkflow | None, named: NamedWorkflow | None) -> None:
        self._named = named
        self.workflows: list[dict[str, Any]] = []
        self.faults: list[PromptFault] = []
        self.warnings: list[str] = []
        self._text_workflow = text_workflow

    def read(self, prompts: object) -> None:
        if isinstance(prompts, str) and prompts.strip():
            prompts = self._parse("prompts", prompts)
            if self.faults:
                return
        if prompts is None or prompts == {} or (isinstance(prompts, str) and not prompts.strip()):
            self.warnings.append("prompts is empty: frames pass through; send [] to say so")
            return
        if isinstance(prompts, list) and len(prompts) > MOST_WORKFLOWS:
            self._refuse(
                "prompts", f"has {len(prompts)} workflows; send {MOST_WORKFLOWS} at the most"
            )
            return
        if isinstance(prompts, list):
            for index, entry in enumerate(prompts):
                self._read_entry(f"prompts[{index}]", entry)
        else:
            self._read_entry("prompts", prompts)
        self._check_together()

    def _read_entry(self, field: str, entry: object) -> None:
        if isinstance(entry, str):
            faults_before = len(self.faults)
            entry = self._parse(field, entry)
            if len(self.faults) > faults_before:
                return
        if not isinstance(entry, dict):
            self._refuse(field, 'must be a workflow in API format, or {"text": "..."}')
        elif isinstance(entry.get("workflow"), str):
            self._read_named(field, entry)
        elif "text" in entry and not isinstance(entry["text"], dict):
            self._read_text(field, entry)
        else:
            self._add(field, entry, check_workflow(entry))

    def _parse(self, field: str, text: str) -> object:
        try:
            value = parse_json(text)
        except ValueError as error:
            self._refuse(field, f'{error}; to send words, write {{"text": "..."}}')
            return None
        if isinstance(value, str):
            self._refuse(field, "is JSON text inside JSON text; encode it once")
        return value

    def _read_named(self, field: str, entry: dict[str, Any]) -> None:
        for name in entry:
            if name not in ("workflow", "text"):
                self._refuse(field, f"has {quoted(name)} beside workflow, which is not known")
        text = entry.get("text")
        if text is not None and not isinstance(text, str):
            self._refuse(f"{field}.text", "must be a string")
        elif self._named is None:
            self._refuse(f"{field}.workflow", "can't be given by name here")
        else:
            try:
                workflow, report = self._named(entry["workflow"], text)
            except ValueError as error:
                self._refuse(f"{field}.workflow", str(error))
            else:
                self._add(field, workflow, report)

    def _read_text(self, field: str, entry: dict[str, Any]) -> None:
        for name in entry:
            if name != "text":
                self._refuse(field, f"has {quoted(name)} beside text, which is not known")
        text = entry["text"]
        if not isinstance(text, str):
            self._refuse(f"{field}.text", "must be a string")
        elif self._text_workflow is None:
            self.workflows.append(copy.deepcopy(DEFAULT_WORKFLOW))
            self.warnings.append(
                "no text workflow is configured (RELAY_TEXT_WORKFLOW): the text is not used and"
                " the default workflow, which inverts the picture, runs instead"
            )
        else:
            self.workflows.append(self._text_workflow.fill(text))

    def _add(self, field: str, workflow: dict[str, Any], report: WorkflowReport) -> None:
        self.faults.extend(
            PromptFault(field, _with_node(fault), fault.node)
            for fault in report.faults[: max(0, MOST_FAULTS - len(self.faults))]
        )
        self.warnings.extend(f"{field} {warning}" for warning in report.warnings)
        self.workflows.append(workflow)

    def _check_together(self) -> None:
        """What shows only in all workflows of a request."""
        classes = set().union(*(classes_of(workflow) for workflow in self.workflows))
        if classes & VIDEO_OUTPUTS and classes & AUDIO_OUTPUTS:
            self._refuse(
                "prompts",
                "has video and audio outputs, on which ComfyStream hangs for ever;"
                " keep one kind (the other passes through)",
            )
        if len(self.workflows) > 1:
            self.warnings.append(
                f"ComfyStream runs the {len(self.workflows)} workflows in turn, each on every"
                f" {_ordinal(len(self.workflows))} frame, not one after the other"
            )

    def _refuse(self, field: str, problem: str) -> None:
        self.faults.append(PromptFault(field, problem))


def _with_node(fault: WorkflowFault) -> str:
    return fault.problem if fault.node is None else f"node {quoted(fault.node)} {fault.problem}"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _fill(value: Any, text: str) -> Any:
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda _: text, value) if "{{" in value else value
        case dict():
            return {key: _fill(inner, text) for key, inner in value.items()}
        case list():
            return [_fill(inner, text) for inner in value]
        case _:
            return value
