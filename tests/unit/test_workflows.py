"""Prompts in every shape people send them, and workflows ComfyStream would not run."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.comfystream.workflow_check import check_workflow
from relay.comfystream.workflows import (
    DEFAULT_WORKFLOW,
    PromptsError,
    TextWorkflow,
    TextWorkflowError,
    normalize_prompts,
)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


INVERT = {
    "1": node("LoadTensor"),
    "2": node("ImageInvert", image=["1", 0]),
    "3": node("SaveTensor", images=["2", 0]),
}
PITCH = {
    "1": node("LoadAudioTensor", buffer_size=500.0),
    "2": node("PitchShifter", audio=["1", 0]),
    "3": node("SaveAudioTensor", audio=["2", 0]),
}
TRANSCRIBE = {
    "1": node("LoadAudioTensor"),
    "2": node("AudioTranscriptionNode", audio=["1", 0]),
    "3": node("SaveTextTensor", data=["2", 0]),
}
TEXT = {
    "1": node("LoadTensor"),
    "2": node("StyleNode", image=["1", 0], text="a {{prompt}}, {{ prompt }}!"),
    "3": node("SaveTensor", images=["2", 0]),
}
EDITOR_FORMAT = {"last_node_id": 3, "nodes": [{"id": 1, "type": "LoadTensor"}], "links": []}


def changed(workflow: dict[str, Any], **nodes: Any) -> dict[str, Any]:
    """A copy with nodes replaced or added (`n4=...` is node 4)."""
    return copy.deepcopy(workflow) | {
        name.removeprefix("n"): value for name, value in nodes.items()
    }


def problems_of(prompts: object) -> list[str]:
    with pytest.raises(PromptsError) as caught:
        normalize_prompts(prompts)
    return [f"{fault.field} {fault.problem}" for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("prompts", "workflows"),
    [
        ([], []),
        ("[]", []),
        (INVERT, [INVERT]),
        ([INVERT], [INVERT]),
        ([INVERT, INVERT], [INVERT, INVERT]),
        (json.dumps(INVERT), [INVERT]),
        (json.dumps([INVERT]), [INVERT]),
        ([json.dumps(INVERT)], [INVERT]),
        (json.dumps([json.dumps(INVERT)]), [INVERT]),
        (f"\n {json.dumps(INVERT)} ", [INVERT]),
        (PITCH, [PITCH]),
        (TRANSCRIBE, [TRANSCRIBE]),
    ],
)
def test_every_shape_becomes_a_list_of_workflows(
    prompts: object, workflows: list[dict[str, Any]]
) -> None:
    """What ComfyStream gets is always the same shape, whatever was sent."""
    assert normalize_prompts(prompts).workflows == workflows


@pytest.mark.parametrize("prompts", [None, {}, "", "  ", "null", "{}"])
def test_empty_prompts_pass_frames_through_and_say_so(prompts: object) -> None:
    """ComfyStream takes them for passthrough; the answer tells it was understood so."""
    normalized = normalize_prompts(prompts)
    assert normalized.workflows == []
    assert "pass through" in normalized.warnings[0]


def test_passthrough_asked_for_is_no_surprise() -> None:
    """`[]` is the documented way; it needs no warning."""
    assert normalize_prompts([]).warnings == ()


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ("a cat", "prompts is not JSON"),
        (["a cat"], "prompts[0] is not JSON"),
        ("a cat", '{"text": "..."}'),
        (json.dumps(json.dumps(INVERT)), "encode it once"),
        ("[1e999]", "double"),
        (5, "prompts must be a workflow"),
        (True, "prompts must be a workflow"),
        ([None], "prompts[0] must be a workflow"),
        ([[INVERT]], "prompts[0] must be a workflow"),
        ([{}], "prompts[0] has no nodes"),
        ([INVERT, 7], "prompts[1] must be a workflow"),
        ({"text": 5}, "prompts.text must be a string"),
        ([{"text": None}], "prompts[0].text must be a string"),
        ({"text": "x", "negative": "y"}, "prompts has negative beside text"),
        (EDITOR_FORMAT, "Export (API)"),
        ({"prompt": INVERT, "client_id": "x"}, "send what stands under 'prompt'"),
        ({"output": INVERT, "workflow": EDITOR_FORMAT}, "send what stands under 'output'"),
    ],
)
def test_what_is_no_workflow_is_refused_with_its_place(prompts: object, problem: str) -> None:
    """The field and what to do instead are named."""
    assert any(problem in found for found in problems_of(prompts))


@pytest.mark.parametrize(
    ("workflow", "problem"),
    [
        (changed(INVERT, n2=5), "node 2 must be an object"),
        (changed(INVERT, n2={"inputs": {}}), "node 2 has no class_type"),
        (changed(INVERT, n2={"class_type": 5, "inputs": {}}), "node 2 has a class_type"),
        (changed(INVERT, n2={"class_type": " ", "inputs": {}}), "node 2 has a class_type"),
        (changed(INVERT, n2={"class_type": "X"}), "node 2 has no inputs"),
        (changed(INVERT, n2={"class_type": "X", "inputs": []}), "node 2 has inputs that are not"),
        (changed(INVERT, n3=node("SaveTensor", images=["9", 0])), "node 3 input images links to"),
        (changed(INVERT, n3=node("SaveTensor", images=[2, 0])), "by number; node ids are strings"),
        (changed(INVERT, n3=node("SaveTensor", images=[None, 0])), "not a node id"),
        (changed(INVERT, n3=node("SaveTensor", images=["2", -1])), "whole number from 0"),
        (changed(INVERT, n3=node("SaveTensor", images=["2", 0.5])), "whole number from 0"),
        (changed(INVERT, n3=node("SaveTensor")), "node 3 is an output that nothing"),
        (changed(INVERT, n2=node("X", a=["2", 0])), "depends on its own output (2 <- 2)"),
        (
            changed(INVERT, n2=node("X", a=["4", 0]), n4=node("Y", b=["2", 0])),
            "depends on its own output",
        ),
        (changed(INVERT, n1=node("EmptyImage")), "has no live input"),
        (changed(INVERT, n3=node("SaveLatent", x=["2", 0])), "has no output"),
        (
            changed(INVERT, n4=node("PrimaryInputLoadImage"), n5=node("PrimaryInputLoadImage")),
            "2 PrimaryInputLoadImage nodes (4, 5)",
        ),
        (
            changed(INVERT, n4=node("LoadImage", image="a"), n5=node("LoadImage", image="b")),
            "3 inputs (1, 4, 5), more than 2",
        ),
        (
            changed(INVERT, n1=node("LoadImage", image="a"), n4=node("LoadImage", image="b")),
            "two LoadImage nodes (1, 4)",
        ),
        (changed(INVERT, n4=node("PreviewImage", images=["2", 0])), "2 video outputs (3, 4)"),
        (
            changed(PITCH, **{f"n{i}": node("SaveTextTensor", data=["2", 0]) for i in range(4, 7)}),
            "4 outputs (3, 4, 5, 6), more than 3",
        ),
        (
            changed(INVERT, n4=node("LoadAudioTensor"), n5=node("SaveAudioTensor", audio=["4", 0])),
            "hangs for ever",
        ),
    ],
)
def test_what_comfystream_would_not_run_is_refused(workflow: dict[str, Any], problem: str) -> None:
    """Each way in which the server answers 500, hangs, or silently runs something else."""
    assert any(problem in found for found in problems_of([workflow]))


def test_video_and_audio_outputs_in_two_workflows_hang_as_well() -> None:
    """The server looks at all workflows together, and so do we."""
    assert any("hangs for ever" in problem for problem in problems_of([INVERT, PITCH]))


def test_all_faults_are_found_at_once() -> None:
    """One answer is enough to correct everything."""
    broken = changed(INVERT, n1=5, n2={"class_type": "X"}, n3=node("SaveTensor", images=["9", 0]))
    problems = problems_of([broken, "nonsense", {}])
    for expected in (
        "prompts[0] node 1 must",
        "prompts[0] node 2 has no inputs",
        "prompts[0] node 3 input images",
        "prompts[0] has no live input",
        "prompts[1] is not JSON",
        "prompts[2] has no nodes",
    ):
        assert any(problem.startswith(expected) for problem in problems), expected


def test_faults_name_their_node_for_programs_too() -> None:
    """The HTTP answer has the id in a field of its own."""
    with pytest.raises(PromptsError) as caught:
        normalize_prompts([changed(INVERT, n2={"inputs": {}})])
    assert caught.value.details["details"] == [
        {"field": "prompts[0]", "problem": "node 2 has no class_type", "node": "2"}
    ]
    assert (caught.value.http_status, caught.value.code) == (422, "invalid_prompts")


def test_unknown_classes_pass() -> None:
    """Which nodes a server has installed only the server knows."""
    workflow = changed(INVERT, n2=node("MyStudio.Node v2", image=["1", 0], strength=0.5))
    assert normalize_prompts([workflow]).workflows == [workflow]


@pytest.mark.parametrize(
    ("workflow", "warning"),
    [
        (changed(INVERT, n4=node("LoadImage", image="a.png")), "replaces the only LoadImage"),
        (changed(INVERT, n4=node("LoadTensor")), "nodes 1, 4 each take a frame"),
        (changed(INVERT, n2=node("EmptyImage")), "node 1: no output depends on this live input"),
        (changed(INVERT, n2=node("X", image=["1", 0], size=[1, 2, 3])), "input size is a list"),
    ],
)
def test_what_may_not_be_meant_is_warned_of(workflow: dict[str, Any], warning: str) -> None:
    """It runs, so it is taken; the answer says how."""
    assert any(warning in found for found in normalize_prompts([workflow]).warnings)


def test_several_workflows_run_in_turn() -> None:
    """A list is not a chain, which people expect."""
    assert any("in turn" in warning for warning in normalize_prompts([INVERT, INVERT]).warnings)


def test_pictures_beside_a_primary_input_are_as_many_as_you_like() -> None:
    """With a primary input other images keep being files."""
    workflow = changed(INVERT, n1=node("PrimaryInputLoadImage"))
    for index in range(4, 9):
        workflow[str(index)] = node("LoadImage", image="style.png")
    assert normalize_prompts([workflow]).warnings == ()


def test_no_text_of_a_prompt_is_in_a_message() -> None:
    """Messages reach logs; they name nodes, classes and fields only."""
    secret = "the-secret-prompt"
    broken = changed(
        INVERT,
        n2={"class_type": "CLIPTextEncode", "inputs": {"text": secret, "clip": ["9", 0]}},
        n4=secret,
        n5={"class_type": [secret], "inputs": secret},
    )
    for prompts in ([broken], [{"text": secret, "x": 1}], secret, [secret], {"text": [secret]}):
        assert secret not in " ".join(problems_of(prompts))


def test_long_and_odd_names_are_shown_short() -> None:
    """A node id is the client's text: it stays one short line."""
    [problem, *_] = problems_of({"a\nb" * 1000: 5})
    assert len(problem) < 120
    assert "\n" not in problem


