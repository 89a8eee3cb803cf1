"""POST /offer of the stand-in, row by row, and the routes beside it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiortc import RTCRtpSender, RTCSessionDescription

from demo.standin import ComfyStreamStandIn, Faults
from tests.integration.standin_client import (
    AUDIO,
    INVERT,
    PASS,
    STEP,
    client,
    connect,
    get,
    post,
    until,
)

SERVER_ERROR = (500, "text/plain", "500 Internal Server Error\n\nServer got itself in trouble")
SAVE = {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}}
PRIMARY = {"class_type": "PrimaryInputLoadImage", "inputs": {"image": "example.png"}}
LOAD = {"class_type": "LoadTensor", "inputs": {}}


@pytest.fixture
async def standin() -> AsyncIterator[ComfyStreamStandIn]:
    async with ComfyStreamStandIn() as server:
        yield server


@pytest.fixture
async def offer(standin: ComfyStreamStandIn) -> AsyncIterator[dict[str, str]]:
    """A real offer with video, for requests that are not followed by a connection."""
    async with client(standin.url) as peer:
        description = await peer.offer()
        yield {"sdp": description.sdp, "type": description.type}


def class_types(standin: ComfyStreamStandIn) -> list[str]:
    """Classes of the first workflow in force."""
    workflow = standin.state()["pipeline"]["prompts"][0]
    return [node["class_type"] for node in workflow.values()]


@pytest.mark.parametrize("body", [{}, *({"prompts": p} for p in (None, [], {}, ""))], ids=str)
async def test_no_prompts_mean_noop(
    standin: ComfyStreamStandIn, offer: dict[str, str], body: dict[str, Any]
) -> None:
    """Absent or empty prompts are answered at once, in exactly two fields."""
    status, kind, text = await post(standin.url, "/offer", {"offer": offer, **body})
    assert (status, kind) == (200, "application/json")
    assert set(json.loads(text)) == {"sdp", "type"}
    assert json.loads(text)["type"] == "answer"
    state = standin.state()
    assert [c["mode"] for c in state["connections"]] == ["noop"]
    assert state["pipeline"]["state"] == "UNINITIALIZED"


@pytest.mark.parametrize("prompts", [[INVERT], INVERT, [INVERT, PASS]], ids=["list", "dict", "two"])
async def test_workflows_mean_prompt_mode(
    standin: ComfyStreamStandIn, offer: dict[str, str], prompts: Any
) -> None:
    """A list of workflows or one bare workflow is applied and streaming when the answer comes."""
    status, _, _ = await post(standin.url, "/offer", {"offer": offer, "prompts": prompts})
    assert status == 200
    state = standin.state()
    assert [c["mode"] for c in state["connections"]] == ["prompt"]
    assert state["pipeline"]["state"] == "STREAMING"
    assert state["frames"]["runs"] >= 5


@pytest.mark.parametrize(
    "prompts",
    [
        json.dumps(INVERT),
        [json.dumps(INVERT)],
        [{"text": "a red fox"}],
        {"nodes": [], "links": []},
        [{"1": {"inputs": {}}}],
        {"1": LOAD},
        {"1": {"class_type": "PrimitiveString", "inputs": {"value": ""}}, "2": SAVE},
        {"1": PRIMARY, "2": PRIMARY, "3": SAVE},
        {"1": LOAD, "2": LOAD, "3": LOAD, "4": SAVE},
        {"1": LOAD, **{str(n): SAVE for n in range(2, 6)}},
    ],
    ids=[
        "json-string",
        "list-of-json-strings",
        "text",
        "ui-format",
        "no-class-type",
        "no-output",
        "no-input",
        "two-primary-inputs",
        "three-inputs",
        "four-outputs",
    ],
)
async def test_other_prompts_are_a_server_error(
    standin: ComfyStreamStandIn, offer: dict[str, str], prompts: Any
) -> None:
    """What is no API-format workflow gives a 500 that says nothing; a good offer recovers."""
    body = {"offer": offer, "prompts": prompts}
    assert await post(standin.url, "/offer", body) == SERVER_ERROR
    assert standin.state()["pipeline"]["state"] == "ERROR"
    assert (await post(standin.url, "/offer", {"offer": offer, "prompts": PASS}))[0] == 200
    assert standin.state()["pipeline"]["state"] == "STREAMING"


@pytest.mark.parametrize(
    "broken",
    [
        {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}},
        {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}},
        {"class_type": "ImageInvert", "inputs": {}},
    ],
    ids=["unknown-class", "link-to-nowhere", "missing-input"],
)
async def test_a_broken_workflow_is_dropped_silently(
    standin: ComfyStreamStandIn, broken: dict[str, Any]
) -> None:
    """The answer is 200, the client's own picture comes back, only get_nodes tells."""
    workflow = {"1": LOAD, "2": broken, "3": SAVE | {"inputs": {"images": ["2", 0]}}}
    async with connect(standin.url, workflow, channels=["control"]) as peer:
        await peer.send_in_step(range(6), [n * STEP for n in range(6)])
        assert [(p.number, p.inverted) for p in peer.pictures[:4]] == [(n, False) for n in range(4)]
        nodes = (await peer.ask("get_nodes"))["nodes"]
        assert sorted(node["class_type"] for node in nodes["0"].values()) == [
            "LoadTensor",
            "SaveTensor",
        ]


