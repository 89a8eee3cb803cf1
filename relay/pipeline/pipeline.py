"""The whole path of one session, in the order the video flows, and its supervision.

    subscriber -> demuxer -> [coded_frames] -> decoder -> [decoded_frames]
      -> processor (ComfyStream over WebRTC)
      -> [processed_frames] -> encoder -> muxer -> [output_segments] -> publisher

Each stage ends by closing the queue behind it, so the end of the input drains through to a
closed output channel. A stage that fails ends the others.
"""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction
from typing import Any

from relay.copy_switch import CopySwitch, Obstacle
from relay.errors import ProcessingError, RelayError, TrickleError
from relay.media.access_unit import CLOCK_RATE, SourceFrame
from relay.media.frame_limit import FrameLimit
from relay.media.muxer import NULL_PACKET
from relay.media.stream_decoder import TrickleStreamDecoder
from relay.observe.tally import Tally
from relay.pipeline.blank_source import BlankSource
from relay.pipeline.copied_input import CopiedInput
from relay.pipeline.decoding import CodedPicture
from relay.pipeline.egress import Egress
from relay.pipeline.ingest import Ingest
from relay.pipeline.no_output import NoOutput
from relay.pipeline.output_rate import OutputRate
from relay.pipeline.publish import OutputSegment, Publish
from relay.pipeline.viewing import Viewing
from relay.processor import FrameProcessor, ProcessedUnit
from relay.queues import MediaQueue, OverflowPolicy
from relay.resources import PipelineResources
from relay.session_config import Coding, OnOverload, SessionConfig
from relay.session_health import Ages
from relay.session_state import EndReason
from relay.sound.server_sound import ServerSound
from relay.sound.sound import Sound
from relay.stats import RateMeter
from relay.trickle import protocol as trickle
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import CreatePolicy, PublisherOptions
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

KEEPALIVE_S = 60.0
"""An output without pictures, because its input pauses or has not begun, gets a null packet as
often: servers sweep channels without new segments, the reference after 5 min."""

CODED_CAPACITY = 256
"""Pictures: what comes at once in a segment of eight seconds at 30 fps. When they are all there,
reading waits."""


