"""Media takes the way that the operator laid out: TURN, Twilio's TURN, a range of ports."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import aioice.ice
import pytest
from aiohttp import web

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from tests.e2e.stack import Stack, Viewer, in_background, running_stack
from tests.turn_process import PASSWORD, USER, turn_process

pytestmark = pytest.mark.timeout(120)
PATTERN = PatternOptions(frames=900, plain=True, audio=False)


def turn_servers(port: int, **changes: str) -> str:
    urls = f"turn:127.0.0.1:{port}{changes.pop('query', '')}"
    return json.dumps([{"urls": urls, "username": USER, "credential": PASSWORD} | changes])


async def pictures_arrive(stack: Stack, name: str = "camera") -> dict[str, Any]:
    """Run a session until ten processed pictures are there; its status by then."""
    viewer = Viewer()
    session = await stack.start(name)
    async with in_background(viewer.watch(stack.channel(f"{name}-processed"))):
        await viewer.wait_for(lambda v: sum(f.inverted for f in v.frames) > 10, 30)
    status = await stack.status(session)
    assert (await stack.call("DELETE", f"/session/{session}"))[0] == 200
    return status


@pytest.mark.parametrize("query", ["", "?transport=tcp"])
async def test_media_goes_through_a_turn_server(query: str) -> None:
    """With the policy `relay` the offer names its address only, and pictures come back."""
    async with turn_process() as turn:
        servers = turn_servers(turn.port, query=query)
        settings = {"ice_servers": servers, "ice_transport_policy": "relay"}
        async with running_stack(**settings) as stack:
            async with in_background(publish_live(stack.channel("camera"), generate(PATTERN))):
                status = await pictures_arrive(stack)
        assert status["webrtc_state"] == "connected"
        assert turn.allocations() == 1, turn.log.read_text()


async def test_a_turn_server_that_refuses_is_named() -> None:
    """Wrong credentials: no address, said at once and in words, and the session tries on."""
    async with turn_process() as turn:
        servers = turn_servers(turn.port, credential="wrong")
        settings = {"ice_servers": servers, "ice_transport_policy": "relay"}
        async with running_stack(**settings) as stack:
            session = await stack.start("camera")
            status = await stack.wait_for_status(session, lambda s: s["processing"]["error_code"])
            assert status["processing"]["error_code"] == "no_candidates"
            assert "TURN" in status["processing"]["error"]
            assert "wrong" not in json.dumps(status)


async def test_the_next_turn_address_is_tried_after_a_failure() -> None:
    """The first in the list is not there; the second attempt takes the second."""
    async with turn_process() as turn:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as nobody:
            nobody.bind(("127.0.0.1", 0))  # not listening: refuses
            urls = [
                f"turn:127.0.0.1:{nobody.getsockname()[1]}?transport=tcp",
                f"turn:127.0.0.1:{turn.port}",
            ]
            servers = json.dumps([{"urls": urls, "username": USER, "credential": PASSWORD}])
            async with running_stack(
                ice_servers=servers, ice_transport_policy="relay", reconnect_first_wait_s=0.1
            ) as stack:
                async with in_background(publish_live(stack.channel("camera"), generate(PATTERN))):
                    status = await pictures_arrive(stack)
            assert status["processing"]["attempts"] == 2


async def test_twilio_s_servers_are_asked_for_and_used() -> None:
    """A stand-in of the token call hands out our TURN server; the account's secret goes there
    and nowhere else."""
    calls: list[str] = []
    async with turn_process() as turn:

        async def token(request: web.Request) -> web.StreamResponse:
            calls.append(f"{request.path} {request.headers['Authorization']}")
            answer = {
                "ttl": "3600",
                "ice_servers": [
                    {"url": "stun:127.0.0.1:9", "urls": "stun:127.0.0.1:9"},
                    {
                        "url": f"turn:127.0.0.1:{turn.port}?transport=udp",
                        "urls": f"turn:127.0.0.1:{turn.port}?transport=udp",
                        "username": USER,
                        "credential": PASSWORD,
                    },
                ],
            }
            return web.json_response(answer, status=201)

        app = web.Application()
        app.router.add_post("/2010-04-01/Accounts/{sid}/Tokens.json", token)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            async with running_stack(
                twilio_account_sid="AC0123",
                twilio_auth_token="twilio-secret",
                twilio_api_url=f"http://127.0.0.1:{runner.addresses[0][1]}",
                ice_transport_policy="relay",
            ) as stack:
                async with in_background(publish_live(stack.channel("camera"), generate(PATTERN))):
                    await pictures_arrive(stack)
                    await pictures_arrive(stack)
        finally:
            await runner.cleanup()
        assert turn.allocations() == 2
        # user and password of RFC 7617: AC0123:twilio-secret
        assert calls == [
            "/2010-04-01/Accounts/AC0123/Tokens.json Basic QUMwMTIzOnR3aWxpby1zZWNyZXQ="
        ]


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free on every address ICE would use."""
    addresses = aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True)
    for first in range(20000, 30000, count):
        bound = []
        try:
            for port in range(first, first + count):
                for address in addresses:
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    bound.append(socket.socket(family, socket.SOCK_DGRAM))
                    bound[-1].bind((address, port))
            return first
        except OSError:
            continue
        finally:
            for probe in bound:
                probe.close()
    raise AssertionError("no free ports")


async def test_media_stays_in_the_range_of_ports_and_says_when_it_is_used_up() -> None:
    """Two ports carry two sessions; the third says what is missing and connects when one ends."""
    first = free_ports(2)
    viewers = Viewer(), Viewer()
    async with running_stack(
        udp_ports=f"{first}-{first + 1}",
        reconnect_first_wait_s=0.1,
        reconnect_longest_wait_s=0.2,
    ) as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(PATTERN))):
            sessions = []
            for number in range(2):
                output = stack.channel(f"out{number}")
                sessions.append(await stack.start("camera", prompts=[], output_stream_url=output))
                watching = viewers[number]
                async with in_background(watching.watch(output)):
                    await watching.wait_for(lambda v: len(v.frames) > 5, 30)
            peers = (await stack.comfystream.state())["connections"]
            assert len(peers) == 2
            third = await stack.start("camera", prompts=[], output_stream_url=stack.channel("out2"))
            status = await stack.wait_for_status(third, lambda s: s["processing"]["error_code"])
            assert status["processing"]["error_code"] == "no_candidates"
            assert "RELAY_UDP_PORTS" in status["processing"]["error"]
            await stack.call("DELETE", f"/session/{sessions[0]}")
            await stack.wait_for_status(third, lambda s: s["status"] == "active")
            await asyncio.gather(
                *(stack.call("DELETE", f"/session/{s}") for s in (third, sessions[1]))
            )