async def test_a_node_that_raises_in_the_warm_up_wedges_the_server(
    standin: ComfyStreamStandIn,
) -> None:
    """Its run took an input and gave no output, so the warm-up waits for ever."""
    blend = {"image1": ["1", 0], "image2": ["1", 0], "blend_factor": "much"}
    workflow = {
        "1": LOAD,
        "2": {"class_type": "ImageBlend", "inputs": blend},
        "3": SAVE | {"inputs": {"images": ["2", 0]}},
    }
    request = asyncio.create_task(post(standin.url, "/offer", {"prompts": workflow}))
    state = await until(standin, lambda state: state["pipeline"]["wedged"])
    assert state["pipeline"]["fell_back"]
    request.cancel()
    await asyncio.wait([request])


@pytest.mark.parametrize(
    ("source", "sink", "expected"),
    [
        ("LoadImage", "PreviewImage", ["LoadTensor", "SaveTensor"]),
        ("PrimaryInputLoadImage", "SaveImage", ["LoadTensor", "SaveTensor"]),
        ("LoadTensor", "SaveTensor", ["LoadTensor", "SaveTensor"]),
    ],
)
async def test_image_nodes_become_stream_nodes(
    standin: ComfyStreamStandIn, offer: dict[str, str], source: str, sink: str, expected: list[str]
) -> None:
    """Image loaders and savers are rewritten to stream nodes."""
    workflow = {
        "1": {"class_type": source, "inputs": {"image": "a.png"}},
        "2": {"class_type": sink, "inputs": {"images": ["1", 0]}},
    }
    status, _, _ = await post(standin.url, "/offer", {"offer": offer, "prompts": workflow})
    assert status == 200
    assert class_types(standin) == expected


async def test_load_image_beside_a_primary_input_stays(
    standin: ComfyStreamStandIn, offer: dict[str, str]
) -> None:
    """LoadImage is rewritten only where nothing else takes the stream."""
    blend = {"image1": ["1", 0], "image2": ["2", 0], "blend_factor": 0.5}
    workflow = {
        "1": PRIMARY,
        "2": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "3": {"class_type": "ImageBlend", "inputs": blend},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    }
    status, _, _ = await post(standin.url, "/offer", {"offer": offer, "prompts": workflow})
    assert status == 200
    assert class_types(standin) == ["LoadTensor", "LoadImage", "ImageBlend", "SaveTensor"]
    assert not standin.state()["pipeline"]["fell_back"]


@pytest.mark.parametrize("resolution", [None, {}])
async def test_without_a_resolution_the_last_one_stays(
    standin: ComfyStreamStandIn, offer: dict[str, str], resolution: Any
) -> None:
    """The size is the server's, 512x512 at first, and outlives the client that set it."""
    size = standin.state()["pipeline"]
    assert (size["width"], size["height"]) == (512, 512)
    first = {"offer": offer, "resolution": {"width": 320, "height": 240}}
    assert (await post(standin.url, "/offer", first))[0] == 200
    second = {"offer": offer, "resolution": resolution}
    assert (await post(standin.url, "/offer", second))[0] == 200
    size = standin.state()["pipeline"]
    assert (size["width"], size["height"]) == (320, 240)


async def test_half_a_resolution_is_a_server_error(
    standin: ComfyStreamStandIn, offer: dict[str, str]
) -> None:
    """A resolution without a height gives a 500."""
    body = {"offer": offer, "resolution": {"width": 320}}
    assert await post(standin.url, "/offer", body) == SERVER_ERROR


