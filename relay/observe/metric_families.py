"""Every metric there is: name, kind, labels, meaning. docs/metrics.md has them all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "trickle_relay_"


class Kind(StrEnum):
    """Prometheus' metric types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Args:
        of_sessions: measured by sessions, and labelled with them where that is asked for.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    of_sessions: bool = False


def _counter(name: str, labels: str, text: str) -> Family:
    return Family(name, Kind.COUNTER, tuple(labels.split()), text)


def _gauge(name: str, labels: str, text: str) -> Family:
    return Family(name, Kind.GAUGE, tuple(labels.split()), text)


def _session_counter(name: str, labels: str, text: str) -> Family:
    return Family(name, Kind.COUNTER, tuple(labels.split()), text, of_sessions=True)


def _session_gauge(name: str, labels: str, text: str) -> Family:
    return Family(name, Kind.GAUGE, tuple(labels.split()), text, of_sessions=True)


def _session_histogram(name: str, labels: str, text: str) -> Family:
    return Family(name, Kind.HISTOGRAM, tuple(labels.split()), text, of_sessions=True)


_ALL = (
    # The relay.
    _gauge("build_info", "version commit python aiortc av", "Always 1; what runs."),
    _gauge("ready", "", "1 while a session could be started, else 0."),
    _gauge("sessions_max", "", "RELAY_MAX_SESSIONS; not there without a limit."),
    _counter("sessions_started_total", "", "Sessions begun."),
    _counter("sessions_refused_total", "code", "Starts answered 503, by their code."),
    _counter("sessions_ended_total", "reason", "Sessions that have ended, by end_reason."),
    _counter("http_requests_total", "route method status", "Requests answered."),
    Family(
        "event_loop_lag_seconds", Kind.HISTOGRAM, (), "How late the event loop came to a timer."
    ),
    _gauge("cores", "", "CPU cores that the process may use; may be a fraction."),
    _gauge(
        "load",
        "of",
        "Of the last second, 1 is all: cpu (of the cores), event_loop (CPU of its thread), strain"
        " (what frames wait, by what they may; above 1 they come too late).",
    ),
    _gauge(
        "shed",
        "what",
        "Left out because there is too much to do: previews (0 or 1), frames (of so many sessions"
        " every second one).",
    ),
    _gauge("video_encoder", "name", "Always 1; the H.264 encoder that was chosen at the start."),
    _gauge("codec_threads", "", "Threads that decode and encode."),
    _gauge("codec_calls", "", "Codec calls that run or wait."),
    _counter("codec_busy_seconds_total", "", "Time that the codec threads worked, together."),
    Family("codec_wait_seconds", Kind.HISTOGRAM, (), "Waits of codec calls for a thread."),
    _gauge("event_listeners", "", "Who listens to events."),
    _counter(
        "event_listeners_dropped_total", "", "Listeners let go of because they were too slow."
    ),
    _gauge("servers", "state", "ComfyStream servers of the pool."),
    # Sessions.
    _session_gauge("sessions", "state", "Sessions that run, by state."),
    _session_gauge("sessions_health", "health", "Sessions that run, by health."),
    _session_gauge("sessions_bottleneck", "stage", "Sessions with a diagnosis, by its stage."),
    _session_gauge("sessions_fallback", "", "Sessions whose viewers see the fallback."),
    _session_counter(
        "changes_total", "result", "Changes of sessions that run, by what became of it."
    ),
    # Trickle.
    _session_counter(
        "segments_total",
        "direction result",
        "Trickle segments. in: read, empty, truncated, skipped; out: published, lost.",
    ),
    _session_counter("segment_bytes_total", "direction", "Bytes of trickle segments."),
    _session_counter(
        "trickle_retries_total",
        "direction reason",
        "Requests made again: retry (failed), stall (no byte in time), resume (cut in the middle),"
        " conflict (the number was taken).",
    ),
    _session_gauge(
        "segments_behind", "", "Input segments that had begun after the last one read; the worst."
    ),
    # Media.
    _session_counter(
        "frames_total",
        "stage kind",
        "Frames (video) and packets (audio): decoded, sent, returned, processed, fallback, encoded,"
        " published. Those that were copied instead count as if they had been.",
    ),
    _session_counter("frames_copied_total", "side", "Frames passed on without being decoded."),
    _session_gauge("sessions_copying", "side", "Sessions that pass frames on so now."),
    _session_counter(
        "frames_dropped_total", "queue kind reason", "Not delivered; docs/api.md has the reasons."
    ),
    _session_gauge("queue_depth", "queue", "Items that wait."),
    _session_gauge("queue_capacity", "queue", "Most items that may wait."),
    _session_gauge(
        "queue_media_seconds", "queue", "From the oldest picture that waits to the newest."
    ),
    _session_histogram(
        "stage_duration_seconds",
        "stage",
        "Of one frame: decode, send_encode, comfystream (there, through the workflow and back),"
        " encode; waiting for a codec thread included.",
    ),
    _session_histogram(
        "end_to_end_latency_seconds", "", "From a frame's last byte in to its last byte out."
    ),
    # ComfyStream.
    _session_counter("webrtc_attempts_total", "", "Connections to ComfyStream tried."),
    _session_counter("webrtc_failures_total", "code", "Attempts and connections that failed."),
    _session_counter(
        "webrtc_reconnects_total",
        "reason",
        "Connections that stood after the first, by what ended the one before.",
    ),
    _session_gauge("webrtc_connections", "state", "Connections, by W3C's connectionState."),
    _session_gauge("webrtc_ice_connections", "state", "The same, by iceConnectionState."),
    _session_gauge("webrtc_dtls_connections", "state", "The same, by the DTLS transport's state."),
    _session_gauge("webrtc_rtt_seconds", "", "Round trip of packets, from RTCP; the worst."),
    _session_counter("webrtc_packets_lost_total", "direction", "RTP packets lost: sent, received."),
    _session_gauge("frames_in_flight", "", "Frames sent to ComfyStream and not back yet."),
    # Viewers.
    _session_gauge("viewers", "", "Who looks at pictures or streams."),
    _session_counter("viewers_dropped_total", "", "Viewers let go of because they were too slow."),
)
FAMILIES = {family.name: family for family in _ALL}
