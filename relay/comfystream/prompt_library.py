"""What the operator gives to prompts: a text workflow, and a folder of workflows to name.

    {"text": "..."}                              put into the text workflow
    {"workflow": "name"}                         name.json of the folder
    {"workflow": "name", "text": "..."}          the same, its {{prompt}} filled in

Files are read when they are named, so one that was changed is in force with the next request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from relay.comfystream.workflow_check import WorkflowReport, check_workflow
from relay.comfystream.workflows import (
    NormalizedPrompts,
    TextWorkflow,
    fill_text,
    holds_placeholder,
    normalize_prompts,
)
from relay.strict_json import parse_json

MOST_WORKFLOW_BYTES = 4 << 20
"""Of a file, and of all that one request names."""
MOST_NAMES_SHOWN = 30
_NAME = re.compile(r"[\w-][\w. -]{0,120}")
"""A file's name, without a way out of the folder."""


class PromptLibrary:
    """Makes workflows of prompts, with what the operator has.

    Args:
        text_workflow: file of the workflow for `{"text"}`; None for none.
        folder: of the workflows that can be named; None for none.

    Raises:
        TextWorkflowError: the text workflow can't be used.
    """

    def __init__(self, text_workflow: Path | None = None, folder: Path | None = None) -> None:
        self._text_workflow = TextWorkflow.load(text_workflow) if text_workflow else None
        self._folder = folder

    def normalize(self, prompts: object) -> NormalizedPrompts:
        """Workflows as ComfyStream takes them.

        Raises:
            PromptsError: with every fault.
        """
        named = NamedWorkflows(self._folder)
        return normalize_prompts(prompts, self._text_workflow, named.get)


@dataclass(frozen=True, slots=True)
class _File:
    workflow: dict[str, Any]
    report: WorkflowReport
    takes_text: bool
    size: int
    """Bytes."""


class NamedWorkflows:
    """The folder's workflows as one request names them: each file is read and checked once, and
    all that is made of them has a bound.

    Args:
        folder: None for none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, _File | str] = {}
        """By name; why there is none."""
        self._bytes = 0

    def get(self, name: str, text: str | None) -> tuple[dict[str, Any], WorkflowReport]:
        """The workflow of that name, with `text` in the place of its placeholder, and what the
        check of the file found.

        Raises:
            ValueError: why there is none, in words that follow the field's name.
        """
        stem = name.removesuffix(".json")
        if stem not in self._files:
            try:
                self._files[stem] = self._read(stem)
            except ValueError as error:
                self._files[stem] = str(error)
        file = self._files[stem]
        if isinstance(file, str):
            raise ValueError(file)
        if text is not None and not file.takes_text:
            raise ValueError("names a workflow without {{prompt}}, so its text has no place")
        self._bytes += file.size
        if self._bytes > MOST_WORKFLOW_BYTES:
            raise ValueError(
                f"makes the named workflows more than {MOST_WORKFLOW_BYTES} bytes together"
            )
        return fill_text(file.workflow, text or ""), file.report

    def _read(self, stem: str) -> _File:
        if self._folder is None:
            raise ValueError(
                "names a workflow, and this relay has no folder of them (RELAY_WORKFLOW_DIR)"
            )
        if not _NAME.fullmatch(stem):
            raise ValueError("is no name of a workflow: letters, digits, '-', '_', '.' and spaces")
        left = MOST_WORKFLOW_BYTES - self._bytes
        try:
            with (self._folder / f"{stem}.json").open("rb") as file:
                data = file.read(left + 1)
        except FileNotFoundError:
            raise ValueError(f"names no workflow of this relay; {self._names}") from None
        except OSError as error:
            raise ValueError(f"names a workflow that can't be read: {error.strerror}") from None
        if len(data) > left:
            raise ValueError(
                f"names a file of more than {MOST_WORKFLOW_BYTES} bytes, or one too many"
            )
        try:
            workflow = parse_json(data)
        except ValueError as error:
            raise ValueError(f"names a file that {error}") from None
        if not isinstance(workflow, dict):
            raise ValueError("names a file that is not one workflow")
        return _File(workflow, check_workflow(workflow), holds_placeholder(workflow), len(data))

    @cached_property
    def _names(self) -> str:
        assert self._folder is not None
        try:
            names = sorted(path.stem for path in self._folder.glob("*.json"))
        except OSError:
            names = []
        if not names:
            return "there are none"
        more = ", ..." if len(names) > MOST_NAMES_SHOWN else ""
        return f"there are {', '.join(names[:MOST_NAMES_SHOWN])}{more}"