async def test_a_resolution_in_strings_poisons_the_size(
    standin: ComfyStreamStandIn, offer: dict[str, str]
) -> None:
    """Strings give a 500 with prompts, and go on doing so until a valid size comes."""
    poisoned = {"offer": offer, "prompts": PASS, "resolution": {"width": "512", "height": "512"}}
    assert await post(standin.url, "/offer", poisoned) == SERVER_ERROR
    assert standin.state()["pipeline"]["width"] == "512"
    plain = {"offer": offer, "prompts": PASS}
    assert await post(standin.url, "/offer", plain) == SERVER_ERROR
    cured = {**plain, "resolution": {"width": 64, "height": 64}}
    assert (await post(standin.url, "/offer", cured))[0] == 200


@pytest.mark.parametrize(
    "offered",
    [
        {},
        {"offer": {"type": "offer"}},
        {"offer": {"sdp": "v=0"}},
        {"offer": {"sdp": "v=0", "type": "answer"}},
        {"offer": None},
    ],
    ids=str,
)
async def test_an_incomplete_offer_is_a_server_error(
    standin: ComfyStreamStandIn, offered: dict[str, Any]
) -> None:
    """Missing or wrong parts of the offer give a 500."""
    assert await post(standin.url, "/offer", offered) == SERVER_ERROR


async def test_prompts_without_an_offer_still_switch_the_workflow(
    standin: ComfyStreamStandIn,
) -> None:
    """The 500 for a missing offer comes after the workflow was applied and set running."""
    assert await post(standin.url, "/offer", {"prompts": INVERT}) == SERVER_ERROR
    state = standin.state()
    assert state["pipeline"]["state"] == "STREAMING"
    assert class_types(standin) == ["LoadTensor", "ImageInvert", "SaveTensor"]


async def test_what_is_no_json_object_is_a_server_error(standin: ComfyStreamStandIn) -> None:
    """Text and lists give a 500."""
    assert await post(standin.url, "/offer", []) == SERVER_ERROR
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{standin.url}/offer", data="not json") as response,
    ):
        assert (response.status, await response.text()) == (500, SERVER_ERROR[2])


async def test_a_wrong_content_type_and_unknown_fields_are_accepted(
    standin: ComfyStreamStandIn, offer: dict[str, str]
) -> None:
    """Only the body counts, and only the parts that are known."""
    body = json.dumps({"offer": offer, "session": 7})
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{standin.url}/offer", data=body, headers={"Content-Type": "text/plain"}
        ) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert "Location" not in response.headers
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_garbage_description_is_answered_without_media(
    standin: ComfyStreamStandIn,
) -> None:
    """An SDP without media gives a 200 with no m-line in it."""
    body = {"offer": {"sdp": "garbage", "type": "offer"}}
    status, _, text = await post(standin.url, "/offer", body)
    assert status == 200
    assert "m=" not in json.loads(text)["sdp"]


async def test_video_without_h264_is_a_server_error(standin: ComfyStreamStandIn) -> None:
    """A peer that offers only VP8 gets a 500."""
    async with client(standin.url) as peer:
        peer.pc.addTrack(peer.video)
        codecs = RTCRtpSender.getCapabilities("video").codecs
        peer.pc.getTransceivers()[0].setCodecPreferences(
            [codec for codec in codecs if codec.name in ("VP8", "rtx")]
        )
        offered = await peer.offer(video=False)
        body = {"offer": {"sdp": offered.sdp, "type": offered.type}}
        assert await post(standin.url, "/offer", body) == SERVER_ERROR


async def test_the_answer_is_h264_and_opus_only(standin: ComfyStreamStandIn) -> None:
    """One bundle, H.264 in packetisation mode 1 with nack and PLI, Opus, no retransmission."""
    async with client(standin.url) as peer:
        offered = await peer.offer(audio=True, channels=["control"])
        body = {"offer": {"sdp": offered.sdp, "type": offered.type}}
        sdp = json.loads((await post(standin.url, "/offer", body))[2])["sdp"]
    codecs = {line.split()[1].split("/")[0] for line in sdp.splitlines() if "rtpmap" in line}
    assert codecs == {"H264", "opus"}
    assert "packetization-mode=1" in sdp
    assert "nack pli" in sdp
    assert "goog-remb" in sdp
    assert sdp.count("a=setup:active") == 3
    assert "a=candidate" in sdp
    assert "a=group:BUNDLE 0 1 2" in sdp


async def test_a_peer_that_only_sends_gets_nothing_back(standin: ComfyStreamStandIn) -> None:
    """sendonly is received and not returned."""
    async with client(standin.url) as peer:
        peer.pc.addTransceiver(peer.video, direction="sendonly")
        offered = await peer.offer(video=False)
        body = {"offer": {"sdp": offered.sdp, "type": offered.type}}
        answer = json.loads((await post(standin.url, "/offer", body))[2])
        await peer.accept(answer)
        assert "a=recvonly" in answer["sdp"]
        assert peer.pc.getTransceivers()[0].currentDirection == "sendonly"