class Pipeline:
    """One session's stages and the queues between them."""

    def __init__(
        self,
        config: SessionConfig,
        resources: PipelineResources,
        processor: FrameProcessor,
        server_sound: ServerSound | None = None,
    ) -> None:
        settings = resources.settings
        waits = config.on_overload is OnOverload.WAIT
        self._coded: MediaQueue[CodedPicture] = MediaQueue(
            "coded_frames", CODED_CAPACITY, OverflowPolicy.WAIT
        )
        self._decoded: MediaQueue[SourceFrame] = MediaQueue(
            "decoded_frames",
            settings.decoded_frames_capacity,
            OverflowPolicy.WAIT if waits else OverflowPolicy.DROP_OLDEST,
        )
        self._processed: MediaQueue[ProcessedUnit] = MediaQueue(
            "processed_frames", settings.processed_frames_capacity
        )
        self._segments: MediaQueue[OutputSegment] = MediaQueue(
            "output_segments", settings.output_segments_capacity
        )
        self._decoder = decoder = TrickleStreamDecoder(config.width, config.height, config.fit)
        self._limit = FrameLimit(config.max_fps)
        self.viewing = Viewing(resources.codecs)
        """What people may see of it."""
        self._egress: Egress | NoOutput
        self._publish: Publish | NoOutput
        if config.output_stream_url:
            self._egress = self._make_egress(config, resources, processor)
            self._publish = Publish(
                _publisher(config, resources), self._segments, tee=self.viewing.stream
            )
        else:
            nothing = CopySwitch(config.egress, Obstacle.NO_OUTPUT)
            self._egress = self._publish = NoOutput(self._processed, self._segments, nothing)
        self._sound = Sound(config.audio, self._egress.audio, lambda: decoder.audio, server_sound)
        self._subscriber: TrickleSubscriber | None = None
        self._ingest: Ingest | BlankSource
        if config.input_stream_url:
            self._subscriber = _subscriber(config, resources, waits=waits)
            self._ingest = Ingest(
                self._subscriber,
                decoder,
                resources.codecs,
                self._coded,
                self._decoded,
                self._limit,
                self._sound.take,
                self._sound.video_time,
                CopiedInput(
                    processor.copying,
                    config.width,
                    config.height,
                    config.fit,
                    self._limit,
                    prevented=Obstacle.ON_OVERLOAD if waits else None,
                ),
                on_picture=self.viewing.input.show,
            )
        else:
            processor.copying.stop(Obstacle.NO_INPUT)
            self._ingest = BlankSource(
                config.width,
                config.height,
                self._limit,
                self._decoded,
                on_picture=self.viewing.input.show,
            )
        self._codecs = resources.codecs
        self._processor = processor
        self._ingest_task: asyncio.Task[None] | None = None
        self.end_reason: EndReason | None = None
        """What the first stage to end for a reason of its own says."""

    async def run(self) -> EndReason:
        """Run until the input has ended or `stop` was called, and everything is published.

        Raises:
            RelayError: the first that a stage could not cope with.
        """
        try:
            async with asyncio.TaskGroup() as stages:
                self._ingest_task = stages.create_task(self._read_input())
                stages.create_task(self._process())
                stages.create_task(self._sound.run())
                stages.create_task(self._egress.run())
                if self._publish is not self._egress:
                    stages.create_task(self._write_output())
        except* RelayError as errors:
            raise _first(errors) from None
        finally:
            self._ingest.close()
            self._egress.close()
            self.viewing.close()
            for queue in self._queues():
                # At once, not when garbage is collected: a full one holds a hundred pictures.
                queue.close()
                queue.clear("ended")
        return self.end_reason or EndReason.INPUT_ENDED

    def stop(self, *, keep_output: bool = False) -> None:
        """End the input here and now; what is under way is still published. Idempotent.

        Args:
            keep_output: leave the output channel open.
        """
        self._publish.keep_channel = keep_output
        for queue in (self._coded, self._decoded):
            queue.clear("stopped")
            queue.close()
        if self._ingest_task is not None:
            self._ingest_task.cancel()

    def resize(self, width: int, height: int) -> None:
        """Bring pictures to another size from now on."""
        self._ingest.resize(width, height)
        self._decoded.clear("resized")

    def limit_rate(self, fps: float) -> None:
        """Process so many pictures a second at the most from now on; 0 all."""
        self._limit.fps = fps

    def halve_rate(self, halved: bool) -> None:
        """Whether every second picture is left out from now on, where they are decoded: there is
        too much to do."""
        self._limit.halved = halved

    @property
    def copies_input(self) -> bool:
        """Whether the source's pictures are sent as they came: leaving some out would cost more
        than it saves."""
        return self._processor.copying.copies

    def set_coding(self, *, ingest: Coding, egress: Coding) -> None:
        """Copy or transcode so from now on."""
        self._processor.copying.mode = ingest
        self._egress.copying.mode = egress

    def queue_sizes(self) -> dict[str, int]:
        """How many items wait in each queue now."""
        return {queue.name: len(queue) for queue in self._queues()}

    def ages(self, *, started_s: float, processing_well: bool) -> Ages:
        """What the session's health is told from: its pictures, or its sound if there is nothing
        else."""
        lost_at = self._publish.segment_lost_at
        sound_alone = self._is_sound_alone
        return Ages(
            started_s=started_s,
            input_s=(self._ingest.sounded if sound_alone else self._ingest.decoded).age_s,
            output_s=(self._publish.sound if sound_alone else self._publish.frames).age_s,
            processing_well=processing_well,
            segments_waiting=len(self._segments),
            segment_lost_s=time.monotonic() - lost_at if lost_at is not None else None,
        )

    def figures(self) -> dict[str, Any]:
        """The pipeline's part of `SessionFigures`."""
        lost_at = self._publish.segment_lost_at
        coming = self._ingest.sounded if self._is_sound_alone else self._ingest.decoded
        leaving = self._publish.sound if self._is_sound_alone else self._publish.frames
        return {
            "fps_in": self._limited(self._ingest.decoded.rate),
            "source_fps": self._limited(self._ingest.pace.fps),
            "source_pace": self._ingest.pace.pace,
            "input_age_s": coming.age_s,
            "first_input_age_s": coming.first_age_s,
            "input_is_sound": self._is_sound_alone,
            "input_problem": self._subscriber.problem if self._subscriber else None,
            "undecodable": self._ingest.problem if isinstance(self._ingest, Ingest) else None,
            "segments_behind": self._ingest.status()["segments_behind"],
            "fps_encoded": self._egress.encoded.rate,
            "fps_out": self._publish.frames.rate,
            "output_age_s": leaving.age_s,
            "first_output_age_s": leaving.first_age_s,
            "output_problem": self._publish.problem,
            "codec_load": self._codecs.load,
            "segment_lost_age_s": time.monotonic() - lost_at if lost_at is not None else None,
            "queue_sizes": self.queue_sizes(),
            "queue_capacities": {queue.name: queue.capacity for queue in self._queues()},
            "dropped": self.dropped(),
            "shed": self._limit.halved and not self.copies_input,
        }

    def _limited(self, fps: float | None) -> float | None:
        """What is left of a rate for those who process the pictures."""
        return min(fps, self._limit.fps) if fps is not None and self._limit.fps else fps

    def tally(self, tally: Tally) -> None:
        """Add what was counted and measured."""
        if isinstance(self._ingest, Ingest):
            self._ingest.tally(tally)
        if isinstance(self._egress, Egress):
            self._egress.tally(tally)
        if isinstance(self._publish, Publish):
            self._publish.tally(tally)
        tally.each("frames_dropped_total", self._sound.dropped, "audio", "audio")
        for queue in self._queues():
            kind = "segment" if queue is self._segments else "video"
            tally.each("frames_dropped_total", queue.dropped, queue.name, kind)
            tally.stands("queue_depth", queue.name, at=len(queue))
            tally.stands("queue_capacity", queue.name, at=queue.capacity)
        for pictures in (self._decoded, self._processed):
            oldest, newest = pictures.ends() or (None, None)
            waiting = newest.pts - oldest.pts if oldest and newest else 0
            tally.stands("queue_media_seconds", pictures.name, at=waiting / CLOCK_RATE)

    def dropped(self) -> dict[str, dict[str, int]]:
        """Items of each queue that were not delivered, by reason."""
        return {queue.name: dict(queue.dropped) for queue in self._queues() if queue.dropped}

    @property
    def frames_in(self) -> RateMeter:
        """Pictures decoded from the input."""
        return self._ingest.decoded

    @property
    def frames_out(self) -> RateMeter:
        """Pictures written to the output."""
        return self._publish.frames

    def minute(self) -> dict[str, Any]:
        """The output's frame rate, second by second; see `MinuteMeter.report`."""
        return self._publish.minute.report()

    def status(self) -> dict[str, Any]:
        """Plain values for the session's status."""
        return {
            "fps_in": round(self._ingest.decoded.rate, 1),
            "fps_out": round(self._publish.frames.rate, 1),
            "delay_ms": self._publish.delay.percentiles_ms(),
            "frames_dropped": self.dropped(),
            "shed": self._limit.halved and not self.copies_input,
            "queue_capacities": {queue.name: queue.capacity for queue in self._queues()},
            "audio": self._sound.status(),
            "viewers": self.viewing.status(),
            "copying": {
                "ingest": self._processor.copying.status(),
                "egress": self._egress.copying.status(),
            },
            "input": self._ingest.status(),
            "output": self._publish.status() | self._egress.status(),
        }

    def _make_egress(
        self, config: SessionConfig, resources: PipelineResources, processor: FrameProcessor
    ) -> Egress:
        rate = Fraction(str(config.output_fps)) if config.output_fps else None
        return Egress(
            OutputRate(rate, self._processed) if rate else self._processed,
            self._segments,
            resources.codecs,
            lambda video, audio: resources.make_segment_encoder(config, video=video, audio=audio),
            lambda: not config.input_stream_url or self._decoder.video is not None,
            lambda: self._sound.output_stream(),
            copying=CopySwitch(config.egress),
            request_keyframe=processor.request_keyframe,
            on_decoded=processor.see_decoded,
            on_picture=self.viewing.output.show,
        )

    async def _read_input(self) -> None:
        try:
            await self._ingest.run()
        except TrickleError:
            self.end_reason = self.end_reason or EndReason.INPUT_TIMEOUT
            raise
        finally:
            self._sound.end_input()
        channel_end = self._subscriber.end_reason if self._subscriber else None
        never_existed = channel_end is trickle.EndReason.NEVER_EXISTED
        self.end_reason = EndReason.INPUT_TIMEOUT if never_existed else EndReason.INPUT_ENDED

    async def _write_output(self) -> None:
        try:
            await self._publish.run()
        except TrickleError:
            self.end_reason = self.end_reason or EndReason.OUTPUT_GONE
            raise

    async def _process(self) -> None:
        try:
            await self._processor.run(self._decoded, self._processed)
        except ProcessingError:
            self.end_reason = self.end_reason or EndReason.PROCESSING_FAILED
            raise
        finally:
            self._processed.close()

    @property
    def _is_sound_alone(self) -> bool:
        return self._decoder.video is None and self._decoder.audio is not None

    def _queues(self) -> tuple[MediaQueue[Any], ...]:
        return self._coded, self._decoded, self._processed, self._segments


def _subscriber(
    config: SessionConfig, resources: PipelineResources, *, waits: bool
) -> TrickleSubscriber:
    settings = resources.settings
    return TrickleSubscriber(
        config.input_stream_url,
        session=resources.http,
        options=SubscriberOptions(
            jump=trickle.JumpPolicy.OLDEST if waits else trickle.JumpPolicy.LATEST,
            wait_for_channel_s=0.0 if config.channels_given else settings.input_timeout_s,
            retry_budget_s=settings.input_timeout_s,
        ),
    )


def _publisher(config: SessionConfig, resources: PipelineResources) -> TricklePublisher:
    return TricklePublisher(
        config.output_stream_url,
        session=resources.http,
        options=PublisherOptions(
            create=CreatePolicy.NEVER if config.channels_given else CreatePolicy.IF_MISSING,
            close_timeout_s=resources.settings.stop_timeout_s * 0.75,
            keepalive_payload=NULL_PACKET,
            keepalive_interval_s=KEEPALIVE_S,
        ),
    )


def _first(errors: BaseExceptionGroup[RelayError]) -> RelayError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RelayError)
    return error
