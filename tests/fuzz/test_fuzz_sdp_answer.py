"""The SDP that a server answers with: whatever it says, connecting ends in time, with a
connection or an error of ours, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from hypothesis import given
from hypothesis import strategies as st

from relay import webrtc_client
from relay.codec_executor import CodecExecutor
from relay.errors import ProcessingError
from relay.media.access_unit import SourceFrame
from relay.media.encoder import VideoEncoder
from relay.queues import MediaQueue
from relay.webrtc.close import close_peer
from relay.webrtc_client import WebRTCClient, WebRTCOptions
from tests.fuzz.examples import examples

LIMIT_S = 10

changes = st.lists(
    st.tuples(
        st.sampled_from(["drop", "double", "swap", "replace", "edit", "number"]),
        st.integers(0, 200),
        st.integers(0, 200),
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
        | st.sampled_from(
            [
                "m=video 9 UDP/TLS/RTP/SAVPF 99",
                "m=application 9 DTLS/SCTP 5000",
                "a=inactive",
                "a=recvonly",
                "a=group:BUNDLE",
                "a=setup:active",
                "a=setup:passive",
                "a=fingerprint:sha-256 00:11",
                "a=candidate:1 1 udp 1 169.254.169.254 80 typ host",
                "a=candidate:1 1 udp 1 x.local 80 typ host",
                "a=candidate:x",
                "a=rtpmap:99 H264",
                "a=mid:",
                "a=sctp-port:x",
                "c=IN IP4",
                "",
            ]
        ),
    ),
    min_size=1,
    max_size=6,
)


def changed(sdp: str, edits: list[tuple[str, int, int, str]]) -> str:
    """`sdp` after each edit: kind, line, another number, text."""
    lines = sdp.splitlines()
    for kind, at, other, text in edits:
        at, other = at % len(lines), other % len(lines)
        match kind:
            case "drop":
                del lines[at]
            case "double":
                lines.insert(other, lines[at])
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "replace":
                lines[at] = text
            case "edit":
                place = other % (len(lines[at]) + 1)
                lines[at] = lines[at][:place] + text + lines[at][place:]
            case "number":
                lines[at] = "".join(str(other) if c.isdigit() else c for c in lines[at])
        lines = lines or ["v=0"]
    return "\r\n".join(lines) + "\r\n"


async def connect(codecs: CodecExecutor, edit: Callable[[str], str]) -> bool:
    """Offer to a peer whose answer is edited on its way; whether that made a connection."""
    theirs = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    theirs.addTrack(VideoStreamTrack())

    async def answer(offer: str) -> str:
        await theirs.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await theirs.setLocalDescription(await theirs.createAnswer())
        return edit(theirs.localDescription.sdp)

    frames: MediaQueue[SourceFrame] = MediaQueue("decoded_frames", 4)
    client = WebRTCClient(
        answer,
        WebRTCOptions(),
        codecs,
        lambda width, height: VideoEncoder(width, height, profile="baseline"),
        processing=False,
    )
    try:
        with contextlib.suppress(ProcessingError):
            await client.connect(frames, lambda _unit: None)
        return client.state == "connected"
    finally:
        frames.close()
        await client.aclose()
        await close_peer(theirs)


async def test_the_unchanged_answer_connects() -> None:
    """What the others change is an answer that works."""
    codecs = CodecExecutor(1)
    assert await connect(codecs, lambda sdp: sdp)
    codecs.close()


async def test_an_answer_without_an_sctp_port_leaves_nothing_behind() -> None:
    """aiortc's close raises then, before it has stopped a transport."""
    codecs = CodecExecutor(1)
    await connect(codecs, lambda sdp: sdp.replace("a=sctp-port:5000\r\n", ""))
    codecs.close()


@examples(40)
@given(edits=changes)
async def test_any_answer(edits: list[tuple[str, int, int, str]]) -> None:
    """Lines dropped, doubled, moved and rewritten."""
    codecs = CodecExecutor(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webrtc_client, "CONNECT_TIMEOUT_S", 0.3)
        async with asyncio.timeout(LIMIT_S):
            await connect(codecs, lambda sdp: changed(sdp, edits))
    codecs.close()
