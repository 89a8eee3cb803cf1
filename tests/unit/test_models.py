"""Start requests: defaults, what is understood, every fault in one answer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from relay.api.models import processed_url, session_config_from
from relay.comfystream.prompt_library import PromptLibrary
from relay.comfystream.workflows import DEFAULT_WORKFLOW
from relay.config.settings import Settings
from relay.errors import ValidationFailed
from relay.session_config import AudioMode, Fit, SessionConfig

INPUT = "http://127.0.0.1:3389/camera"


def config_from(body: dict[str, Any], **settings: Any) -> SessionConfig:
    return session_config_from(body, Settings(**settings), PromptLibrary())


def body(**changes: Any) -> dict[str, Any]:
    return {"input_stream_url": INPUT, "prompts": []} | changes


def faults_of(request: dict[str, Any]) -> dict[str, str]:
    """What is said about each field."""
    with pytest.raises(ValidationFailed) as caught:
        config_from(request)
    assert (caught.value.http_status, caught.value.code) == (422, "validation_failed")
    return {fault["field"]: fault["problem"] for fault in caught.value.details["details"]}


def test_least_request_takes_the_operators_defaults() -> None:
    """Two fields are enough; the rest comes from the settings."""
    config = config_from(
        body(),
        comfystream_url="http://gpu:8889",
        width=640,
        height=360,
        fit="cover",
        segment_seconds=2,
    )
    assert config == SessionConfig(
        input_stream_url=INPUT,
        output_stream_url=f"{INPUT}-processed",
        comfystream_url="http://gpu:8889",
        prompts=[],
        width=640,
        height=360,
        fit=Fit.COVER,
        segment_seconds=2.0,
    )


def test_request_beats_the_defaults() -> None:
    """Whatever is given is used."""
    config = config_from(
        body(
            comfystream_url="http://other:8889/live/",
            width=1280,
            height=720.0,
            fit="stretch",
            segment_seconds=1,
            output_stream_url="http://out/x",
            prompts=[DEFAULT_WORKFLOW],
        )
    )
    assert config.comfystream_url == "http://other:8889/live"
    assert (config.width, config.height, config.fit) == (1280, 720, Fit.STRETCH)
    assert config.segment_seconds == 1.0
    assert config.output_stream_url == "http://out/x"
    assert config.prompts == [DEFAULT_WORKFLOW]
    assert config.warnings == ()


def test_null_counts_as_not_given() -> None:
    """Clients that always write every field get the defaults too."""
    names = ("comfystream_url", "width", "height", "fit", "segment_seconds", "output_stream_url")
    assert config_from(body(**dict.fromkeys(names))) == config_from(body())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://h/a", "http://h/a-processed"),
        ("http://h/a/", "http://h/a-processed"),
        ("http://h/a?key=1&b=/", "http://h/a-processed?key=1&b=/"),
        ("http://h/a/?key=1", "http://h/a-processed?key=1"),
        ("http://u:p@h:80/x/y%2Fz", "http://u:p@h:80/x/y%2Fz-processed"),
    ],
)
def test_output_is_the_input_with_a_suffix(given: str, expected: str) -> None:
    """The channel's name gets it, not the query and not an empty segment."""
    assert processed_url(given) == expected
    assert config_from(body(input_stream_url=given)).output_stream_url == expected


@pytest.mark.parametrize(
    ("size", "used"), [(16, 16), (17, 16), (513, 512), (4095, 4094), (4096, 4096)]
)
def test_odd_sizes_are_made_even_with_a_warning(size: int, used: int) -> None:
    """H.264 has half as many chroma samples a side; an odd picture ends ComfyStream's sender."""
    config = config_from(body(width=size, height=size))
    assert (config.width, config.height) == (used, used)
    assert len(config.warnings) == (0 if size == used else 2)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("width", 15, "at least 16"),
        ("width", 4097, "at most 4096"),
        ("width", 0, "at least 16"),
        ("width", -512, "at least 16"),
        ("width", 10**400, "at most 4096"),
        ("width", 1e300, "at most 4096"),
        ("width", 512.5, "whole number"),
        ("width", "512", "whole number"),
        ("width", True, "whole number"),
        ("width", [512], "whole number"),
        ("height", {}, "whole number"),
        ("fit", "squeeze", "'contain', 'cover' or 'stretch'"),
        ("fit", ["contain"], "'contain'"),
        ("segment_seconds", 0.1, "at least 0.2"),
        ("segment_seconds", 11, "at most 10"),
        ("segment_seconds", 10**400, "number"),
        ("segment_seconds", "1", "number"),
        ("segment_seconds", False, "number"),
        ("input_stream_url", None, "must be a string"),
        ("input_stream_url", 5, "must be a string"),
        ("input_stream_url", "camera", "http://"),
        ("input_stream_url", "http://h", "names no channel"),
        ("input_stream_url", "http://h//?a=b", "names no channel"),
        ("input_stream_url", "http://h/camera//", "names no channel"),
        ("output_stream_url", "ftp://h/x", "http://"),
        ("output_stream_url", "", "must not be empty"),
        ("comfystream_url", "gpu:8889", "http://"),
        ("comfystream_url", "http://gpu:8889?x=1", "query"),
        ("comfystream_url", "http://gpu:99999", "port"),
        ("heigth", 512, "did you mean height?"),
        ("x" * 500, 512, "not a field"),
        ("a b", 512, "not a field"),
    ],
)
def test_bad_field_is_named_with_its_problem(field: str, value: Any, word: str) -> None:
    """Each fault in words that say what to send instead."""
    faults = faults_of(body(**{field: value}))
    assert len(faults) == 1
    [(named, problem)] = faults.items()
    assert named.strip("'")[:20] == field[:20]
    assert len(named) <= 42
    assert word in problem