def test_huge_cycles_are_found_in_time() -> None:
    """A body of 1 MiB holds ten thousand nodes; no check is quadratic or recursive."""
    count = 10_000
    ring = {str(i): node("X", a=[str((i + 1) % count), 0]) for i in range(count)}
    [problem] = [f.problem for f in check_workflow(ring).faults if f.node]
    assert problem.startswith("depends on its own output")
    assert len(problem) < 200


def test_countless_workflows_are_refused_at_once() -> None:
    """They would hold up every session's frames, and no one means them."""
    [problem] = problems_of([INVERT] * 10_000)
    assert "has 10000 workflows" in problem


def test_warnings_are_listed_in_bounds() -> None:
    """A thousand odd inputs are not a thousand lines in the status."""
    odd = {f"size{i}": [1, 2, 3] for i in range(1000)}
    warnings = normalize_prompts([changed(INVERT, n2=node("X", image=["1", 0], **odd))]).warnings
    assert len(warnings) == 21
    assert warnings[-1] == "and 980 more of that kind"


def test_text_goes_into_the_operators_workflow() -> None:
    """Every placeholder gets the text, as a value, so that no quoting can break out."""
    text = 'x", "evil": ["9", 0], "y": "\\1 {{prompt}}'
    normalized = normalize_prompts([{"text": text}], TextWorkflow(TEXT))
    [workflow] = normalized.workflows
    assert workflow["2"]["inputs"]["text"] == f"a {text}, {text}!"
    assert workflow.keys() == TEXT.keys()
    assert normalized.warnings == ()


