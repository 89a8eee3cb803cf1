"""Ending a peer connection, also one that aiortc can't end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import structlog
from aiortc import RTCDtlsTransport, RTCPeerConnection

from relay.tasks import cancel_and_wait
from relay.webrtc import aiortc_internals

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S = 1.0
"""How long whoever closes waits for the end."""
LONGEST_CLOSE_S = 5.0
STOP_TIMEOUT_S = 0.2
"""For each transport, when the orderly end did not work."""

_ending: set[asyncio.Task[None]] = set()
"""Held until they are done: the event loop holds tasks weakly."""


async def close_peer(peer: RTCPeerConnection) -> None:
    """Say goodbye (RTCP BYE, SCTP ABORT, DTLS close) and free everything. Bounded in time.

    It goes on by itself if the caller is cancelled or the time is over. aiortc notes that a
    transport is closed before it closes it: cut off in between, its sockets and a task stay for
    good, and a server that is still answered believes in its client.
    """
    ending = asyncio.ensure_future(_end(peer))
    _ending.add(ending)
    ending.add_done_callback(_ending.discard)
    done, _ = await asyncio.wait([ending], timeout=CLOSE_TIMEOUT_S)
    if not done:
        log.warning("webrtc.close_lasts", timeout_s=CLOSE_TIMEOUT_S)


async def _end(peer: RTCPeerConnection) -> None:
    """aiortc's own close ends at the first fault and leaves the rest as it is: sockets, and tasks
    that go on for good. One is there to be had by an answer without `a=sctp-port` (found by
    fuzzing), so what is left is stopped one by one."""
    dtls_transports = {transceiver.receiver.transport for transceiver in peer.getTransceivers()}
    if peer.sctp is not None:
        dtls_transports.add(peer.sctp.transport)
    try:
        async with asyncio.timeout(LONGEST_CLOSE_S):
            await peer.close()
    except TimeoutError:
        log.warning("webrtc.close_timeout", timeout_s=LONGEST_CLOSE_S)
    except Exception as error:  # of any kind: it depends on what the peer had sent
        log.warning("webrtc.close_failed", error=repr(error)[:200])
    await _stop_each(dtls_transports)


async def _stop_each(dtls_transports: Iterable[RTCDtlsTransport]) -> None:
    for dtls in dtls_transports:
        await _try(dtls.stop())
        await _try(dtls.transport.stop())
        await _try(aiortc_internals.close_ice(dtls.transport))
        aiortc_internals.release_waiting_for_start(dtls.transport)


async def _try(stopping: Coroutine[Any, Any, None]) -> None:
    """Whatever comes of it, the next part has to be stopped all the same."""
    task = asyncio.ensure_future(stopping)
    await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
    await cancel_and_wait([task])
    if not task.cancelled() and task.done() and (error := task.exception()) is not None:
        log.debug("webrtc.stop_failed", error=repr(error)[:200])
