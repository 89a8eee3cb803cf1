"""The worker calls as orchestrators make them: shapes, names, statuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.comfystream.workflows import DEFAULT_WORKFLOW
from relay.errors import BusyError, RequestError
from relay.session_config import SessionConfig
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import INVERT, Client, api_client

ORCHESTRATOR = "https://orch.example:8935/ai/trickle/s1"
BYOC_START = {
    "gateway_request_id": "s1",
    "control_url": f"{ORCHESTRATOR}-control",
    "events_url": f"{ORCHESTRATOR}-events",
    "subscribe_url": ORCHESTRATOR,
    "publish_url": f"{ORCHESTRATOR}-out",
    "data_url": f"{ORCHESTRATOR}-data",
    "params": {"width": 512, "height": "512", "prompts": json.dumps([INVERT])},
}
"""What an orchestrator sends for a job with video in, video out and data."""
LV2V_START = {
    "subscribe_url": ORCHESTRATOR,
    "publish_url": f"{ORCHESTRATOR}-out",
    "control_url": f"{ORCHESTRATOR}-control",
    "events_url": f"{ORCHESTRATOR}-events",
    "model_id": "comfyui",
    "params": {},
    "gateway_request_id": "r1",
    "manifest_id": "m1",
    "stream_id": "s1",
}
PREFIXES = ["", "/api"]
CHANNELS = ("subscribe_url", "publish_url", "control_url", "events_url", "data_url")


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
async def client(sessions: FakeSessions) -> AsyncIterator[Client]:
    async with api_client(sessions) as api:
        yield api


async def post(
    client: Client, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """As an orchestrator posts: no Content-Type unless one is given."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    async with client.post(
        path,
        data=data,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        skip_auto_headers=["Content-Type"],
    ) as answer:
        return answer.status, await answer.json()