def test_filled_workflows_are_independent() -> None:
    """One session's text never shows up in another's workflow."""
    text_workflow = TextWorkflow(copy.deepcopy(TEXT))
    first = text_workflow.fill("one")
    first["2"]["inputs"]["text"] = "changed"
    assert text_workflow.fill("two")["2"]["inputs"]["text"] == "a two, two!"


@pytest.mark.parametrize("prompts", [{"text": "x"}, [{"text": "x"}], '{"text": "x"}'])
def test_text_without_a_text_workflow_runs_the_default_with_a_warning(prompts: object) -> None:
    """The session still starts, and says what it does instead."""
    normalized = normalize_prompts(prompts)
    assert normalized.workflows == [DEFAULT_WORKFLOW]
    assert "RELAY_TEXT_WORKFLOW" in normalized.warnings[0]


def test_default_workflow_is_valid_and_inverts() -> None:
    """It passes our own check, and nobody can change it for the next session."""
    assert check_workflow(DEFAULT_WORKFLOW).faults == []
    assert [n["class_type"] for n in DEFAULT_WORKFLOW.values()] == [
        "LoadTensor",
        "ImageInvert",
        "SaveTensor",
    ]
    normalize_prompts({"text": "x"}).workflows[0]["2"]["class_type"] = "Other"
    assert DEFAULT_WORKFLOW["2"]["class_type"] == "ImageInvert"


