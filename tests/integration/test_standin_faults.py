"""Every fault that can be switched on the stand-in, and the aiortc internals it rests on."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from typing import Any

import aiohttp
import pytest
from aiortc import RTCPeerConnection
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, pack_remb_fci

from demo.standin import ComfyStreamStandIn, Faults
from tests.integration.standin_client import (
    HEIGHT,
    INVERT,
    PASS,
    STEP,
    WIDTH,
    Client,
    client,
    connect,
    get,
    post,
    until,
)


async def echoed(peer: Client, count: int, start: int = 0) -> None:
    """Send `count` pictures in step."""
    numbers = range(start, start + count)
    await peer.send_in_step(numbers, [number * STEP for number in numbers])


def video_track(standin: ComfyStreamStandIn) -> dict[str, Any]:
    """Video of the only connection."""
    track: dict[str, Any] = standin.state()["connections"][0]["tracks"]["video"]
    return track


async def send_pli(pc: RTCPeerConnection) -> None:
    """Ask the other side for a keyframe."""
    receiver = pc.getReceivers()[0]
    await receiver._send_rtcp_pli(receiver.getSynchronizationSources()[0].source)


class RawVideo:
    """RTP packets of returned video as they come: timestamps, sizes and keyframes."""

    def __init__(self, pc: RTCPeerConnection) -> None:
        self.timestamps: list[int] = []
        self.frame_bytes: dict[int, int] = {}
        self.keyframes: list[int] = []
        receiver = pc.getReceivers()[0]
        stock = receiver._handle_rtp_packet

        async def handle(packet: Any, arrival_time_ms: int) -> None:
            if packet.timestamp not in self.frame_bytes:
                self.timestamps.append(packet.timestamp)
            size = self.frame_bytes.get(packet.timestamp, 0)
            self.frame_bytes[packet.timestamp] = size + len(packet.payload)
            if _has_parameter_set(packet.payload) and packet.timestamp not in self.keyframes:
                self.keyframes.append(packet.timestamp)
            await stock(packet, arrival_time_ms=arrival_time_ms)

        receiver._handle_rtp_packet = handle


def _has_parameter_set(payload: bytes) -> bool:
    """Whether a STAP-A or single NAL unit payload begins with an SPS."""
    kind = payload[0] & 0x1F
    if kind == 24:
        (size,) = struct.unpack_from(">H", payload, 1)
        return size > 0 and payload[3] & 0x1F == 7
    return kind == 7


async def test_processing_time_can_vary_and_change_at_run_time() -> None:
    """A list of times is used in turn; a change holds from the next run on."""
    async with (
        ComfyStreamStandIn(faults=Faults(process_ms=(5, 150))) as standin,
        connect(standin.url, INVERT) as peer,
    ):
        await echoed(peer, 8)
        arrivals = [picture.arrived_at for picture in peer.pictures]
        steps = [b - a for a, b in itertools.pairwise(arrivals)]
        assert sum(step > 0.1 for step in steps) >= 2
        standin.set_faults(process_ms=0)
        await echoed(peer, 6, start=8)
        assert standin.state()["faults"]["process_ms"] == [0.0]


async def test_frozen_processing_piles_up_labels_and_thaws() -> None:
    """Nothing returns while frozen, and something does afterwards."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, INVERT) as peer:
        await echoed(peer, 5)
        standin.set_faults(frozen=True)
        runs = standin.state()["frames"]["runs"]
        for number in range(5, 15):
            peer.video.send(number, number * STEP)
        await until(standin, lambda s: s["queues"]["video_labels"] >= 7)
        assert standin.state()["frames"]["runs"] <= runs + 1
        before = len(peer.pictures)
        standin.set_faults(frozen=False)
        peer.start(peer.stream(range(15, 40)))
        await peer.wait_pictures(before + 5)


@pytest.mark.parametrize("prompts", [None, PASS], ids=["noop", "prompt"])
async def test_inputs_dropped_at_the_start(prompts: Any) -> None:
    """They never return; in prompt mode they shift every later timestamp."""
    async with (
        ComfyStreamStandIn(faults=Faults(drop_inputs=3)) as standin,
        connect(standin.url, prompts) as peer,
    ):
        peer.start(peer.stream(range(60)))
        await peer.wait_pictures(7)
        first = peer.pictures[0]
        assert first.pts == 0
        assert first.number is not None
        if prompts is None:
            assert first.number == 3
        else:
            assert first.number >= 3
            # One more is in the hands of the sender, which waits for an output to put on it.
            assert standin.state()["queues"]["video_labels"] >= 2


