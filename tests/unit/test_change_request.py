"""Requests to change a session: what our API takes, and what gateways send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay.changes.change_request import ChangeRequest, read_change
from relay.changes.session_change import SessionChange
from relay.comfystream.prompt_library import PromptLibrary
from relay.comfystream.workflow_check import WorkflowReport, check_workflow
from relay.comfystream.workflows import DEFAULT_WORKFLOW, PromptsError
from relay.errors import ValidationFailed

SOUND = {
    "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500.0}},
    "2": {"class_type": "SaveAudioTensor", "inputs": {"audio": ["1", 0]}},
}
TEXT = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {
        "class_type": "Style",
        "inputs": {"image": ["1", 0], "text": "in the style of {{prompt}}"},
    },
    "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
}


def read(params: dict[str, Any], **options: Any) -> ChangeRequest:
    return read_change(params, PromptLibrary().normalize, **{"has_sound": False} | options)


@pytest.mark.parametrize(
    ("params", "change"),
    [
        ({"prompts": DEFAULT_WORKFLOW}, SessionChange(prompts=[DEFAULT_WORKFLOW])),
        ({"prompts": [json.dumps(DEFAULT_WORKFLOW)]}, SessionChange(prompts=[DEFAULT_WORKFLOW])),
        ({"prompts": []}, SessionChange(prompts=[])),
        ({"width": 640.0, "height": None}, SessionChange(width=640)),
        ({"width": 641, "height": 481}, SessionChange(width=640, height=480)),
        ({"paused": False}, SessionChange(paused=False)),
    ],
)
def test_what_the_api_takes(params: dict[str, Any], change: SessionChange) -> None:
    """The shapes of a start; null counts as not given."""
    assert read(params).change == change


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "changes nothing"),
        ({"width": None}, "changes nothing"),
        ({"width": "640"}, "width must be a whole number"),
        ({"width": True}, "width must be a whole number"),
        ({"height": 8}, "height must be from 16 to 4096"),
        ({"paused": "yes"}, "paused must be true or false"),
        ({"widht": 640}, "did you mean width?"),
        ({"prompts": {"nodes": []}}, "Export (API)"),
        ({"prompts": SOUND}, "take sound"),
        ({"prompts": {"workflow": "x"}}, "RELAY_WORKFLOW_DIR"),
    ],
)
def test_what_the_api_refuses(params: dict[str, Any], words: str) -> None:
    """Every fault, with what to do."""
    with pytest.raises(ValidationFailed) as caught:
        read(params)
    assert words in caught.value.message
    assert (caught.value.http_status, caught.value.code) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ({"prompts": json.dumps([DEFAULT_WORKFLOW])}, SessionChange(prompts=[DEFAULT_WORKFLOW])),
        ({"prompt": json.dumps(DEFAULT_WORKFLOW)}, SessionChange(prompts=[DEFAULT_WORKFLOW])),
        ({"prompt": "a cat"}, SessionChange(prompts=[DEFAULT_WORKFLOW])),
        ({"width": "640", "height": "480"}, SessionChange(width=640, height=480)),
        ({"params": {"width": 320}}, SessionChange(width=320)),
        ({"model_id": "x", "width": 320}, SessionChange(width=320)),
        ({"max_framerate": "24", "width": 320}, SessionChange(width=320, max_fps=24)),
        ({"width": " " * 12 + "640 "}, SessionChange(width=640)),
    ],
)
def test_what_gateways_send(message: dict[str, Any], change: SessionChange) -> None:
    """Params of many writers, as recorded: text for numbers, prompt for prompts, keys of others."""
    read_it = read(message, lenient=True).change
    for name in change.names:
        assert getattr(read_it, name) == getattr(change, name)
    assert read_it.names - {"params"} == change.names


def test_a_message_for_others_changes_nothing() -> None:
    """Not even the params that are told to the orchestrator."""
    assert read({"model_id": "x"}, lenient=True).change == SessionChange()


def test_named_workflows(tmp_path: Path) -> None:
    """By file name, with text in its place; the folder can't be left, and the names are told."""
    (tmp_path / "style transfer.json").write_text(json.dumps(TEXT))
    (tmp_path / "invert.json").write_text(json.dumps(DEFAULT_WORKFLOW))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path.parent / "secret.json").write_text(json.dumps(DEFAULT_WORKFLOW))
    library = PromptLibrary(folder=tmp_path)
    [filled] = library.normalize({"workflow": "style transfer", "text": "a cat"}).workflows
    assert filled["2"]["inputs"]["text"] == "in the style of a cat"
    assert library.normalize([{"workflow": "invert.json"}]).workflows == [DEFAULT_WORKFLOW]
    for entry, words in (
        ({"workflow": "none"}, "there are broken, invert, style transfer"),
        ({"workflow": "../secret"}, "is no name"),
        ({"workflow": "/etc/passwd"}, "is no name"),
        ({"workflow": ".."}, "is no name"),
        ({"workflow": "a\x00b"}, "is no name"),
        ({"workflow": ""}, "is no name"),
        ({"workflow": "broken"}, "is not JSON"),
        ({"workflow": "invert", "text": "a"}, "without {{prompt}}"),
        ({"workflow": "invert", "text": 7}, "must be a string"),
        ({"workflow": "invert", "x": 7}, "has x beside workflow"),
    ):
        with pytest.raises(PromptsError) as caught:
            library.normalize(entry)
        assert words in caught.value.message, caught.value.message


def test_a_named_workflow_is_read_and_checked_once_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is named, with whatever text; the next request reads it again."""
    (tmp_path / "style.json").write_text(json.dumps(TEXT))
    checked: list[object] = []

    def check(workflow: dict[str, Any]) -> WorkflowReport:
        checked.append(workflow)
        return check_workflow(workflow)

    monkeypatch.setattr("relay.comfystream.prompt_library.check_workflow", check)
    monkeypatch.setattr("relay.comfystream.workflows.check_workflow", check)
    library = PromptLibrary(folder=tmp_path)
    prompts = [{"workflow": "style", "text": f"cat {number}"} for number in range(8)]
    workflows = library.normalize(prompts).workflows
    assert [w["2"]["inputs"]["text"] for w in workflows] == [
        f"in the style of cat {number}" for number in range(8)
    ]
    assert len(checked) == 1
    library.normalize(prompts)
    assert len(checked) == 2


def test_what_is_made_of_named_workflows_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small request does not make much of large files, nor of many that are none."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(TEXT))
    size = (tmp_path / "a.json").stat().st_size
    monkeypatch.setattr("relay.comfystream.prompt_library.MOST_WORKFLOW_BYTES", 3 * size)
    library = PromptLibrary(folder=tmp_path)
    a, b = {"workflow": "a"}, {"workflow": "b"}
    assert len(library.normalize([a, b, a]).workflows) == 3
    for prompts in ([a, a, a, a], [a, a, a, b]):
        with pytest.raises(PromptsError) as caught:
            library.normalize(prompts)
        assert [fault.field for fault in caught.value.faults] == ["prompts[3].workflow"]
