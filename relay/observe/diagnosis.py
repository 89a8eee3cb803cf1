"""What keeps a session from doing better, in words, with what to do about it.

The nearest cause along the video's way is named: what comes after it can't be judged. Pure, from
figures alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from relay.observe.session_figures import SessionFigures
from relay.session_health import FIRST_S, LATE_S, LOSS_REMEMBERED_S, SEGMENTS_IN_STEP
from relay.session_state import SessionState

ENOUGH = 0.9
"""Of a rate that should be reached; less is a bottleneck."""
LIVE_PACE = 0.8
"""Seconds of media a second below which a live source is slow: what arrives in segments of two
seconds may look like 0.85."""
BUSY = 0.9
"""Share of their time in which the codec threads work, and have no more to give."""
LOST = 0.8
"""Of what is sent to ComfyStream; less that comes back is more than a moment's loss."""


class Stage(StrEnum):
    """Where the bottleneck is, in the order the video flows."""

    INPUT = "input"
    DECODER = "decoder"
    COMFYSTREAM = "comfystream"
    ENCODER = "encoder"
    OUTPUT = "output"
    RELAY = "relay"
    """The relay itself."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The bottleneck of one session."""

    stage: Stage
    problem: str
    """One line, with the figures that show it."""
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the status."""
        return {"stage": self.stage.value, "problem": self.problem, "remedy": self.remedy}


_CPU = (
    "The machine of the relay has no CPU left: fewer sessions, a smaller width and height, more"
    " cores (RELAY_CODEC_THREADS)."
)
_SEE_ITS_LOG = "See ComfyStream's log; the relay goes on trying."
_REMEDIES = {
    "comfystream_unreachable": "Start ComfyStream, or correct comfystream_url.",
    "comfystream_refused": "See ComfyStream's log; mostly it can't run the workflow.",
    "comfystream_bad_answer": "Correct comfystream_url: another kind of server answers there.",
    "comfystream_timeout": "Wait while models load, or raise RELAY_OFFER_TIMEOUT_S; restart"
    " ComfyStream if it never answers.",
    "comfystream_wedged": "Restart ComfyStream.",
    "comfystream_quarantined": "Wait, or restart ComfyStream.",
    "comfystream_busy": "End the other client of that ComfyStream, or use another server.",
    "webrtc_failed": "Let UDP through between the relay and ComfyStream, or give both a TURN server"
    " (RELAY_ICE_SERVERS).",
    "no_candidates": "Widen RELAY_UDP_PORTS, or correct RELAY_ICE_SERVERS.",
    "ice_servers_unavailable": "Correct TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or open the way"
    " to Twilio.",
    "media_timeout": _SEE_ITS_LOG,
    "media_undecodable": _SEE_ITS_LOG,
}
_INPUT_ENDED = {
    "channel_refused": "Correct the input's address and credentials.",
    "channel_unavailable": "Start the input's trickle server, or correct its address.",
}
_OUTPUT_ENDED = {
    "channel_not_found": "Create the channel where its server runs, or let the server create it.",
    "channel_closed": "Somebody else closed the channel: choose another output_stream_url.",
    "channel_refused": "Correct the output's address and credentials.",
    "channel_unavailable": "Start the output's trickle server, or correct its address.",
}
_REPORT = "Please report it with the session's log."


def diagnose(figures: SessionFigures) -> Diagnosis | None:
    """The bottleneck; None while there is none."""
    if figures.state.final:
        return _ended(figures)
    if figures.state is SessionState.STOPPING or figures.paused:
        return None
    return next(_found(figures), None)


def _found(figures: SessionFigures) -> Iterator[Diagnosis]:
    yield from _input(figures)
    yield from _decoder(figures)
    if figures.shed:
        yield Diagnosis(
            Stage.RELAY,
            f"relay overloaded: every second frame is left out, {figures.fps_returned:.1f} of"
            f" {figures.fps_in:.1f} fps are processed",
            _CPU,
        )
    if not _held_back(figures):
        yield from _input_pace(figures)
    yield from _processing(figures)
    yield from _encoder(figures)
    yield from _output(figures)


def _input(figures: SessionFigures) -> Iterator[Diagnosis]:
    if _flows(figures):
        return
    if figures.input_problem is not None:
        yield Diagnosis(
            Stage.INPUT,
            f"no input: {figures.input_problem}",
            "Start the publisher, or correct input_stream_url; the session takes it up by itself.",
        )
    elif figures.undecodable is not None:
        yield Diagnosis(
            Stage.INPUT,
            f"input not decoded: {figures.undecodable}",
            "Send smaller pictures: up to 8192x4352.",
        )
    elif figures.started_s <= FIRST_S:
        return
    elif figures.input_age_s is None:
        yield Diagnosis(
            Stage.INPUT,
            f"no input: nothing that can be decoded has come for {figures.started_s:.0f} s",
            "Look whether the publisher sends, and whether it sends H.264 or HEVC video, or sound,"
            " in MPEG-TS.",
        )
    else:
        yield Diagnosis(
            Stage.INPUT,
            f"input stopped: nothing has come for {figures.input_age_s:.0f} s",
            "Start the publisher again: the session goes on where it comes back.",
        )


def _flows(figures: SessionFigures) -> bool:
    return figures.input_age_s is not None and figures.input_age_s <= LATE_S


def _held_back(figures: SessionFigures) -> bool:
    """Whether the input waits for what comes after it."""
    waiting = figures.queue_sizes.get("decoded_frames", 0)
    return waiting >= figures.queue_capacities.get("decoded_frames", waiting + 1)


def _decoder(figures: SessionFigures) -> Iterator[Diagnosis]:
    if figures.codec_load < BUSY or _held_back(figures):
        return
    waiting = figures.queue_sizes.get("coded_frames", 0)
    if waiting > max(1.0, figures.fps_in):
        shown_by = f"{waiting} pictures wait"
    elif figures.segments_behind > 1:
        shown_by = f"{figures.segments_behind} segments behind"
    else:
        return
    yield Diagnosis(
        Stage.DECODER,
        f"decoding slower than input: {shown_by}, codec threads {figures.codec_load:.0%} busy",
        _CPU,
    )


def _input_pace(figures: SessionFigures) -> Iterator[Diagnosis]:
    if figures.source_pace is None or figures.source_pace >= LIVE_PACE:
        return
    wanted = f" of {figures.source_fps:.1f}" if figures.source_fps else ""
    yield Diagnosis(
        Stage.INPUT,
        f"input slow: {figures.fps_in:.1f}{wanted} fps, {figures.source_pace:.0%} of real time",
        "Look at the publisher's encoder, and the way from it to the trickle server.",
    )


def _processing(figures: SessionFigures) -> Iterator[Diagnosis]:
    code, problem = figures.problem_code, figures.problem
    if code == "workflow_not_running":
        names = figures.missing_nodes
        yield Diagnosis(
            Stage.COMFYSTREAM,
            f"server returns frames unprocessed: unknown node {names}, or one that fails",
            "Install the node in that ComfyStream, or correct the workflow; ComfyStream's log has"
            " the cause.",
        )
    elif problem is not None:
        remedy = _REMEDIES.get(code or "", _SEE_ITS_LOG)
        yield Diagnosis(Stage.COMFYSTREAM, f"not processed: {problem}", remedy)
    elif figures.link == "loading":
        yield Diagnosis(
            Stage.COMFYSTREAM,
            "not processed yet: ComfyStream loads the workflow",
            "Wait; RELAY_WARM_PIPELINE loads models before the first session.",
        )
    elif figures.link != "connected":
        if figures.started_s > FIRST_S:
            yield Diagnosis(
                Stage.COMFYSTREAM,
                "not processed: connecting to ComfyStream",
                "Wait; the log of the session shows each attempt.",
            )
    else:
        yield from _processing_pace(figures)


def _processing_pace(figures: SessionFigures) -> Iterator[Diagnosis]:
    settled = (figures.first_processed_age_s or 0.0) > LATE_S
    if figures.fallback_active and not figures.input_is_sound:
        yield Diagnosis(
            Stage.COMFYSTREAM,
            "not processed: ComfyStream is connected and returns nothing",
            _SEE_ITS_LOG,
        )
    elif settled and figures.fps_returned < ENOUGH * figures.fps_in and _skips(figures):
        slow = "workflow slower" if figures.workflow else "ComfyStream slower"
        if figures.codec_load >= BUSY:
            yield Diagnosis(
                Stage.ENCODER,
                f"relay slower than input: {figures.fps_returned:.1f} of {figures.fps_in:.1f} fps,"
                f" codec threads {figures.codec_load:.0%} busy",
                _CPU,
            )
            return
        wanted = max(figures.fps_in, figures.source_fps or 0.0)
        yield Diagnosis(
            Stage.COMFYSTREAM,
            f"{slow} than input: {figures.fps_returned:.1f} of {wanted:.1f} fps",
            "A lighter workflow, a smaller width and height, a faster GPU; or fewer frames from the"
            " source.",
        )
    elif settled and figures.fps_in > 0 and figures.fps_returned < LOST * figures.fps_sent:
        yield Diagnosis(
            Stage.COMFYSTREAM,
            f"frames lost on the way: {figures.fps_returned:.1f} of {figures.fps_sent:.1f} fps come"
            " back",
            "Look for lost UDP packets between the relay and ComfyStream, and for drops in"
            " ComfyStream's log.",
        )


def _skips(figures: SessionFigures) -> bool:
    """Whether frames are skipped, or wait, because the server takes fewer than come."""
    skipped = figures.dropped.get("decoded_frames", {}).get("server_busy", 0)
    fewer = figures.fps_sent < ENOUGH * figures.fps_in
    return _held_back(figures) or (bool(skipped) and fewer)


def _encoder(figures: SessionFigures) -> Iterator[Diagnosis]:
    waiting = figures.queue_sizes.get("processed_frames", 0)
    if waiting > 3 and figures.fps_encoded < ENOUGH * figures.fps_returned:
        yield Diagnosis(
            Stage.ENCODER,
            f"encoding slower than processing: {figures.fps_encoded:.1f} of"
            f" {figures.fps_returned:.1f} fps, {waiting} frames wait",
            _CPU,
        )


def _output(figures: SessionFigures) -> Iterator[Diagnosis]:
    waiting = figures.queue_sizes.get("output_segments", 0)
    lost_s = figures.segment_lost_age_s
    age_s = figures.output_age_s
    stands_s = figures.started_s if age_s is None else age_s
    if figures.output_problem is not None:
        yield Diagnosis(
            Stage.OUTPUT,
            f"no output: {figures.output_problem}",
            "Start the output's trickle server, or correct output_stream_url; the session goes on"
            " by itself.",
        )
    elif waiting > SEGMENTS_IN_STEP:
        yield Diagnosis(
            Stage.OUTPUT,
            f"output slow: {waiting} segments wait",
            "Look at the output's trickle server and the way to it; or lower RELAY_VIDEO_BITRATE.",
        )
    elif lost_s is not None and lost_s < LOSS_REMEMBERED_S:
        yield Diagnosis(
            Stage.OUTPUT,
            f"output loses segments: the last one {lost_s:.0f} s ago",
            "Look at the output's trickle server and the way to it; somebody else may publish there"
            " too.",
        )
    elif figures.started_s > FIRST_S and stands_s > LATE_S:
        yield Diagnosis(
            Stage.OUTPUT,
            f"output stands: nothing has left for {stands_s:.0f} s",
            "Look at the session's log, and at the output's trickle server.",
        )


def _ended(figures: SessionFigures) -> Diagnosis | None:
    error, code = figures.error, figures.error_code or ""
    match figures.end_reason:
        case "input_timeout" if error is None:
            return Diagnosis(
                Stage.INPUT,
                "no input: the channel never came",
                "Start the publisher first, or raise RELAY_INPUT_TIMEOUT_S; then start the session"
                " again.",
            )
        case "input_timeout":
            remedy = _INPUT_ENDED.get(code, "Correct input_stream_url.")
            return Diagnosis(Stage.INPUT, f"input refused: {error}", remedy)
        case "output_gone":
            told = "404 channel does not exist" if code == "channel_not_found" else error
            remedy = _OUTPUT_ENDED.get(code, "Correct output_stream_url.")
            return Diagnosis(Stage.OUTPUT, f"output refused: {told}", remedy)
        case "processing_failed":
            return Diagnosis(
                Stage.COMFYSTREAM,
                f"not processed: {error}",
                _REMEDIES.get(code, "See ComfyStream's log."),
            )
        case _ if error is not None:
            return Diagnosis(Stage.RELAY, f"the session failed: {error}", _REPORT)
    return None
