"""RTP packets to access units that carry the source's time again.

Packets are taken from aiortc's receiver undecoded, joined (`assembly`), and each access unit is
told which frame it is (`media.timeline`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiortc import RTCRtpReceiver

from relay.media import h264
from relay.media.access_unit import AccessUnit, ElementaryStream, MediaKind
from relay.media.timeline import Identified
from relay.webrtc import aiortc_internals
from relay.webrtc.assembly import AccessUnitAssembler, AssembledUnit
from relay.webrtc.frame_ledger import FrameLedger
from relay.webrtc.pacing import FlightControl

RETURNED_STREAM = ElementaryStream(MediaKind.VIDEO, "h264", 0x1B)


class IncomingVideo:
    """The incoming track, taken from its receiver undecoded and drained at once.

    Args:
        on_unit: called with each access unit that has its source pts again, in order; and, hidden,
            with those that stand for no frame of the source (repeats of ours, labels that fit
            nothing): later pictures refer to them.
    """

    def __init__(
        self,
        ledger: FrameLedger,
        flight: FlightControl,
        on_unit: Callable[[AccessUnit], None],
        *,
        release_on_marker: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_unit_at: float | None = None
        self.first_packet = asyncio.Event()
        self._ledger = ledger
        self._flight = flight
        self._on_unit = on_unit
        self._clock = clock
        self._receiver: RTCRtpReceiver | None = None
        self._last_pts = 0
        self._feedback: set[asyncio.Task[None]] = set()
        self._assembler = AccessUnitAssembler(
            self._assembled, self._ask_again, release_on_marker=release_on_marker, clock=clock
        )

    def attach(self, receiver: RTCRtpReceiver) -> None:
        """Take over `receiver`'s packets; before the connection is up."""
        self._receiver = receiver
        aiortc_internals.replace_jitter_buffer(receiver, self._assembler)
        aiortc_internals.disable_bandwidth_estimator(receiver)

    async def request_keyframe(self) -> None:
        """Ask the server for an IDR; it comes with its next frame."""
        if self._receiver is not None:
            await aiortc_internals.request_keyframe(self._receiver)

    def ask_for_tail(self) -> None:
        """Ask for packets that may be lost though nothing that came shows it."""
        self._assembler.ask_for_tail()

    async def limit_bitrate(self, bits_per_second: int) -> None:
        """Tell the server's encoder how much it may send."""
        if self._receiver is not None:
            await aiortc_internals.send_bitrate_limit(self._receiver, bits_per_second)

    async def aclose(self) -> None:
        """Stop sending feedback."""
        for task in self._feedback:
            task.cancel()
        await asyncio.gather(*self._feedback, return_exceptions=True)

    def _assembled(self, unit: AssembledUnit) -> None:
        self.first_packet.set()
        if not h264.has_slice(unit.data):
            return  # a delimiter or parameter sets alone: no picture
        self.last_unit_at = unit.arrived_at
        self._ledger.returned.tick()
        hits = self._ledger.identifier.identify(unit.timestamp, unit.arrived_at, unit)
        for hit in hits:
            self._deliver(hit)
        if not hits:
            self._flight.wake()
            if self._ledger.identifier.resolved:
                self._hide(unit)

    def _deliver(self, hit: Identified) -> None:
        unit, sent = hit.returned, hit.sent
        assert isinstance(unit, AssembledUnit)
        self._flight.returned(sent.sent_at, unit.arrived_at)
        self._ledger.round_trip.add(unit.arrived_at - sent.sent_at)
        if sent.source_pts is None:
            self._hide(unit)  # a repeat of ours: the picture was output already
            return
        self._last_pts = sent.source_pts
        self._on_unit(_access_unit(unit, sent.source_pts, sent.arrived_at))

    def _hide(self, unit: AssembledUnit) -> None:
        hidden = _access_unit(unit, self._last_pts, unit.arrived_at)
        hidden.hidden = True
        self._on_unit(hidden)

    def _ask_again(self, sequence_numbers: list[int]) -> None:
        if self._receiver is None:
            return
        task = asyncio.ensure_future(
            aiortc_internals.request_retransmission(self._receiver, sequence_numbers)
        )
        self._feedback.add(task)
        task.add_done_callback(self._feedback.discard)


def _access_unit(unit: AssembledUnit, pts: int, arrived_at: float) -> AccessUnit:
    return AccessUnit(
        RETURNED_STREAM,
        unit.data,
        pts=pts,
        dts=pts,
        keyframe=h264.is_idr(unit.data),
        damaged=unit.damaged,
        arrived_at=arrived_at,
    )