async def test_returned_frames_lost_at_the_start_shift_the_origin() -> None:
    """What the client sees first is not what it sent first, and nothing tells it so."""
    async with (
        ComfyStreamStandIn(faults=Faults(lose_returned=4)) as standin,
        connect(standin.url) as peer,
    ):
        peer.start(peer.stream(range(60)))
        await peer.wait_pictures(7)
        assert (peer.pictures[0].number, peer.pictures[0].pts) == (4, 0)
        assert peer.pictures[3].pts == 3 * STEP


async def test_frames_can_be_lost_regularly_both_ways() -> None:
    """What is lost is missing from what returns, and the rest keeps its timestamps."""
    faults = Faults(drop_input_every=4, lose_returned_every=3)
    async with ComfyStreamStandIn(faults=faults) as standin, connect(standin.url) as peer:
        peer.start(peer.stream(range(100)))
        await peer.wait_pictures(12)
        # Of every 0 1 2 3, the last is lost on its way in and the third on its way back.
        assert [p.number for p in peer.pictures[:8]] == [0, 1, 4, 5, 8, 9, 12, 13]
        assert [p.pts // STEP for p in peer.pictures[:8]] == [0, 1, 4, 5, 8, 9, 12, 13]


@pytest.mark.parametrize("prompts", [None, PASS], ids=["noop", "prompt"])
async def test_an_odd_size_ends_the_sender(prompts: Any) -> None:
    """No video for the rest of the connection, which stays connected; good sizes don't help."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, prompts) as peer:
        await echoed(peer, 5)
        standin.set_faults(output_width=255, output_height=129)
        for number in range(5, 9):
            peer.video.send(number, number * STEP)
        await until(standin, lambda _: video_track(standin)["sender"] == "ended")
        standin.set_faults(output_width=None, output_height=None)
        before, received = len(peer.pictures), video_track(standin)["received"]
        for number in range(9, 20):
            peer.video.send(number, number * STEP)
        await until(standin, lambda _: video_track(standin)["received"] >= received + 10)
        assert len(peer.pictures) <= before + 1
        assert video_track(standin)["sender"] == "ended"
        assert peer.pc.connectionState == "connected"


async def test_the_size_can_change_in_mid_stream() -> None:
    """New parameter sets and a keyframe come with the new size, pts go on."""
    faults = Faults(output_width=64, output_height=96, output_size_after=5)
    async with ComfyStreamStandIn(faults=faults) as standin, connect(standin.url) as peer:
        await echoed(peer, 12)
        sizes = [picture.size for picture in peer.pictures]
        assert sizes[:5] == [(WIDTH, HEIGHT)] * 5
        assert set(sizes[5:]) == {(64, 96)}
        assert [p.pts for p in peer.pictures] == [n * STEP for n in range(len(sizes))]


async def test_a_scaling_workflow_returns_its_own_size() -> None:
    """The size that returns is whatever the workflow saves."""
    scale = {"image": ["1", 0], "width": 64, "height": 32, "upscale_method": "area"}
    workflow = {
        "1": PASS["1"],
        "2": {"class_type": "ImageScale", "inputs": {**scale, "crop": "disabled"}},
        "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}},
    }
    async with ComfyStreamStandIn() as standin, connect(standin.url, workflow) as peer:
        await echoed(peer, 5)
        assert peer.pictures[0].size == (64, 32)


async def test_more_and_fewer_outputs_than_inputs() -> None:
    """Twice as many outputs use up labels twice as fast; half as many leave half behind."""
    async with (
        ComfyStreamStandIn(faults=Faults(output_ratio=2)) as standin,
        connect(standin.url, PASS) as peer,
    ):
        peer.start(peer.stream(range(40)))
        await peer.wait_pictures(20)
        numbers = [picture.number for picture in peer.pictures[:20]]
        assert numbers[::2] == numbers[1::2]
        assert peer.pictures[19].pts == 19 * STEP
        standin.set_faults(output_ratio=0.5)
        await until(standin, lambda s: s["frames"]["received"] > 35)
        assert standin.state()["queues"]["video_outputs"] > 5


@pytest.mark.parametrize("kind", ["video", "audio"])
async def test_a_sender_can_die_while_connected(kind: str) -> None:
    """That medium stops, the other goes on, and the connection says nothing."""
    async with (
        ComfyStreamStandIn(faults=Faults(**{f"{kind}_sender_dies_after": 5})) as standin,
        connect(standin.url, INVERT, audio=True) as peer,
    ):
        peer.start(peer.stream(range(200)))
        other = "audio" if kind == "video" else "video"

        def over(state: dict[str, Any]) -> bool:
            tracks = state["connections"][0]["tracks"]
            return (
                tracks[kind]["sender"] == "ended"
                and tracks[kind]["received"] > 20
                and tracks[other]["sent"] > 20
            )

        state = await until(standin, over)
        tracks = state["connections"][0]["tracks"]
        assert tracks[kind]["sent"] == 5
        assert tracks[other]["sender"] == "live"
        assert peer.pc.connectionState == "connected"


async def test_media_can_be_withheld() -> None:
    """Connected, receiving, and nothing returns until the fault is cleared."""
    async with (
        ComfyStreamStandIn(faults=Faults(withhold_media=True)) as standin,
        connect(standin.url) as peer,
    ):
        for number in range(6):
            peer.video.send(number, number * STEP)
        await until(standin, lambda _: video_track(standin)["received"] >= 5)
        assert video_track(standin)["sent"] == 0
        standin.set_faults(withhold_media=False)
        for number in range(6, 12):
            peer.video.send(number, number * STEP)
        await peer.wait_pictures(3)


async def test_undecodable_media_is_sent_and_not_seen() -> None:
    """Frames arrive and no picture comes of them until the fault is cleared."""
    async with (
        ComfyStreamStandIn(faults=Faults(undecodable=True)) as standin,
        connect(standin.url) as peer,
    ):
        for number in range(10):
            peer.video.send(number, number * STEP)
        await until(standin, lambda _: video_track(standin)["sent"] >= 8)
        await until(standin, lambda s: s["connections"][0]["keyframe_requests"] >= 1)
        assert peer.pictures == []
        standin.set_faults(undecodable=False)
        peer.start(peer.stream(range(10, 60)))
        await peer.wait_pictures(5)


async def test_noise_hides_the_picture_and_keeps_its_timestamp() -> None:
    """The noise of a warm-up in a live stream looks like this."""
    async with (
        ComfyStreamStandIn(faults=Faults(noise=True)) as standin,
        connect(standin.url) as peer,
    ):
        await echoed(peer, 6)
        assert {picture.number for picture in peer.pictures} == {None}
        assert [p.pts for p in peer.pictures] == [n * STEP for n in range(len(peer.pictures))]


async def test_keyframes_can_be_oversized() -> None:
    """Every n-th returned frame is a keyframe of noise, far larger than its neighbours."""
    async with (
        ComfyStreamStandIn(faults=Faults(oversized_keyframe_every=6)) as standin,
        connect(standin.url) as peer,
    ):
        raw = RawVideo(peer.pc)
        await echoed(peer, 20)
        sizes = [raw.frame_bytes[timestamp] for timestamp in raw.timestamps]
        assert len(raw.keyframes) == 4
        assert raw.timestamps.index(raw.keyframes[1]) == 5
        assert sizes[5] > 10 * sizes[4]


@pytest.mark.parametrize("ignored", [False, True])
async def test_pli_brings_a_keyframe_unless_ignored(ignored: bool) -> None:
    """An undisturbed server answers with a keyframe at once; the fault only counts."""
    async with (
        ComfyStreamStandIn(faults=Faults(ignore_pli=ignored)) as standin,
        connect(standin.url) as peer,
    ):
        raw = RawVideo(peer.pc)
        await echoed(peer, 6)
        assert len(raw.keyframes) == 1
        await send_pli(peer.pc)
        await until(standin, lambda s: s["connections"][0]["keyframe_requests"] == 1)
        await echoed(peer, 6, start=6)
        assert len(raw.keyframes) == (1 if ignored else 2)


async def test_the_encoder_starts_at_one_and_goes_to_two_megabits() -> None:
    """The first REMB, whatever it says, lifts the target from 1 to 2 Mbit/s."""
    async with ComfyStreamStandIn() as standin, connect(standin.url) as peer:
        await echoed(peer, 4)
        assert standin.state()["connections"][0]["encoder_bitrate"] == 1_000_000
        receiver = peer.pc.getReceivers()[0]
        ssrc = receiver.getSynchronizationSources()[0].source
        await receiver._send_rtcp(
            RtcpPsfbPacket(
                fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=pack_remb_fci(300_000, [ssrc])
            )
        )
        await until(standin, lambda s: s["connections"][0]["encoder_bitrate"] == 2_000_000)


async def test_the_rtp_origin_can_be_set_next_to_the_wrap() -> None:
    """Timestamps start where asked and pass 2^32 without a step in pts."""
    origin = (1 << 32) - 4 * STEP
    async with (
        ComfyStreamStandIn(faults=Faults(rtp_origin=origin)) as standin,
        connect(standin.url) as peer,
    ):
        raw = RawVideo(peer.pc)
        await echoed(peer, 12)
        assert raw.timestamps[:6] == [(origin + n * STEP) % (1 << 32) for n in range(6)]
        assert [p.pts for p in peer.pictures] == [n * STEP for n in range(len(peer.pictures))]


async def test_without_a_set_origin_every_connection_has_its_own() -> None:
    """The origin is random, as in any aiortc sender."""
    first = []
    async with ComfyStreamStandIn() as standin:
        for _ in range(2):
            async with connect(standin.url) as peer:
                raw = RawVideo(peer.pc)
                await echoed(peer, 4)
                first.append(raw.timestamps[0])
    assert first[0] != first[1]


async def test_offers_can_be_late_fail_and_be_reset() -> None:
    """A delay holds the answer up; a failure hits as many offers as asked."""
    async with ComfyStreamStandIn(faults=Faults(offer_delay_s=0.3)) as standin:
        async with client(standin.url) as peer:
            offered = await peer.offer()
            body = {"offer": {"sdp": offered.sdp, "type": offered.type}}
            loop = asyncio.get_running_loop()
            asked_at = loop.time()
            assert (await post(standin.url, "/offer", body))[0] == 200
            assert loop.time() - asked_at >= 0.3
            standin.set_faults(offer_delay_s=0, offer_failure="500", offer_failures=1)
            assert (await post(standin.url, "/offer", body))[0] == 500
            assert (await post(standin.url, "/offer", body))[0] == 200
            standin.set_faults(offer_failure="reset", offer_failures=None)
            with pytest.raises(aiohttp.ClientError):
                await post(standin.url, "/offer", body)


async def test_the_server_can_be_wedged_now() -> None:
    """Prompt requests hang, noop and health do not, and a client that gives up changes nothing."""
    async with ComfyStreamStandIn() as standin:
        standin.set_faults(wedged=True)
        for path, body in (("/prompt", PASS), ("/offer", {"prompts": PASS})):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await post(standin.url, path, body)
        assert standin.state()["pipeline"]["wedged"]
        assert (await get(standin.url, "/health"))[0] == 200
        async with connect(standin.url) as peer:
            await echoed(peer, 4)


async def test_faults_over_http_are_typed_and_validated() -> None:
    """A good change answers with all faults, a bad one names every mistake and changes none."""
    async with ComfyStreamStandIn() as standin:
        status, _, text = await post(standin.url, "/standin/faults", {"process_ms": [1, 2]})
        assert (status, json.loads(text)["process_ms"]) == (200, [1.0, 2.0])
        bad = {"process_ms": -1, "nonsense": True, "frozen": "sometimes", "noise": True}
        status, _, text = await post(standin.url, "/standin/faults", bad)
        assert status == 422
        assert {name.split(".")[0] for name in json.loads(text)["faults"]} == {
            "process_ms",
            "nonsense",
            "frozen",
        }
        assert standin.state()["faults"]["noise"] is False
        assert (await post(standin.url, "/standin/faults", [1]))[0] == 400
        async with (
            aiohttp.ClientSession() as session,
            session.delete(f"{standin.url}/standin/faults") as response,
        ):
            assert await response.json() == Faults().model_dump(mode="json")
        assert json.loads((await get(standin.url, "/standin/state"))[2]) is not None
        assert (await get(standin.url, "/live/standin/state"))[0] == 404