async def test_a_peer_that_only_receives_gets_no_frames(standin: ComfyStreamStandIn) -> None:
    """recvonly is answered sendonly, with nothing to send."""
    async with client(standin.url) as peer:
        peer.pc.addTransceiver("video", direction="recvonly")
        offered = await peer.offer(video=False)
        body = {"offer": {"sdp": offered.sdp, "type": offered.type}, "prompts": PASS}
        answer = json.loads((await post(standin.url, "/offer", body))[2])
        assert "a=sendonly" in answer["sdp"]
        await peer.accept(answer)
        assert standin.state()["connections"][0]["tracks"] == {}


async def test_five_runs_come_before_the_answer() -> None:
    """The answer waits for five runs of the workflow."""
    async with (
        ComfyStreamStandIn(faults=Faults(process_ms=(60,))) as standin,
        client(standin.url) as peer,
    ):
        offered = await peer.offer()
        body = {"offer": {"sdp": offered.sdp, "type": offered.type}, "prompts": PASS}
        started_at = time.monotonic()
        assert (await post(standin.url, "/offer", body))[0] == 200
        assert time.monotonic() - started_at > 5 * 0.06


@pytest.mark.parametrize(
    "prompts",
    [{**PASS, "3": AUDIO["1"], "4": {**AUDIO["2"], "inputs": {"audio": ["3", 0]}}}, [PASS, AUDIO]],
    ids=["one-workflow", "two-workflows"],
)
async def test_video_and_audio_outputs_hang_for_ever(
    standin: ComfyStreamStandIn, prompts: Any
) -> None:
    """A warm-up that needs both kinds of output never gets them, and wedges the server."""
    request = asyncio.create_task(post(standin.url, "/offer", {"prompts": prompts}))
    await until(standin, lambda state: state["pipeline"]["wedged"])
    request.cancel()
    await asyncio.wait([request])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await post(standin.url, "/offer", {"prompts": PASS})
    assert standin.state()["pipeline"]["wedged"]
    assert (await get(standin.url, "/health"))[0] == 200
    async with connect(standin.url) as peer:
        await peer.send_in_step(range(4), [n * STEP for n in range(4)])


@pytest.mark.parametrize("path", ["/", "/health", "/live/", "/live/health"])
async def test_health_is_always_ok(standin: ComfyStreamStandIn, path: str) -> None:
    """Health says OK, labelled as JSON."""
    assert await get(standin.url, path) == (200, "application/json", "OK")


async def test_every_route_is_also_under_live(standin: ComfyStreamStandIn) -> None:
    """The prefix works for all routes, and is none itself."""
    assert (await get(standin.url, "/live"))[0] == 404
    assert (await get(standin.url, "/live/streams/stats"))[:2] == (200, "application/json")
    assert (await post(standin.url, "/live/prompt", PASS))[2] == "OK"
    async with client(standin.url) as peer:
        offered = await peer.offer()
        body = {"offer": {"sdp": offered.sdp, "type": offered.type}}
        status, _, text = await post(standin.url, "/live/offer", body)
        assert status == 200
        await peer.accept(json.loads(text))


async def test_offers_are_posted_only(standin: ComfyStreamStandIn) -> None:
    """GET and OPTIONS give 405."""
    async with aiohttp.ClientSession() as session:
        for method in ("GET", "OPTIONS"):
            async with session.request(method, f"{standin.url}/offer") as response:
                assert response.status == 405


async def test_post_prompt_applies_a_workflow_without_a_client(
    standin: ComfyStreamStandIn,
) -> None:
    """POST /prompt takes a workflow or a list, warms it up, and does not start it."""
    assert await post(standin.url, "/prompt", INVERT) == (200, "application/json", "OK")
    assert standin.state()["pipeline"]["state"] == "READY"
    assert class_types(standin) == ["LoadTensor", "ImageInvert", "SaveTensor"]
    assert (await post(standin.url, "/prompt", [PASS]))[0] == 200
    assert await post(standin.url, "/prompt", []) == SERVER_ERROR
    assert await post(standin.url, "/prompt", {"text": "x"}) == SERVER_ERROR


async def test_renegotiation_makes_another_connection(
    standin: ComfyStreamStandIn, offer: dict[str, str]
) -> None:
    """The server keeps no session: the same offer twice is two connections."""
    for _ in range(2):
        assert (await post(standin.url, "/offer", {"offer": offer}))[0] == 200
    assert len(standin.state()["connections"]) == 2
    assert RTCSessionDescription(**offer).type == "offer"