async def get(client: Client, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    async with client.get(path, headers=headers) as answer:
        return answer.status, await answer.json()


def only(sessions: FakeSessions) -> SessionConfig:
    [session] = sessions.sessions.values()
    return session.config


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_byoc_start(client: Client, sessions: FakeSessions, prefix: str) -> None:
    """The body and the headers of an orchestrator; the answer of pytrickle, and ComfyStream's."""
    status, answer = await post(client, f"{prefix}/stream/start", BYOC_START, X_Stream_Id="s1")
    assert status == 200
    assert answer["status"] == "success"
    assert answer["message"] == "Stream started successfully"
    assert answer["request_id"] == "s1"
    assert answer["current_state"]["status"] == "OK"
    assert answer["config"] == {
        "subscribe_url": ORCHESTRATOR,
        "publish_url": f"{ORCHESTRATOR}-out",
        "width": 512,
        "height": 512,
    }
    config = only(sessions)
    assert config.input_stream_url == ORCHESTRATOR
    assert config.output_stream_url == f"{ORCHESTRATOR}-out"
    assert config.events_url == f"{ORCHESTRATOR}-events"
    assert config.control_url == f"{ORCHESTRATOR}-control"
    assert config.data_url == f"{ORCHESTRATOR}-data"
    assert config.prompts == [INVERT]
    assert config.channels_given


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_lv2v_start(client: Client, sessions: FakeSessions, prefix: str) -> None:
    """ai-runner's body; the three addresses of its answer; the default workflow inverts."""
    status, answer = await post(client, f"{prefix}/live-video-to-video", LV2V_START)
    assert status == 200
    assert [answer[f"{name}_url"] for name in ("publish", "subscribe", "control")] == [""] * 3
    config = only(sessions)
    assert config.prompts == [DEFAULT_WORKFLOW]
    assert config.names is not None
    assert config.names.request_id == "r1"
    for name in ("r1", "m1", "s1", answer["session_id"]):
        assert (await get(client, f"/stream/{name}/status"))[1]["request_id"] == "r1"


async def test_lv2v_needs_no_name(client: Client) -> None:
    """Only the two addresses are required there; the stream gets a name."""
    body = {name: LV2V_START[name] for name in ("subscribe_url", "publish_url")}
    status, answer = await post(client, "/live-video-to-video", body)
    assert status == 200
    assert (await get(client, f"/stream/{answer['request_id']}/status"))[0] == 200


@pytest.mark.parametrize("video_in", [True, False])
@pytest.mark.parametrize("video_out", [True, False])
@pytest.mark.parametrize("data", [True, False])
async def test_any_combination_of_a_jobs_flags(
    client: Client, sessions: FakeSessions, video_in: bool, video_out: bool, data: bool
) -> None:
    """enable_video_ingress, enable_video_egress, enable_data_output: a channel that a job has not
    is not in the start, and none is made up."""
    there = {"subscribe_url": video_in, "publish_url": video_out, "data_url": data}
    absent = [name for name, wanted in there.items() if not wanted]
    body = {name: value for name, value in BYOC_START.items() if name not in absent}
    status, answer = await post(client, "/stream/start", body, X_Stream_Id="s1")
    assert status == 200, answer
    config = only(sessions)
    assert config.input_stream_url == (ORCHESTRATOR if video_in else "")
    assert config.output_stream_url == (f"{ORCHESTRATOR}-out" if video_out else "")
    assert (config.data_url is not None) is data
    assert config.audio == ("bypass" if video_out else "off")
    assert config.fallback == ("passthrough" if video_out else "none")
    shown = (await get(client, "/stream/status"))[1]["current_params"]
    assert shown["subscribe_url"] == (ORCHESTRATOR if video_in else None)
    assert shown["publish_url"] == (f"{ORCHESTRATOR}-out" if video_out else None)


async def test_lv2v_is_video_both_ways(client: Client, sessions: FakeSessions) -> None:
    """ai-runner requires both."""
    for name in ("subscribe_url", "publish_url"):
        body = {key: value for key, value in LV2V_START.items() if key != name}
        status, answer = await post(client, "/live-video-to-video", body)
        assert (status, answer["details"][0]["field"]) == (400, name)
    assert sessions.started == []


async def test_ai_runners_inner_calls(client: Client, sessions: FakeSessions) -> None:
    """Its process on port 8888: a start with request_id, params, the status object; the trailing
    slash that its outer one takes as well."""
    nothing = (await get(client, "/api/status"))[1]
    assert (nothing["state"], nothing["input_status"]["fps"]) == ("OFFLINE", 0.0)
    body = {key: value for key, value in LV2V_START.items() if key != "gateway_request_id"}
    body |= {"request_id": "r7"}
    status, answer = await post(client, "/api/live-video-to-video", body)
    assert (status, answer["request_id"]) == (200, "r7")
    assert (await post(client, "/live-video-to-video/", body))[1] == answer
    status, answer = await post(client, "/api/params", {"prompts": [INVERT]})
    assert (status, answer["status"]) == (200, "success")
    [session] = sessions.sessions.values()
    assert session.changes == [{"prompts": [INVERT]}]
    one = (await get(client, "/api/status"))[1]
    assert (
        one.keys()
        == nothing.keys()
        == {
            *("type", "pipeline", "start_time", "state", "last_state_update_time", "input_status"),
            *("inference_status", "last_status_timestamp", "timestamp"),
        }
    )
    assert (one["type"], one["state"], one["pipeline"]) == ("status", "ONLINE", "comfyui")


async def test_the_start_of_comfystreams_first_byoc_server(
    client: Client, sessions: FakeSessions
) -> None:
    """stream_url, prompts beside it, the output's name by rule; ended with DELETE."""
    body = {
        "gateway_request_id": "g1",
        "stream_url": ORCHESTRATOR,
        "prompts": [INVERT],
        "width": 640,
        "height": 480,
    }
    status, answer = await post(client, "/stream/start", body)
    assert (status, answer["success"], answer["manifest_id"]) == (200, True, "g1")
    assert answer["input_stream_url"] == ORCHESTRATOR
    assert answer["output_stream_url"] == f"{ORCHESTRATOR}-out"
    config = only(sessions)
    assert (config.prompts, config.width, config.height) == ([INVERT], 640, 480)
    assert not config.channels_given
    assert (await get(client, "/stream/g1/status"))[1]["running"] is True
    async with client.delete("/stream/g1") as stopped:
        assert stopped.status == 200
    assert sessions.sessions == {}


async def test_what_the_worker_is(client: Client) -> None:
    """pytrickle's three, and its fields of /version; there is no GPU here to speak of."""
    version = (await get(client, "/version"))[1]
    assert (version["pipeline"], version["model_id"]) == ("live-video-to-video", "comfystream")
    assert (await get(client, "/app-version"))[1] == {"version": version["version"]}
    what = {"pipeline": "live-video-to-video", "model_id": "comfystream"}
    assert (await get(client, "/hardware/info"))[1] == what | {"gpu_info": {}}
    assert (await get(client, "/hardware/stats"))[1] == what | {"gpu_stats": {}}


async def test_the_header_names_a_stream_whose_body_does_not(client: Client) -> None:
    """X-Stream-Id is the one key that an orchestrator always sends."""
    body = {name: BYOC_START[name] for name in ("subscribe_url", "publish_url")}
    assert (await post(client, "/stream/start", body))[0] == 400
    status, answer = await post(client, "/stream/start", body, X_Stream_Id="s9")
    assert (status, answer["request_id"]) == (200, "s9")


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"prompts": INVERT}, [INVERT]),
        ({"prompts": [INVERT]}, [INVERT]),
        ({"prompts": json.dumps(INVERT)}, [INVERT]),
        ({"prompts": [json.dumps(INVERT)]}, [INVERT]),
        ({"prompt": json.dumps(INVERT)}, [INVERT]),
        ({"prompts": ""}, [DEFAULT_WORKFLOW]),
        ({"prompts": None}, [DEFAULT_WORKFLOW]),
        ({"prompt": "a cat in the rain"}, [DEFAULT_WORKFLOW]),
        ({"prompts": []}, []),
    ],
)
async def test_prompts_in_every_shape(
    client: Client, sessions: FakeSessions, prompts: dict[str, Any], expected: list[Any]
) -> None:
    """Objects, lists, JSON text of them, words; none is the workflow that inverts. The same with
    `params` as text, which is how gateways get it."""
    for params in (prompts, json.dumps(prompts)):
        body = BYOC_START | {"params": params}
        status, answer = await post(client, "/stream/start", body)
        assert status == 200, answer
        assert only(sessions).prompts == expected
        await post(client, "/stream/stop")


