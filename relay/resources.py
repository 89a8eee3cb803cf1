"""What all sessions of a process share."""

from __future__ import annotations

import aiohttp

from relay.codec_executor import CodecExecutor
from relay.comfystream.leases import ServerLeases
from relay.comfystream.prompt_library import PromptLibrary
from relay.comfystream.quarantine import QuarantineRules
from relay.config.settings import IceTransportPolicy, Settings
from relay.journal import Journal
from relay.media.access_unit import ElementaryStream
from relay.media.encoder import VideoEncoder, default_bit_rate
from relay.media.encoder_open import SOFTWARE
from relay.media.muxer import CLOCK_LEAD_S
from relay.media.segment_encoder import TrickleSegmentEncoder
from relay.observe.event_hub import EventHub
from relay.processing.comfystream_processor import ReconnectPolicy
from relay.session_config import AudioMode, SessionConfig
from relay.sound.server_sound import ServerSound
from relay.webrtc.answer_candidates import AnswerCandidates
from relay.webrtc.ice import IceOptions
from relay.webrtc.ice_servers import IceServers, TwilioTokens
from relay.webrtc_client import WebRTCOptions

UPLINK_BIT_RATE = 1.5
"""Towards ComfyStream, as a factor on what the output gets by default."""
UPLINK_FPS = 30.0
PROCESSED_CLOCK_LEAD_S = 1.0
"""Processed sound lies so far behind its picture in the output at most, for a player that goes by
the clock reference: 0.6 to 0.7 s where ComfyStream returns half a second at a time. No more is
allowed (ISO/IEC 13818-1, 2.4.2.6)."""


class PipelineResources:
    """What all sessions of a process share.

    Args:
        http: for trickle and signalling; without a connection limit or a total timeout.
        events: takes what happens to the sessions; None makes one.
        candidates: what of a server's answer is admitted; None admits all.
        video_encoder: that works here, see `relay.media.encoder_choice`.
    """

    def __init__(
        self,
        settings: Settings,
        http: aiohttp.ClientSession,
        events: EventHub | None = None,
        candidates: AnswerCandidates | None = None,
        video_encoder: str = SOFTWARE,
    ) -> None:
        self.settings = settings
        self.http = http
        self.events = events or EventHub()
        self.video_encoder = video_encoder
        self.codecs = CodecExecutor(settings.codec_threads)
        self.webrtc_options = WebRTCOptions(
            ice=_ice_options(settings, http),
            media_timeout_s=settings.media_timeout_s,
            announce_next_frame=settings.early_delimiter,
            release_on_marker=settings.marker_release,
            udp_bursts=settings.udp_bursts,
            candidates=candidates,
        )
        self.reconnect_policy = ReconnectPolicy(
            offer_timeout_s=settings.offer_timeout_s,
            first_wait_s=settings.reconnect_first_wait_s,
            longest_wait_s=settings.reconnect_longest_wait_s,
            limit_s=settings.reconnect_limit_s,
            update_timeout_s=settings.update_timeout_s,
        )
        self.prompts = PromptLibrary(settings.text_workflow, settings.workflow_dir)
        self.journal = journal = Journal(settings.state_dir)
        self.leases = ServerLeases(
            QuarantineRules(
                quarantine_s=settings.quarantine_s, wedged_retry_s=settings.wedged_retry_s
            ),
            http,
            saved=journal.read("servers"),
            save=lambda servers: journal.write("servers", servers),
            written=journal.written,
        )

    def make_uplink_encoder(self, width: int, height: int) -> VideoEncoder:
        """For frames towards ComfyStream: what its decoder surely takes, made and decoded quickly.

        Bits are cheaper here than on the output channel, and time dearer: ultrafast with half
        as many bits again is as good as superfast (0.3 dB better on a detailed picture, 0.8 dB
        on noise) at 60 % of its CPU, and is decoded in two thirds of the time.
        """
        return VideoEncoder(
            width,
            height,
            profile="baseline",
            preset="ultrafast",
            codec=self.video_encoder,
            bit_rate=round(UPLINK_BIT_RATE * default_bit_rate(width, height, UPLINK_FPS)),
        )

    def make_server_sound(self, config: SessionConfig) -> ServerSound | None:
        """The way of the sound through the server, for sessions that need one."""
        processed = config.audio is AudioMode.PROCESS
        if not processed and not config.sends_audio:
            return None
        return ServerSound(self.codecs, config.audio_codec, returns=processed)

    def make_segment_encoder(
        self, config: SessionConfig, *, video: bool, audio: ElementaryStream | None
    ) -> TrickleSegmentEncoder:
        """For the output channel, with the streams to announce from its start."""
        processed = config.audio is AudioMode.PROCESS
        return TrickleSegmentEncoder(
            config.width,
            config.height,
            config.segment_seconds,
            audio=audio,
            video=video,
            clock_lead_s=PROCESSED_CLOCK_LEAD_S if processed else CLOCK_LEAD_S,
            bit_rate=self.settings.video_bitrate or None,
            preset=self.settings.video_preset.value,
            codec=self.video_encoder,
        )

    async def aclose(self) -> None:
        """Close them, once every session has ended."""
        await self.leases.aclose()
        await self.http.close()
        self.codecs.close()
        await self.journal.written()


def _ice_options(settings: Settings, http: aiohttp.ClientSession) -> IceOptions:
    twilio = None
    if settings.twilio_account_sid and settings.twilio_auth_token:
        twilio = TwilioTokens(
            http,
            settings.twilio_account_sid,
            settings.twilio_auth_token.get_secret_value(),
            base_url=settings.twilio_api_url,
        )
    return IceOptions(
        IceServers([server.to_dict() for server in settings.ice_servers], twilio),
        relay_only=settings.ice_transport_policy is IceTransportPolicy.RELAY,
        udp_ports=settings.udp_ports,
    )
