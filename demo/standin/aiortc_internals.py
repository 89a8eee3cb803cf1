"""The private names of aiortc 1.16 and aioice 0.13 that the stand-in touches, and nothing else.

Module globals are set for the whole process while a stand-in runs and put back after it; run it
in a process of its own when another peer of the same process must keep the stock values.
tests/integration/test_standin_faults.py fails when an upgrade renames any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import aioice.ice
import aiortc.rtcrtpsender
from aiortc import RTCDtlsTransport, RTCPeerConnection, RTCRtpSender
from aiortc.codecs import h264

COMFYSTREAM_BITRATE = 2_000_000
"""bit/s, both the least and the most that ComfyStream's encoder takes from a receiver's REMB."""

_rtp_origin: ContextVar[int | None] = ContextVar("rtp_origin", default=None)


@contextlib.contextmanager
def comfystream_process(consent_interval_s: float, consent_failures: int) -> Iterator[None]:
    """Set what ComfyStream, or a test, sets for the process; put it back on leaving.

    Args:
        consent_interval_s: mean time between ICE consent checks (stock 5); +-20 % at random.
        consent_failures: unanswered checks in a row after which a peer is lost (stock 6).
    """
    with contextlib.ExitStack() as stack:
        # Limits of the H.264 encoder's target. It starts at 1 Mbit/s; the first REMB lifts it.
        stack.enter_context(_attribute(h264, "MIN_BITRATE", COMFYSTREAM_BITRATE))
        stack.enter_context(_attribute(h264, "MAX_BITRATE", COMFYSTREAM_BITRATE))
        # Read anew before every check by aioice.ice.Connection.query_consent.
        stack.enter_context(_attribute(aioice.ice, "CONSENT_INTERVAL", consent_interval_s))
        stack.enter_context(_attribute(aioice.ice, "CONSENT_FAILURES", consent_failures))
        # Called by RTCRtpSender._run_rtp for the timestamp origin; also for SSRCs, but those
        # are drawn when the sender is made, outside of `rtp_origin`.
        stock = aiortc.rtcrtpsender.random32

        def random32() -> int:
            origin = _rtp_origin.get()
            return stock() if origin is None else origin

        stack.enter_context(_attribute(aiortc.rtcrtpsender, "random32", random32))
        yield


@contextlib.contextmanager
def rtp_origin(origin: int | None) -> Iterator[None]:
    """Senders started by a negotiation inside this block begin at RTP timestamp `origin`."""
    token = _rtp_origin.set(origin)
    try:
        yield
    finally:
        _rtp_origin.reset(token)


def on_keyframe_request(sender: RTCRtpSender, allow: Callable[[], bool]) -> None:
    """Ask `allow` before a PLI or FIR makes the next frame a keyframe."""
    # RTCRtpSender._send_keyframe only sets a flag that the next encoded frame obeys.
    stock = sender._send_keyframe

    def send_keyframe() -> None:
        if allow():
            stock()

    sender._send_keyframe = send_keyframe  # type: ignore[method-assign]


def force_keyframe(sender: RTCRtpSender) -> None:
    """Make the next frame of `sender` a keyframe, whatever `on_keyframe_request` says."""
    sender._RTCRtpSender__force_keyframe = True  # type: ignore[attr-defined]


def encoder_bitrate(sender: RTCRtpSender) -> int | None:
    """Target of the sender's encoder in bit/s; None before its first frame and after its end."""
    encoder = getattr(sender, "_RTCRtpSender__encoder", None)
    return getattr(encoder, "target_bitrate", None)


def consent_expired(transport: RTCDtlsTransport) -> bool:
    """Whether a connection that was up ended because its peer stopped answering.

    A peer that says goodbye closes DTLS instead, and its ICE connection is closed after it.
    """
    # aioice drops its own consent task only when that task gives up.
    return transport.transport._connection._query_consent_task is None


def connecting_tasks(connection: RTCPeerConnection) -> list[asyncio.Task[None]]:
    """The tasks in which aiortc connects, which it keeps no hold of.

    One that is between two of aioice's checks when the connection closes goes on for 20 ms.
    """
    code = RTCPeerConnection._RTCPeerConnection__connect.__code__
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "cr_code", None) is code
        and task.get_coro().cr_frame.f_locals.get("self") is connection
    ]


@contextlib.contextmanager
def _attribute(owner: object, name: str, value: object) -> Iterator[None]:
    stock = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, stock)
