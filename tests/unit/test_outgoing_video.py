"""When a frame is sent, and when it is asked for again."""

from __future__ import annotations

import asyncio

from relay.codec_executor import CodecExecutor
from relay.copy_switch import CopySwitch
from relay.media.access_unit import AccessUnit, CodedFrame, DecodedFrame, SourceFrame
from relay.media.encoder import H264_STREAM, VideoEncoder
from relay.queues import MediaQueue
from relay.session_config import Coding
from relay.webrtc.frame_ledger import FrameLedger
from relay.webrtc.outgoing_video import VideoStreamTrack
from relay.webrtc.pacing import PASSTHROUGH, FlightControl

IDR = b"\x00\x00\x00\x01\x65\x88\x84"
SLICE = b"\x00\x00\x00\x01\x41\x9a\x84"


async def no_picture() -> DecodedFrame | None:
    return None


def no_encoder(width: int, height: int) -> VideoEncoder:
    raise AssertionError("nothing is encoded")


def coded(number: int) -> CodedFrame:
    data = IDR if number == 1 else SLICE
    unit = AccessUnit(H264_STREAM, data, number, number, number == 1, number=number)
    return CodedFrame(unit, no_picture, number * 3000, 0.0)


class Line:
    """A track that copies, on a clock of its own; frames under way are those in `under_way`."""

    def __init__(self) -> None:
        self.under_way: list[float] = []
        self.recovered = asyncio.Event()
        self.recoveries = 0
        self.frames: MediaQueue[SourceFrame] = MediaQueue("decoded_frames", 30)
        loop = asyncio.get_running_loop()
        self.flight = FlightControl(
            PASSTHROUGH, lambda: self.under_way, lambda: None, lambda: 0.005, loop.time
        )
        self.track = VideoStreamTrack(
            self.frames,
            no_encoder,
            CodecExecutor(1),
            FrameLedger(),
            self.flight,
            copying=CopySwitch(Coding.COPY),
            recover=self._recover,
            clock=loop.time,
        )
        self._clock = loop.time

    async def _recover(self) -> None:
        self.recoveries += 1
        self.recovered.set()

    async def first_frame(self) -> None:
        """Send one, after another has shown how long the way is."""
        receiving = asyncio.ensure_future(self.track.recv())
        await asyncio.sleep(0)
        self.flight.returned(self._clock(), self._clock() + 0.001)
        self.frames.put_nowait(coded(1))
        await receiving
        self.under_way.append(self._clock())


async def test_a_frame_that_does_not_come_back_is_asked_for_again() -> None:
    """While no other comes that would show a loss."""
    line = Line()
    await line.first_frame()
    receiving = asyncio.ensure_future(line.track.recv())
    async with asyncio.timeout(5):
        await line.recovered.wait()
    line.frames.put_nowait(coded(2))
    await receiving


async def test_a_frame_that_is_back_is_not() -> None:
    """However long the next one takes: a timer that was set when it was sent says nothing now."""
    line = Line()
    await line.first_frame()
    receiving = asyncio.ensure_future(line.track.recv())
    await asyncio.sleep(0)
    late_in = line.flight.late_in()
    assert late_in is not None
    line.under_way.clear()
    await asyncio.sleep(2 * late_in + 0.05)  # past the time at which it would have been late
    line.frames.put_nowait(coded(2))
    await receiving
    assert line.recoveries == 0