async def test_sizes_come_together_and_as_text(client: Client, sessions: FakeSessions) -> None:
    """pytrickle's rules."""
    body = BYOC_START | {"params": {"width": "768", "height": "432", "max_framerate": "30"}}
    status, answer = await post(client, "/stream/start", body)
    assert status == 200
    assert (only(sessions).width, only(sessions).height) == (768, 432)
    assert only(sessions).max_fps == 30
    assert answer["warnings"] == []
    for params in ({"width": 512}, {"width": "wide", "height": 512}, {"width": 0, "height": 0}):
        body = BYOC_START | {"gateway_request_id": "s2", "params": params}
        status, answer = await post(client, "/stream/start", body)
        assert (status, answer["status"]) == (400, "error")
        assert "width" in answer["message"]


async def test_what_is_not_known_is_ignored_and_said(
    client: Client, sessions: FakeSessions
) -> None:
    """Keys beside are other versions' business; in params a warning says so. Our own work."""
    body = BYOC_START | {"enable": True, "params": {"fallback": "repeat", "strength": 1.5}}
    status, answer = await post(client, "/stream/start", body)
    assert status == 200
    assert only(sessions).fallback == "repeat"
    [warning] = answer["warnings"]
    assert "strength" in warning


async def test_no_address_but_channels_can_be_given(client: Client, sessions: FakeSessions) -> None:
    """A client behind a gateway does not choose the GPU server, nor any other address."""
    params = {"comfystream_url": "http://evil:1", "input_stream_url": "http://evil:1/x"}
    await post(client, "/stream/start", BYOC_START | {"params": params})
    assert only(sessions).comfystream_url == "http://localhost:8889"
    assert only(sessions).input_stream_url == ORCHESTRATOR


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (dict.fromkeys(CHANNELS, ""), "subscribe_url"),
        ({"subscribe_url": "nowhere"}, "subscribe_url"),
        ({"publish_url": "ftp://h/x"}, "publish_url"),
        ({"publish_url": ORCHESTRATOR}, "publish_url"),
        ({"events_url": "nowhere"}, "events_url"),
        ({"gateway_request_id": ["s1"]}, "gateway_request_id"),
        ({"gateway_request_id": "a\nb"}, "gateway_request_id"),
        ({"params": "{"}, "params"),
        ({"params": 5}, "params"),
        ({"params": {"max_framerate": 61}}, "params.max_framerate"),
        ({"params": {"max_framerate": 0}}, "params.max_framerate"),
        ({"params": {"max_framerate": "fast"}}, "params.max_framerate"),
        ({"params": {"prompts": "{"}}, "params.prompts"),
        ({"params": {"prompts": [{"1": {}}]}}, "params.prompts"),
    ],
)
async def test_what_can_not_be_started_says_why(
    client: Client, sessions: FakeSessions, changes: dict[str, Any], field: str
) -> None:
    """400 in pytrickle's shape and ours, naming the field as the orchestrator wrote it."""
    status, answer = await post(client, "/stream/start", BYOC_START | changes)
    assert status == 400
    assert answer["status"] == "error"
    assert answer["success"] is False
    assert answer["message"] == answer["error"]
    assert answer["details"][0]["field"].startswith(field)
    assert sessions.started == []