@pytest.mark.parametrize(
    "output",
    [
        INPUT,
        f"{INPUT}/",
        f"{INPUT}?x=1",
        "HTTP://127.0.0.1:3389/camera",
        "http://user@127.0.0.1:3389/%63amera",
    ],
)
def test_output_must_not_be_the_input(output: str) -> None:
    """However it is written, a session would feed itself."""
    assert "must differ" in faults_of(body(output_stream_url=output))["output_stream_url"]


def test_every_fault_is_in_one_answer() -> None:
    """Fields, unknown fields and nodes of workflows, together."""
    faults = faults_of(
        {
            "comfystream_url": "x",
            "prompts": [{"1": {}}],
            "width": "a",
            "colour": "red",
            "fit": 5,
        }
    )
    assert faults.keys() == {
        "input_stream_url",
        "comfystream_url",
        "prompts[0]",
        "width",
        "colour",
        "fit",
    }


def test_empty_request_lacks_its_required_fields() -> None:
    """Prompts are required: [] says that none are wanted."""
    assert faults_of({}) == {"input_stream_url": "is required", "prompts": "is required"}


def test_faults_are_counted_but_listed_in_bounds() -> None:
    """A request with hundreds of faults does not get an answer of hundreds."""
    nodes = {str(i): {} for i in range(1000)}
    with pytest.raises(ValidationFailed) as caught:
        config_from(body(prompts=nodes))
    assert re.search(r"and \d+ more", caught.value.message)
    assert len(caught.value.details["details"]) == 50


def test_body_of_countless_fields_is_not_looked_at() -> None:
    """Looking for what each may have meant would hold up every session's frames."""
    faults = faults_of(body(**{f"field{i}": 1 for i in range(80_000)}))
    assert "has 80002 fields" in faults["the body"]


def test_no_value_is_repeated() -> None:
    """Neither prompts nor addresses with credentials come back in a message."""
    with pytest.raises(ValidationFailed) as caught:
        config_from(
            {
                "input_stream_url": "ftp://u:hunter2@h",
                "prompts": ["hunter2"],
                "width": "hunter2",
                "fit": "hunter2",
                "output_stream_url": ["hunter2"],
            }
        )
    assert "hunter2" not in caught.value.message + str(caught.value.details)


SOUND_IN = {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500.0}}
SOUND_OUT = {"class_type": "SaveAudioTensor", "inputs": {"audio": ["1", 0]}}
TEXT_OUT = {"class_type": "SaveTextTensor", "inputs": {"data": ["1", 0]}}


@pytest.mark.parametrize(
    ("workflow", "asked", "mode", "sends"),
    [
        ({"1": SOUND_IN, "2": SOUND_OUT}, None, AudioMode.PROCESS, True),
        ({"1": SOUND_IN, "2": SOUND_OUT}, "auto", AudioMode.PROCESS, True),
        ({"1": SOUND_IN, "2": SOUND_OUT}, "bypass", AudioMode.BYPASS, True),
        ({"1": SOUND_IN, "2": SOUND_OUT}, "off", AudioMode.OFF, True),
        ({"1": SOUND_IN, "2": TEXT_OUT}, None, AudioMode.BYPASS, True),
        (None, None, AudioMode.BYPASS, False),
        (None, "process", AudioMode.PROCESS, False),
    ],
)
def test_where_sound_comes_from_is_decided_by_the_workflow(
    workflow: dict[str, Any] | None, asked: str | None, mode: AudioMode, sends: bool
) -> None:
    """`auto` is `process` for a workflow that gives sound back; one that takes some gets it."""
    config = config_from(body(prompts=[workflow] if workflow else [], audio=asked))
    assert (config.audio, config.sends_audio) == (mode, sends)
