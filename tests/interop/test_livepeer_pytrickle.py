"""What pytrickle 0.1.6 sends we take as it means it; what we answer its models accept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.api.livepeer_models import StreamStart
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import api_client
from tests.integration.test_livepeer_api import BYOC_START
from tests.interop.test_trickle_pytrickle import pytrickle  # noqa: F401

PEER = Path(__file__).parent / "pytrickle_models.py"
pytestmark = pytest.mark.timeout(60, method="signal")


def models(where: str, *questions: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What its models make of objects."""
    result = subprocess.run(
        [sys.executable, str(PEER), where],
        input="\n".join(map(json.dumps, questions)),
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_its_models_accept_our_answers(pytrickle: str) -> None:  # noqa: F811
    """Start, stop and status answers, of a worker with a stream and of one without."""
    async with api_client(FakeSessions()) as client:
        answers: list[tuple[str, dict[str, Any]]] = []
        for method, path, model, body in (
            ("GET", "/stream/status", "StreamStatusResponse", None),
            ("GET", "/stream/status", "HealthStatus", None),
            ("POST", "/stream/start", "StreamResponse", BYOC_START),
            ("GET", "/stream/status", "StreamStatusResponse", None),
            ("GET", "/stream/status", "HealthStatus", None),
            ("POST", "/stream/stop", "StreamResponse", None),
            ("GET", "/version", "Version", None),
            ("GET", "/hardware/info", "HardwareInformation", None),
            ("GET", "/hardware/stats", "HardwareStats", None),
        ):
            async with client.request(method, path, json=body) as answer:
                assert answer.status == 200
                answers.append((model, await answer.json()))
    accepted = models(pytrickle, *answers)
    assert [entry for entry in accepted if "error" in entry] == []
    assert accepted[2]["request_id"] == "s1"
    assert accepted[3]["stream_count"] == 1


def test_what_its_model_of_a_start_takes_ours_takes(pytrickle: str) -> None:  # noqa: F811
    """Each as it is sent, and as its own model writes it."""
    requests = [
        BYOC_START,
        BYOC_START | {"params": {"width": "640", "height": "480"}},
        BYOC_START | {"params": {"width": 512, "height": 512, "max_framerate": "30"}},
        BYOC_START | {"params": None, "control_url": None, "data_url": None},
        BYOC_START | {"subscribe_url": None},
        {name: BYOC_START[name] for name in ("gateway_request_id", "data_url", "params")},
    ]
    written = models(pytrickle, *(("StreamStartRequest", request) for request in requests))
    for request, its_own in zip(requests, written, strict=True):
        assert "error" not in its_own
        for body in (request, its_own):
            start = StreamStart.model_validate(body)
            assert start.gateway_request_id == its_own["gateway_request_id"]
            assert start.subscribe_url == its_own["subscribe_url"]
            assert start.publish_url == its_own["publish_url"]


def test_parameters_that_its_model_refuses(pytrickle: str) -> None:  # noqa: F811
    """One side alone, no number: as ours, which tests/integration/test_livepeer_api.py shows."""
    requests: list[dict[str, Any]] = [
        {"width": 512},
        {"width": "wide", "height": 512},
        {"width": 0, "height": 0},
        {"max_framerate": 61},
        {"max_framerate": "fast"},
    ]
    answers = models(
        pytrickle,
        *(("StreamStartRequest", BYOC_START | {"params": params}) for params in requests),
    )
    assert all("error" in answer for answer in answers)