async def test_the_same_start_again_is_the_same_stream(
    client: Client, sessions: FakeSessions
) -> None:
    """A retry gets the first answer; another body of that name is refused; two at once are one."""
    answers = await asyncio.gather(
        *(post(client, "/stream/start", BYOC_START, X_Stream_Id="s1") for _ in range(3))
    )
    assert len(sessions.started) == 1
    assert answers[0] == answers[1] == answers[2]
    other = BYOC_START | {"params": {}}
    status, answer = await post(client, "/stream/start", other)
    assert (status, answer["code"], answer["status"]) == (409, "stream_exists", "error")
    await post(client, "/stream/stop", X_Stream_Id="s1")
    assert (await post(client, "/stream/start", other))[0] == 200


async def test_stop_start_a_hundred_times(client: Client, sessions: FakeSessions) -> None:
    """F34: a stream that comes back at once is served each time."""
    for _ in range(100):
        assert (await post(client, "/stream/start", BYOC_START))[0] == 200
        assert (await post(client, "/stream/stop", X_Stream_Id="s1"))[0] == 200
    assert sessions.sessions == {}
    assert len(sessions.started) == 100


async def test_a_failed_start_leaves_nothing(client: Client, sessions: FakeSessions) -> None:
    """F35: the same start works when what was in its way is gone."""
    for error in (BusyError("full", code="full"), RuntimeError("a bug")):
        sessions.fails_with = error
        status, _ = await post(client, "/stream/start", BYOC_START)
        assert status == (503 if isinstance(error, BusyError) else 500)
        assert (await get(client, "/streams"))[1] == {"streams": {}, "count": 0}
    sessions.fails_with = None
    assert (await post(client, "/stream/start", BYOC_START))[0] == 200


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BusyError("all taken", code="full", retry_after_s=7), "Pipeline is still in use"),
        (RequestError("s", code="comfystream_busy", http_status=409), "Pipeline is still in use"),
        (
            BusyError("loading", code="warming_up"),
            "Pipeline is still initializing. Please wait for IDLE status.",
        ),
    ],
)
async def test_no_room_is_503_with_the_state(
    client: Client, sessions: FakeSessions, error: Exception, words: str
) -> None:
    """F69: told 503, an orchestrator tries another worker; the state object is pytrickle's."""
    sessions.fails_with = error
    async with client.post("/stream/start", json=BYOC_START) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        body = await answer.json()
    assert body["message"].startswith(words)
    assert body["current_state"]["status"] == "IDLE"


@pytest.mark.parametrize(
    "body", [None, b"", b'{"reason": "done"}', b"orchestrator swap: no output"]
)
async def test_stop_takes_any_body_and_comes_twice(
    client: Client, sessions: FakeSessions, body: bytes | None
) -> None:
    """JSON, an error text, nothing, without Content-Type; the second is answered as the first."""
    await post(client, "/stream/start", BYOC_START)
    first = await post(client, "/stream/stop", body, X_Stream_Id="s1")
    assert first[0] == 200
    assert first[1] == {
        "status": "success",
        "message": "Stream stopped successfully",
        "request_id": "s1",
        "config": None,
    }
    assert await post(client, "/stream/stop", body, X_Stream_Id="s1") == first
    assert sessions.sessions == {}


async def test_which_stream_is_meant(client: Client, sessions: FakeSessions) -> None:
    """By path, by header; without either the only one; of several none is guessed."""
    assert (await post(client, "/stream/stop"))[0] == 400
    assert (await post(client, "/stream/nobody/stop"))[0] == 404
    for name in ("a", "b", "c"):
        body = BYOC_START | {"gateway_request_id": name, "publish_url": f"http://h/{name}"}
        assert (await post(client, "/stream/start", body))[0] == 200
    status, answer = await post(client, "/stream/stop")
    assert (status, answer["code"]) == (400, "stream_not_named")
    assert (await post(client, "/stream/b/stop"))[1]["request_id"] == "b"
    assert (await post(client, "/stream/stop", X_Stream_Id="a"))[1]["request_id"] == "a"
    assert (await post(client, "/stream/stop"))[1]["request_id"] == "c"
    assert sessions.sessions == {}


