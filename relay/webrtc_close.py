"""Ending a peer connection, also one that aiortc can't end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog
from aiortc import RTCDtlsTransport, RTCPeerConnection

from relay import aiortc_internals

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S = 0.5
STOP_TIMEOUT_S = 0.2
"""For each transport, when the orderly end did not work."""


async def close_peer(peer: RTCPeerConnection) -> None:
    """Say goodbye (RTCP BYE, SCTP ABORT, DTLS close) and free everything. Bounded in time.

    aiortc's own close ends at the first fault and leaves the rest as it is: sockets, and tasks
    that go on for good. One is there to be had by an answer without `a=sctp-port` (found by
    fuzzing), so what is left is stopped one by one.
    """
    dtls_transports = {transceiver.receiver.transport for transceiver in peer.getTransceivers()}
    if peer.sctp is not None:
        dtls_transports.add(peer.sctp.transport)
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await peer.close()
    except TimeoutError:
        log.warning("webrtc.close_timeout", timeout_s=CLOSE_TIMEOUT_S)
        await _stop_each(dtls_transports)
    except Exception as error:  # of any kind: it depends on what the peer had sent
        log.warning("webrtc.close_failed", error=repr(error)[:200])
        await _stop_each(dtls_transports)
    for dtls in dtls_transports:
        aiortc_internals.release_waiting_for_start(dtls.transport)


async def _stop_each(dtls_transports: Iterable[RTCDtlsTransport]) -> None:
    for dtls in dtls_transports:
        for part in (dtls, dtls.transport):
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await part.stop()
            except Exception as error:  # as above; the next part has to be stopped all the same
                log.debug("webrtc.stop_failed", part=type(part).__name__, error=repr(error)[:200])
