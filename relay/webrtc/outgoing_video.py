"""Frames to the access units that are sent; those that come coded are sent so if they can.

A frame leaves when there is room on the way (`pacing`), under a stamp that tells which it is when
it comes back (`media.timeline`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from relay.codec_executor import CodecExecutor
from relay.copy_switch import CopySwitch, Obstacle
from relay.deadline import Deadline
from relay.media import h264
from relay.media.access_unit import TIME_BASE, AccessUnit, CodedFrame, DecodedFrame, SourceFrame
from relay.media.encoder import VideoEncoder
from relay.media.timeline import SentFrame
from relay.queues import MediaQueue, OverflowPolicy, QueueClosed
from relay.session_config import Coding
from relay.webrtc.copied_frames import CopiedFrames
from relay.webrtc.frame_ledger import FrameLedger
from relay.webrtc.overload import OverloadRule
from relay.webrtc.pacing import FlightControl

KEYFRAME_INTERVAL_S = 0.25
"""Keyframe requests are answered at most this often: a peer that can't decode asks with every
frame (119 PLIs in 121 frames, measured), and one IDR costs ten ordinary frames."""
KEYFRAME_UNTIL_RETURN_S = 1.0
"""Until anything comes back the keyframe is repeated this often: older servers don't ask."""
FEED_INTERVAL_S = 1.0
"""A source that pauses is stood in for by its last frame: ComfyStream ends a return track for
good after 5 s without a frame (unprocessed), and its timestamps drift after a pause."""
UNREAD_TURNS = 4
"""A loop that is behind finds a frame late whose return lies in the socket: it is read first, which
takes so many turns from the socket to here. No time: in the server a frame that comes again should
not meet the next one."""


async def _nothing_to_recover() -> None:
    """Where nothing can be lost."""