@pytest.mark.parametrize("path", ["/stream/params", "/stream/s1/params", "/api/stream/params"])
async def test_parameters_are_changed_by_the_session(
    client: Client, sessions: FakeSessions, path: str
) -> None:
    """The raw object of the gateway's client goes where PATCH /session goes."""
    status, answer = await post(client, "/stream/params", {"prompts": []})
    assert (status, answer["message"]) == (400, "No active stream to update")
    await post(client, "/stream/start", BYOC_START)
    params = {"prompts": [INVERT], "width": "640", "height": 480, "strength": 0.5}
    status, answer = await post(client, path, params, X_Stream_Id="s1")
    assert (status, answer["status"]) == (200, "success")
    assert answer["message"] == "Parameters updated successfully"
    [session] = sessions.sessions.values()
    assert session.changes == [params]
    session.change_error = RequestError("no", code="validation_failed", http_status=422)
    status, answer = await post(client, path, params, X_Stream_Id="s1")
    assert (status, answer["status"]) == (400, "error")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_status_and_list(client: Client, prefix: str) -> None:
    """The fields of pytrickle's status and of ComfyStream's, with and without a stream."""
    idle = (await get(client, f"{prefix}/stream/status"))[1]
    assert idle.keys() >= {
        *("status", "state", "error_message", "pipeline_ready", "active_streams"),
        *("startup_complete", "pipeline_state", "additional_info", "client_active"),
        *("client_running", "fps", "current_params"),
        *("processing_active", "stream_count", "message", "current_stream", "all_streams"),
    }
    assert (idle["status"], idle["client_active"], idle["stream_count"]) == ("IDLE", False, 0)
    await post(client, f"{prefix}/stream/start", BYOC_START)
    busy = (await get(client, f"{prefix}/stream/status", **{"X-Stream-Id": "s1"}))[1]
    assert (busy["status"], busy["active_streams"], busy["stream_count"]) == ("OK", 1, 1)
    assert busy["current_params"] == {
        "subscribe_url": ORCHESTRATOR,
        "publish_url": f"{ORCHESTRATOR}-out",
        "gateway_request_id": "s1",
    }
    one = (await get(client, f"{prefix}/stream/s1/status"))[1]
    assert one.keys() >= {
        *("request_id", "running", "subscribe_url", "publish_url", "control_url", "events_url"),
        *("events_available", "width", "height", "frame_count", "stats_monitoring_active"),
        "pipeline_ready",
    }
    assert busy["current_stream"] == one
    assert (await get(client, f"{prefix}/streams"))[1] == {"streams": {"s1": one}, "count": 1}
    status, answer = await get(client, f"{prefix}/stream/nobody/status")
    assert (status, answer["status"]) == (404, "error")


async def test_frame_rates_as_comfystream_tells_them(client: Client) -> None:
    """By the stream's name; one that is not there is an error with status 200."""
    assert await get(client, "/streams/stats") == (200, {})
    await post(client, "/stream/start", BYOC_START)
    _, everything = await get(client, "/streams/stats")
    assert everything.keys() == {"s1"}
    assert everything["s1"].keys() == {"timestamp", "fps", "minute_avg_fps", "minute_fps_array"}
    assert (await get(client, "/stream/s1/stats"))[1] == everything["s1"]
    assert await get(client, "/stream/nobody/stats") == (200, {"error": "Stream not found"})


async def test_health_words(client: Client, sessions: FakeSessions) -> None:
    """LOADING, IDLE, OK, from one truth: the start's answer, the status and the health say the
    same."""
    sessions.warm = False
    assert (await get(client, "/api/health"))[1] == {"status": "LOADING"}
    sessions.warm = True
    assert (await get(client, "/api/health"))[1] == {"status": "IDLE"}
    await post(client, "/stream/start", BYOC_START)
    assert (await get(client, "/api/health"))[1] == {"status": "OK"}
    assert (await get(client, "/stream/status"))[1]["status"] == "OK"


async def test_the_token_is_wanted_here_too(sessions: FakeSessions) -> None:
    """Wrong or absent is 401 with WWW-Authenticate, as ai-runner has it."""
    async with api_client(sessions, api_token="t0ken") as client:
        for authorization in ({}, {"Authorization": "Bearer wrong"}):
            async with client.post(
                "/live-video-to-video", json=LV2V_START, headers=authorization
            ) as answer:
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        status, _ = await post(
            client, "/live-video-to-video", LV2V_START, Authorization="Bearer t0ken"
        )
        assert status == 200


async def test_secrets_of_channels_are_not_shown(client: Client) -> None:
    """What an orchestrator wrote into an address stays between it and the relay."""
    body = BYOC_START | {"publish_url": "https://u:hunter2@h/out?token=hunter2"}
    _, answer = await post(client, "/stream/start", body)
    _, status = await get(client, "/stream/status")
    assert "hunter2" not in json.dumps([answer, status])