def test_text_workflow_is_read_from_a_file(tmp_path: Path) -> None:
    """As ComfyUI exports it."""
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(TEXT), encoding="utf-8")
    assert TextWorkflow.load(path).fill("b")["2"]["inputs"]["text"] == "a b, b!"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "can't be read: No such file"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        (json.dumps(INVERT), "holds no {{prompt}}"),
        (json.dumps(EDITOR_FORMAT), "Export (API)"),
        (json.dumps({"1": node("X", t="{{prompt}}")}), "has no live input"),
    ],
)
def test_unusable_text_workflow_is_refused(tmp_path: Path, content: str | None, word: str) -> None:
    """The operator learns it at the start, not the first client that sends text."""
    path = tmp_path / "workflow.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(TextWorkflowError) as caught:
        TextWorkflow.load(path)
    assert word in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["1", "2", "class_type", "inputs", "text", "nodes", "prompt"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)
nodes = st.fixed_dictionaries(
    {},
    optional={
        "class_type": st.sampled_from(["LoadTensor", "SaveTensor", "LoadImage", "SaveAudioTensor"])
        | json_values,
        "inputs": st.dictionaries(
            st.text(max_size=2),
            st.tuples(st.sampled_from(["1", "2", "3"]), st.integers(-1, 2)).map(list) | json_values,
            max_size=3,
        )
        | json_values,
    },
)
workflow_like = st.dictionaries(st.sampled_from(["1", "2", "3"]), nodes, max_size=3)


@given(json_values | workflow_like | st.lists(workflow_like, max_size=2))
def test_any_json_is_taken_or_refused(prompts: object) -> None:
    """Nothing else comes out than checked workflows or faults with words; the input stays."""
    before = copy.deepcopy(prompts)
    with contextlib.suppress(PromptsError):
        for workflow in normalize_prompts(prompts).workflows:
            assert all("class_type" in n for n in workflow.values())
    assert prompts == before
