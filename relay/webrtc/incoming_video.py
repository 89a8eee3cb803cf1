"""RTP packets to access units that carry the source's time again.

Packets are taken from aiortc's receiver undecoded, joined (`assembly`), and each access unit is
told which frame it is (`media.timeline`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from aiortc import RTCRtpReceiver

from relay.media import h264
from relay.media.access_unit import AccessUnit, ElementaryStream, MediaKind
from relay.media.timeline import Identified
from relay.webrtc import aiortc_internals
from relay.webrtc.assembly import AccessUnitAssembler, AssembledUnit
from relay.webrtc.frame_ledger import FrameLedger
from relay.webrtc.pacing import FlightControl
from relay.webrtc.rtp_receiver import RtpVideoReceiver

_connections = itertools.count()
_UNITS_OF_A_CONNECTION = 1 << 32
"""More than there are: no number of one connection's units follows upon another's."""

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
        self._packets: RtpVideoReceiver | None = None
        self._last_pts = 0
        self._number = next(_connections) * _UNITS_OF_A_CONNECTION
        self._feedback: set[asyncio.Task[None]] = set()
        self._assembler = AccessUnitAssembler(
            self._assembled, self._ask_again, release_on_marker=release_on_marker, clock=clock
        )

    def attach(self, receiver: RTCRtpReceiver) -> None:
        """Take over `receiver`'s packets; before the connection is up."""
        self._receiver = receiver
        self._packets = RtpVideoReceiver(receiver, self._assembler, self._in_background)

    def begin(self) -> None:
        """The connection is up."""
        if self._packets is not None:
            self._packets.begin()

    async def request_keyframe(self) -> None:
        """Ask the server for an IDR; it comes with its next frame."""
        if self._receiver is not None:
            await aiortc_internals.request_keyframe(self._receiver)

    def want_keyframe(self) -> None:
        """As `request_keyframe`, for those who can't wait until it is sent."""
        self._in_background(self.request_keyframe())

    def ask_for_tail(self) -> None:
        """Ask for packets that may be lost though nothing that came shows it."""
        self._assembler.ask_for_tail()

    async def limit_bitrate(self, bits_per_second: int) -> None:
        """Tell the server's encoder how much it may send."""
        if self._receiver is not None:
            await aiortc_internals.send_bitrate_limit(self._receiver, bits_per_second)

    @property
    def failure(self) -> Exception | None:
        """What made reading end, if that was a fault."""
        return self._packets.failure if self._packets is not None else None

    async def aclose(self) -> None:
        """Read no more and send no feedback."""
        if self._packets is not None:
            self._packets.close()
        for task in self._feedback:
            task.cancel()
        await asyncio.gather(*self._feedback, return_exceptions=True)

    def _assembled(self, unit: AssembledUnit) -> None:
        self.first_packet.set()
        if not h264.has_slice(unit.data):
            return  # a delimiter or parameter sets alone: no picture
        self.last_unit_at = unit.arrived_at
        self._ledger.returned.tick()
        self._number += 1
        numbered = _NumberedUnit(unit, self._number)
        is_kept = not self._ledger.identifier.resolved  # until others tell which frame it is
        hits = self._ledger.identifier.identify(unit.timestamp, unit.arrived_at, numbered)
        for hit in hits:
            self._deliver(hit)
        if not hits:
            self._flight.wake()
            if not is_kept:
                self._hide(numbered)

    def _deliver(self, hit: Identified) -> None:
        unit, sent = hit.returned, hit.sent
        assert isinstance(unit, _NumberedUnit)
        self._flight.returned(sent.sent_at, unit.coded.arrived_at)
        self._ledger.round_trip.add(unit.coded.arrived_at - sent.sent_at)
        if sent.source_pts is None:
            self._hide(unit)  # a repeat of ours: the picture was output already
            return
        self._last_pts = sent.source_pts
        self._on_unit(_access_unit(unit, sent.source_pts, sent.arrived_at))

    def _hide(self, unit: _NumberedUnit) -> None:
        hidden = _access_unit(unit, self._last_pts, unit.coded.arrived_at)
        hidden.hidden = True
        self._on_unit(hidden)

    def _ask_again(self, sequence_numbers: list[int]) -> None:
        if self._receiver is None:
            return
        self._in_background(
            aiortc_internals.request_retransmission(self._receiver, sequence_numbers)
        )

    def _in_background(self, feedback: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(feedback)
        self._feedback.add(task)
        task.add_done_callback(self._feedback.discard)


class _NumberedUnit(NamedTuple):
    coded: AssembledUnit
    number: int
    """See `AccessUnit.number`."""


def _access_unit(unit: _NumberedUnit, pts: int, arrived_at: float) -> AccessUnit:
    coded = unit.coded
    return AccessUnit(
        RETURNED_STREAM,
        coded.data,
        pts=pts,
        dts=pts,
        keyframe=h264.is_idr(coded.data),
        damaged=coded.damaged,
        arrived_at=arrived_at,
        number=unit.number,
    )
