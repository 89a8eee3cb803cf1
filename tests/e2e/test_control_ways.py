"""Changes on the control channel, before a connection stands, and after ComfyStream restarted."""

from __future__ import annotations

import asyncio
import json

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.trickle.publisher import TricklePublisher
from tests.e2e.stack import INVERT, Viewer, in_background, running_stack
from tests.e2e.test_live_changes import PLAIN, changing, newest
from tests.peers.ports import free_port
from tests.standin_process import standin_process


@pytest.mark.timeout(60)
async def test_changes_come_on_the_control_channel_in_order_with_http() -> None:
    """A gateway's params, its keepalives, half a megabyte in one message, and rubbish; when the
    channel is closed, the session ends."""
    options = PatternOptions(frames=1800, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack() as stack:
        url = stack.channel("camera-control")
        source = publish_live(stack.channel("camera"), generate(options))
        async with in_background(source), TricklePublisher(url) as gateway:

            async def send(data: bytes) -> None:
                segment = await gateway.next_segment()
                await segment.write(data)
                await segment.close()

            await send(b'{"keep":"alive"}')
            session = await stack.start("camera", control_url=url)
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await newest(viewer, inverted=True)
                large = {"prompts": json.dumps(PLAIN), "picture": "x" * 500_000}
                await send(json.dumps(large).encode())
                await newest(viewer, inverted=False)
                await send(b"not json")
                await send(b'{"keep":"alive"}\n{"model_id": "somebody else\'s"}\n{"width": 7}\n')
                await stack.wait_for_status(session, lambda s: s["channels"]["control"]["bad"] == 3)
                answer = await stack.call(
                    "POST",
                    f"/session/{session}/control",
                    json={"type": "update_prompts", "prompts": INVERT},
                )
                assert answer[1]["reply"] == {"type": "prompts_updated", "success": True}
                await newest(viewer, inverted=True)
                control = (await stack.status(session))["channels"]["control"]
                assert (control["applied"], control["failed"]) == (1, 0)
                assert "width" in control["last_problem"]
                nodes = await stack.call("GET", f"/session/{session}/nodes")
                assert nodes[1]["nodes"]["0"]["2"]["class_type"] == "ImageInvert"
                unknown = {"type": "dance"}
                sent = await stack.call("POST", f"/session/{session}/control", json=unknown)
                assert sent == (200, {"success": True, "reply": None})
                await gateway.aclose()
                await viewer.wait_for(lambda v: v.ended)
        status = await stack.status(session)
    assert (status["status"], status["end_reason"]) == ("stopped", "control_ended")


@pytest.mark.timeout(60)
async def test_what_is_asked_for_while_connecting_is_applied_once() -> None:
    """An offer is under way, which takes its time: the newest change follows it, and once."""
    options = PatternOptions(frames=1800, plain=True, audio=False)
    viewer = Viewer()
    async with running_stack("--offer-delay-s", "2.5") as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            session = await stack.start("camera", prompts=INVERT)
            await stack.wait_for_status(session, lambda s: s["processing"]["link"] == "loading")
            path = f"/session/{session}"
            answers = await asyncio.gather(
                stack.call("PATCH", path, json={"prompts": INVERT}),
                stack.call("PATCH", path, json={"prompts": PLAIN}),
            )
            results = sorted(str(answer["result"]) for _, answer in answers)
            assert results == ["applied", "superseded"]
            nodes = (await stack.call("GET", f"{path}/nodes"))[1]["nodes"]
            classes = {node["class_type"] for node in nodes["0"].values()}
            assert ("ImageScale" in classes) is (answers[1][1]["result"] == "applied")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                await newest(viewer, inverted="ImageInvert" in classes)
                status = await stack.status(session)
                assert status["processing"]["attempts"] == 1
                await stack.call("DELETE", path)


@pytest.mark.timeout(60)
async def test_what_was_changed_holds_when_comfystream_restarts() -> None:
    """The new process is offered the prompts and the size of now, not those of the start."""
    options = PatternOptions(frames=1800, plain=True, audio=False)
    viewer = Viewer()
    port = free_port()
    settings = {"reconnect_first_wait_s": 0.1, "reconnect_longest_wait_s": 0.5}
    async with running_stack(**settings) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(options))):
            async with standin_process("--port", str(port)) as first:
                session = await stack.start("camera", comfystream_url=first.url, prompts=[])
                path = f"/session/{session}"
                await stack.wait_for_status(session, lambda s: s["status"] == "active")
                status, answer = await stack.call(
                    "PATCH", path, json={"prompts": INVERT, "width": 320, "height": 240}
                )
                assert (status, answer["result"]) == (200, "applied")
                first.kill()
            async with standin_process("--port", str(port)):
                async with in_background(viewer.watch(stack.channel("camera-processed"))):
                    await newest(viewer, inverted=True)
                    assert (viewer.frames[-1].width, viewer.frames[-1].height) == (320, 240)
                    await stack.call("DELETE", path)


@pytest.mark.timeout(60)
async def test_a_server_that_does_not_answer_an_update_is_left_for_a_new_connection() -> None:
    """The caller is told in time, and the prompts of before run again."""
    async with changing(settings={"update_timeout_s": 0.5}) as (stack, session, viewer):
        await stack.comfystream.set_faults(control_silent=True)
        status, answer = await stack.call("PATCH", f"/session/{session}", json={"prompts": PLAIN})
        assert (status, answer["code"]) == (503, "update_timeout"), answer
        await stack.comfystream.set_faults(control_silent=False)
        await newest(viewer, inverted=True, count=10)
        await stack.wait_for_status(session, lambda s: s["processing"]["reconnects"] == 1)