class VideoStreamTrack(MediaStreamTrack):
    """The outgoing track: takes frames from a queue, gives access units to a `RtpVideoSender`, or
    as packets to aiortc's own.

    It is asked once the connection is up, and raises MediaStreamError only, when the queue has
    ended or the encoder has failed (`failure` then says why): anything else would kill aiortc's
    sender for good without a word.

    Args:
        frames: all of one size (yuv420p).
        make_encoder: makes the encoder for the first frame's (width, height).
        codecs: where encoding runs.
        ledger: shared with the `IncomingVideo` of the same connection.
        flight: how many frames may be under way.
        copying: whether frames that come coded are sent as they are.
        recover: called when a frame is late and no other follows that would show a loss.
    """

    kind = "video"

    def __init__(
        self,
        frames: MediaQueue[SourceFrame],
        make_encoder: Callable[[int, int], VideoEncoder],
        codecs: CodecExecutor,
        ledger: FrameLedger,
        flight: FlightControl,
        *,
        copying: CopySwitch | None = None,
        recover: Callable[[], Awaitable[object]] = _nothing_to_recover,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.first_sent = asyncio.Event()
        """Set with the first frame of the source."""
        self.ended = asyncio.Event()
        """Set when no further frame will be sent."""
        self._frames = frames
        self._make_encoder = make_encoder
        self._codecs = codecs
        self._ledger = ledger
        self._flight = flight
        self._recover = recover
        self._clock = clock
        self._copied = CopiedFrames(copying or CopySwitch(Coding.TRANSCODE))
        self._encoder: VideoEncoder | None = None
        self._last: SourceFrame | None = None
        self._paused = False
        self._resting = False
        self._keyframe_wanted = False
        self._last_keyframe_at = float("-inf")
        self._server_slow = OverloadRule()
        self._relay_late = OverloadRule()
        self._started = False
        self._late, self._feeding = Deadline(), Deadline()

    def request_keyframe(self) -> None:
        """The peer can't decode (PLI or FIR): make the next frame an IDR, rate-limited."""
        self._keyframe_wanted = True

    def pause(self, *, rest: bool) -> None:
        """Send no more of the source's frames, until `resume`.

        Args:
            rest: nor repeats of the last one.
        """
        self._paused = True
        self._resting = rest

    def resume(self) -> None:
        """Send what comes from now on."""
        self._paused = self._resting = False

    async def recv(self) -> av.Packet[Any]:
        """As `next_unit`, for aiortc's own sender."""
        unit = await self.next_unit()
        packet: av.Packet[Any] = av.Packet(unit.data)
        packet.pts = packet.dts = unit.pts
        packet.time_base = TIME_BASE
        return packet

    async def next_unit(self) -> AccessUnit:
        """The next frame, coded, under its stamp.

        Raises:
            MediaStreamError: the source has ended or encoding failed.
        """
        if self.readyState != "live":
            raise MediaStreamError
        if not self._started:
            self._started = True
            if self._frames.policy is not OverflowPolicy.WAIT:
                self._frames.clear("before_connection")
        try:
            while True:
                unit = await self._coded(*await self._next_frame())
                if unit is not None:
                    return unit
        except QueueClosed:
            raise MediaStreamError from None
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a sender must not see anything else
            self.failure = error
            raise MediaStreamError from error
        finally:
            if self.source_ended:
                self.ended.set()

    @property
    def source_ended(self) -> bool:
        """Whether every frame was taken and none will come."""
        return self._frames.closed and not len(self._frames)

    def end(self, failure: Exception | None) -> None:
        """Its sender sends no more.

        Args:
            failure: what made it end, if that was a fault.
        """
        self.failure = self.failure or failure
        self.stop()

    def stop(self) -> None:
        """End the track, once nobody waits for it any more. Idempotent."""
        super().stop()
        self.ended.set()
        self._late.close()
        self._feeding.close()

    def close_encoder(self) -> None:
        """Free the encoder, once no unit is asked for any more."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    async def _next_frame(self) -> tuple[SourceFrame, int | None]:
        """A frame to send and its source pts, or the last one again and None."""
        chosen = None
        while chosen is None:
            frame, server_full = await self._frame_for_room()
            if frame is None:
                assert self._last is not None
                return self._last, None
            chosen = self._chosen(frame, server_full=server_full)
        if self._last is not None:
            self._ledger.issuer.observe_interval(chosen.pts - self._last.pts)
        self._last = chosen
        return chosen, chosen.pts

    async def _frame_for_room(self) -> tuple[SourceFrame | None, bool]:
        """The next frame once one more may be under way, or None when it is time to repeat the
        last one; and whether the server was full."""
        while True:
            try:
                with self._late.within(self._flight.late_in()):
                    server_full = await self._flight.wait_for_room()
                    return await self._take_frame(), server_full
            except TimeoutError:
                for _ in range(UNREAD_TURNS):
                    if self._flight.is_late():
                        await asyncio.sleep(0)
                if self._flight.is_late():
                    self._flight.recovered()
                    await self._recover()

    def _chosen(self, frame: SourceFrame, *, server_full: bool) -> SourceFrame | None:
        """`frame`, a newer one that it and others are left out for, or None if it is left out.

        Args:
            server_full: it had to wait for room.
        """
        if self._frames.policy is OverflowPolicy.WAIT:
            return frame
        waiting, now = 1 + len(self._frames), self._clock()
        relay_late = self._relay_late.should_skip(1 if server_full else waiting, now)
        keyframe_wanted = relay_late and self._is_keyframe_wanted()
        if self._copied.leaves_out(
            frame, now, keyframe_wanted=keyframe_wanted, relay_late=relay_late
        ):
            self._frames.dropped["relay_late"] += 1
            return None
        # Where there was room the relay is late, and to copy them all costs it least.
        slow = waiting if server_full or not self._copied.copying else 1
        if self._server_slow.should_skip(slow, now):
            self._frames.skip_to_newest("server_busy")
            self._frames.dropped["server_busy"] += 1
            return self._frames.get_nowait()
        return frame

    async def _take_frame(self) -> SourceFrame | None:
        """The next frame to send, or None when it is time to repeat the last one."""
        feed_at = self._clock() + FEED_INTERVAL_S
        while True:
            feeds = self._last is not None and not self._resting
            try:
                with self._feeding.within(feed_at - self._clock() if feeds else None):
                    frame = await self._frames.get()
            except TimeoutError:
                if self._resting:
                    continue  # since this wait began
                return None
            if not self._paused:
                return frame
            self._frames.dropped["paused"] += 1
            if self._last is not None and isinstance(frame, CodedFrame):
                self._last = frame  # to be repeated: one long past can't be decoded any more

    async def _coded(self, frame: SourceFrame, source_pts: int | None) -> AccessUnit | None:
        """What is sent for a frame; None for one that can't be decoded."""
        keyframe_wanted = self._is_keyframe_wanted()
        if source_pts is None:
            self._copied.interrupt(Obstacle.INPUT_PAUSED)
        elif self._copied.takes(
            frame, keyframe_wanted=keyframe_wanted, overloaded=self._server_slow.overloaded
        ):
            assert isinstance(frame, CodedFrame)
            return self._pass_on(frame)
        picture = await frame.picture() if isinstance(frame, CodedFrame) else frame
        if picture is not None:
            self._last = picture
            return await self._encode(picture, source_pts, keyframe_wanted)
        if source_pts is not None:
            self._frames.dropped["undecodable"] += 1
        return None

    def _pass_on(self, frame: CodedFrame) -> AccessUnit:
        self.close_encoder()  # what it encodes next begins anew
        stamp = self._ledger.issuer.issue()
        unit = frame.unit
        if unit.keyframe:
            self._keyframe_wanted = False
            self._last_keyframe_at = self._clock()
        self._note_sent(stamp, frame.pts, frame.arrived_at)
        data = h264.without_delimiter(unit.data)
        return AccessUnit(unit.stream, data, stamp, stamp, keyframe=unit.keyframe)

    async def _encode(
        self, frame: DecodedFrame, source_pts: int | None, force_keyframe: bool
    ) -> AccessUnit | None:
        size = frame.frame.width, frame.frame.height
        if self._encoder is None or (self._encoder.width, self._encoder.height) != size:
            self._encoder = await self._codecs.run(self._make_encoder, *size)
        stamp = self._ledger.issuer.issue()
        if force_keyframe:
            self._keyframe_wanted = False
        began_at = self._clock()
        units = await self._codecs.run(self._encoder.encode, frame.frame, stamp, force_keyframe)
        self._ledger.encoding.add(self._clock() - began_at)
        if not units:
            return None
        (unit,) = units
        if unit.keyframe:
            self._last_keyframe_at = self._clock()
        self._note_sent(unit.pts, source_pts, frame.arrived_at)
        return unit

    def _note_sent(self, stamp: int, source_pts: int | None, arrived_at: float) -> None:
        sent = SentFrame(stamp, source_pts, arrived_at, self._clock())
        self._ledger.identifier.remember(sent)
        self._ledger.sent.tick()
        if source_pts is not None:
            self._ledger.last_sent_at = sent.sent_at
            self.first_sent.set()
        self._flight.sent()

    def _is_keyframe_wanted(self) -> bool:
        since_last = self._clock() - self._last_keyframe_at
        unanswered = self._ledger.returned.total == 0 and since_last > KEYFRAME_UNTIL_RETURN_S
        return unanswered or (self._keyframe_wanted and since_last >= KEYFRAME_INTERVAL_S)
