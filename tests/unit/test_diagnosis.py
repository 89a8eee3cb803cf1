"""The bottleneck of a session, from its figures: each case, and none where there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.comfystream.running_workflow import check_running
from relay.observe import diagnosis
from relay.observe.diagnosis import Stage, diagnose
from relay.observe.session_figures import SessionFigures
from relay.session_state import SessionState
from tests.unit.test_docs import API, TROUBLE, first_cells, section

WELL = SessionFigures(
    state=SessionState.ACTIVE,
    started_s=60.0,
    fps_in=30.0,
    source_fps=30.0,
    source_pace=1.0,
    input_age_s=0.03,
    link="connected",
    fps_sent=30.0,
    fps_returned=30.0,
    first_processed_age_s=59.0,
    fps_encoded=30.0,
    fps_out=30.0,
    output_age_s=0.03,
    codec_load=0.5,
    queue_sizes={"decoded_frames": 0, "processed_frames": 1, "output_segments": 1},
    queue_capacities={"decoded_frames": 100, "processed_frames": 100, "output_segments": 50},
)
SKIPPED: dict[str, Any] = {"dropped": {"decoded_frames": {"server_busy": 500}}}
FULL = {"decoded_frames": 100, "processed_frames": 0, "output_segments": 1}
ENDED: dict[str, Any] = {"state": SessionState.FAILED}


def of(**figures: Any) -> diagnosis.Diagnosis | None:
    return diagnose(replace(WELL, **figures))


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"codec_load": 1.0},  # all is well nevertheless
        {"source_pace": None, "source_fps": None},
        {"source_pace": 0.85},
        {"input_is_sound": True, "fps_in": 0.0, "fps_returned": 0.0, "fallback_active": True},
        {"paused": True, "fallback_active": True, "input_age_s": 100.0},
        {"state": SessionState.STOPPING, "input_age_s": 100.0},
        {"state": SessionState.STARTING, "link": "connecting", "started_s": 1.0},
        {"state": SessionState.STARTING, "started_s": 1.0, "input_age_s": None},
        {"fps_sent": 28.0, "fps_returned": 28.0, **SKIPPED},
        {"fps_returned": 5.0, "first_processed_age_s": 1.0},
        {"segments_behind": 5},
        {"segment_lost_age_s": 11.0},
        {"queue_sizes": {**WELL.queue_sizes, "output_segments": 2}},
        # A constant rate on the output leaves pictures out, and nothing waits.
        {"fps_encoded": 15.0, "fps_out": 15.0},
        {"state": SessionState.STOPPED, "end_reason": "requested"},
        {"state": SessionState.STOPPED, "end_reason": "input_ended"},
        {"state": SessionState.STOPPED, "end_reason": "drained"},
    ],
)
def test_nothing_is_made_up(figures: dict[str, Any]) -> None:
    """Figures that may be all right, and sessions that ended as they should, have no diagnosis."""
    assert of(**figures) is None


@pytest.mark.parametrize(
    ("figures", "stage", "problem"),
    [
        (
            {"input_age_s": None, "input_problem": "http://h/camera does not exist yet"},
            Stage.INPUT,
            "no input: http://h/camera does not exist yet",
        ),
        (
            {"input_age_s": None, "started_s": 12.0},
            Stage.INPUT,
            "no input: nothing that can be decoded has come for 12 s",
        ),
        ({"input_age_s": 7.2}, Stage.INPUT, "input stopped: nothing has come for 7 s"),
        (
            {"input_age_s": None, "undecodable": "pictures of 9000x9000 are larger than allowed"},
            Stage.INPUT,
            "input not decoded: pictures of 9000x9000 are larger than allowed",
        ),
        (
            {"fps_in": 14.2, "source_pace": 0.47},
            Stage.INPUT,
            "input slow: 14.2 of 30.0 fps, 47% of real time",
        ),
        (
            {"segments_behind": 3, "codec_load": 0.97, "fps_in": 20.0, "source_pace": 0.6},
            Stage.DECODER,
            "decoding slower than input: 3 segments behind, codec threads 97% busy",
        ),
        (
            {"problem_code": "workflow_not_running", "problem": "...", "missing_nodes": "Magic"},
            Stage.COMFYSTREAM,
            "server returns frames unprocessed: unknown node Magic, or one that fails",
        ),
        (
            {
                "problem_code": "comfystream_refused",
                "problem": "it answered 500",
            },
            Stage.COMFYSTREAM,
            "not processed: it answered 500",
        ),
        (
            {"link": "loading", "started_s": 1.0},
            Stage.COMFYSTREAM,
            "not processed yet: ComfyStream loads the workflow",
        ),
        ({"link": "connecting"}, Stage.COMFYSTREAM, "not processed: connecting to ComfyStream"),
        (
            {"fallback_active": True, "fps_returned": 0.0},
            Stage.COMFYSTREAM,
            "not processed: ComfyStream is connected and returns nothing",
        ),
        (
            {"fps_sent": 12.0, "fps_returned": 11.8, **SKIPPED},
            Stage.COMFYSTREAM,
            "workflow slower than input: 11.8 of 30.0 fps",
        ),
        (
            {"fps_sent": 12.0, "fps_returned": 11.8, "workflow": False, **SKIPPED},
            Stage.COMFYSTREAM,
            "ComfyStream slower than input: 11.8 of 30.0 fps",
        ),
        (  # each frame waits its turn, and the input with it
            {"fps_in": 12.0, "source_pace": 0.4, "fps_sent": 11.8, "fps_returned": 10.0}
            | {"queue_sizes": FULL, "segments_behind": 4, "codec_load": 0.95},
            Stage.ENCODER,
            "relay slower than input: 10.0 of 12.0 fps, codec threads 95% busy",
        ),
        (
            {"fps_in": 12.0, "source_pace": 0.4, "fps_sent": 11.8, "fps_returned": 10.0}
            | {"queue_sizes": FULL, "segments_behind": 4},
            Stage.COMFYSTREAM,
            "workflow slower than input: 10.0 of 30.0 fps",
        ),
        (
            {"fps_in": 12.0, "queue_sizes": {"coded_frames": 40}, "codec_load": 0.95},
            Stage.DECODER,
            "decoding slower than input: 40 pictures wait, codec threads 95% busy",
        ),
        (
            {"fps_returned": 18.2},
            Stage.COMFYSTREAM,
            "frames lost on the way: 18.2 of 30.0 fps come back",
        ),
        (
            {"fps_encoded": 20.0, "queue_sizes": {"processed_frames": 40}},
            Stage.ENCODER,
            "encoding slower than processing: 20.0 of 30.0 fps, 40 frames wait",
        ),
        (
            {"output_problem": "http://h/out can't be published to: connection refused"},
            Stage.OUTPUT,
            "no output: http://h/out can't be published to: connection refused",
        ),
        (
            {"queue_sizes": {"output_segments": 7}},
            Stage.OUTPUT,
            "output slow: 7 segments wait",
        ),
        (
            {"segment_lost_age_s": 4.0},
            Stage.OUTPUT,
            "output loses segments: the last one 4 s ago",
        ),
        ({"output_age_s": 7.0}, Stage.OUTPUT, "output stands: nothing has left for 7 s"),
        ({"output_age_s": None}, Stage.OUTPUT, "output stands: nothing has left for 60 s"),
        (
            {"state": SessionState.STOPPED, "end_reason": "input_timeout"},
            Stage.INPUT,
            "no input: the channel never came",
        ),
        (
            ENDED
            | {"end_reason": "input_timeout", "error": "403", "error_code": "channel_refused"},
            Stage.INPUT,
            "input refused: 403",
        ),
        (
            ENDED | {"end_reason": "output_gone", "error": "x", "error_code": "channel_not_found"},
            Stage.OUTPUT,
            "output refused: 404 channel does not exist",
        ),
        (
            ENDED | {"end_reason": "output_gone", "error": "403", "error_code": "channel_refused"},
            Stage.OUTPUT,
            "output refused: 403",
        ),
        (
            ENDED
            | {"end_reason": "processing_failed", "error": "gone"}
            | {"error_code": "comfystream_unreachable"},
            Stage.COMFYSTREAM,
            "not processed: gone",
        ),
        (
            ENDED | {"end_reason": "internal_error", "error": "a fault", "error_code": "x"},
            Stage.RELAY,
            "the session failed: a fault",
        ),
    ],
)
def test_each_bottleneck_is_named(figures: dict[str, Any], stage: Stage, problem: str) -> None:
    """With the figures that show it, and with something to do."""
    found = of(**figures)
    assert found is not None
    assert (found.stage, found.problem) == (stage, problem)
    assert found.remedy.endswith(".")
    assert found.to_dict() == {"stage": stage.value, "problem": problem, "remedy": found.remedy}


def test_the_nearest_cause_comes_first() -> None:
    """Whatever is wrong behind it: without input nothing else can be judged."""
    wrong: dict[str, Any] = {
        "problem": "gone",
        "problem_code": "comfystream_unreachable",
        "output_problem": "gone too",
    }
    stages = [of(**wrong, input_age_s=9.0), of(**wrong), of(output_problem="gone too")]
    assert [found and found.stage for found in stages] == [
        Stage.INPUT,
        Stage.COMFYSTREAM,
        Stage.OUTPUT,
    ]


def test_the_node_that_is_missing_is_the_workflow_s() -> None:
    """What the watch on the workflow finds is what the diagnosis names."""
    wanted = {"1": {"class_type": "LoadTensor"}, "2": {"class_type": "Magic"}}
    problem = check_running([wanted], [{"1": {"class_type": "LoadTensor"}}])
    assert problem is not None
    found = of(
        problem=problem.message, problem_code=problem.code, missing_nodes=problem.details["nodes"]
    )
    assert found is not None
    assert "unknown node Magic" in found.problem


def test_every_code_has_a_remedy() -> None:
    """Of those for which ComfyStream can't be used, docs/api.md has the list."""
    codes = first_cells(section(API, "### Why ComfyStream can't be used"))
    assert codes - set(diagnosis._REMEDIES) == {"workflow_not_running"}
    assert set(diagnosis._REMEDIES) <= codes


def test_the_page_for_operators_has_every_problem() -> None:
    """Stage and words, as the code has them: what is looked up can be found."""
    source = Path(diagnosis.__file__).read_text()
    # The words before the figures; those of a workflow that is slow are put together.
    first = "no |not |input |output |decoding |server |relay |frames |encoding "
    said = set(re.findall(rf'"((?:{first})[a-zA-Z ]*?)(?:: |:\{{)', source))
    said |= {"workflow slower than input", "ComfyStream slower than input", "the session failed"}
    table = section(TROUBLE, "## What the diagnosis says").split("| `stage` |")[1]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    problems = {word for row in rows for word in re.findall(r"`([^`]+)`", row[2])}
    assert said == problems
    assert {word for row in rows for word in re.findall(r"`([^`]+)`", row[1])} == set(Stage)
