"""The worker calls of Livepeer: what an orchestrator asks of a worker, served by sessions.

The same under `/api`, where pytrickle up to 0.1.4 had them. A stream is chosen by its name in the
path or in `X-Stream-Id`; without either the only one that runs is meant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps

import structlog
from aiohttp import web
from pydantic import BaseModel

from relay import __version__
from relay.api.answers import AppVersion, HardwareInfo, HardwareStats, WorkerHealth
from relay.api.body import read_json_object
from relay.api.describe import Operation, describes
from relay.api.errors import error_answer, json_answer
from relay.api.keys import PROMPTS, SESSION_ID, SESSIONS, SETTINGS, SessionView
from relay.api.live_routes import HELD_AFTER_S
from relay.api.livepeer_models import (
    LONGEST_NAME,
    AllFpsReports,
    CurrentParams,
    FpsReport,
    LiveVideoStart,
    NoFpsReport,
    RunnerStatus,
    StreamConfig,
    StreamDetails,
    StreamDone,
    StreamList,
    StreamParams,
    StreamStart,
    StreamStarted,
    StreamState,
    StreamStatus,
    stream_config_from,
)
from relay.api.models import WorkerStart, session_config_from
from relay.api.streams import STREAMS, Stream
from relay.channels.stream_events import PIPELINE, StreamReporter, StreamView
from relay.errors import BusyError, RelayError, RequestError
from relay.redaction import mask_credentials
from relay.session_config import StreamNames
from relay.session_state import SessionState

log = structlog.get_logger(__name__)

STREAM_ID_HEADER = "X-Stream-Id"
RETRY_AFTER_S = 5
_BUSY_CODES = frozenset({"comfystream_busy"})
"""Refusals that pass by themselves: an orchestrator tries another worker, or comes again."""

NAMED = {STREAM_ID_HEADER: "The stream that is meant."}
EXAMPLE = {
    "gateway_request_id": "s1",
    "subscribe_url": "http://127.0.0.1:8935/ai/trickle/s1",
    "publish_url": "http://127.0.0.1:8935/ai/trickle/s1-out",
    "params": {"width": 512, "height": 512},
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def worker_call(handler: Answer) -> Answer:
    """Errors in the shape that pytrickle's clients read, on top of our own."""

    @wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except RelayError as error:
            return _refusal(request, error)

    return wrapped


@describes(Operation((StreamStarted,), StreamStart, EXAMPLE, headers=NAMED, errors=(409, 503)))
@worker_call
async def start_stream(request: web.Request) -> web.StreamResponse:
    """Start a stream. The same start again gets the same answer; another one of the same name is
    refused while the first runs."""
    return await _start(request, StreamStart)


@describes(Operation((StreamStarted,), LiveVideoStart, EXAMPLE, headers=NAMED, errors=(409, 503)))
@worker_call
async def start_live_video(request: web.Request) -> web.StreamResponse:
    """Start a stream, as ai-runner does: a stream without a name gets one."""
    return await _start(request, LiveVideoStart)


@describes(Operation((StreamDone,), any_body=True, headers=NAMED, errors=(404,)))
@worker_call
async def stop_stream(request: web.Request) -> web.StreamResponse:
    """End a stream; answers when it has ended, also the second time. The body does not matter."""
    stream = _stream_of(request, "stop")
    request[SESSION_ID] = stream.session.session_id
    with suppress(RequestError):  # it was stopped already
        await request.app[SESSIONS].stop_session(stream.session.session_id)
    message = "Stream stopped successfully"
    return _answer(StreamDone(message=message, request_id=stream.request_id))


@describes(Operation((StreamDone,), StreamParams, headers=NAMED, errors=(404, 409, 502, 503, 504)))
@worker_call
async def change_stream(request: web.Request) -> web.StreamResponse:
    """Change a stream's parameters. What is not known is ignored; answers when ComfyStream has
    confirmed the rest, or after some seconds."""
    stream = _stream_of(request, "update")
    request[SESSION_ID] = stream.session.session_id
    requested = await stream.session.request_change(await read_json_object(request), lenient=True)
    await requested.wait(HELD_AFTER_S)
    message = "Parameters updated successfully"
    return _answer(StreamDone(message=message, request_id=stream.request_id))


@describes(Operation((StreamStatus,), headers=NAMED))
@worker_call
async def stream_status(request: web.Request) -> web.StreamResponse:
    """How the worker fares, and its streams."""
    streams = request.app[STREAMS].running()
    details = {stream.request_id: _details(stream) for stream in streams}
    current = _current(request)
    shown = _details(current) if current else None
    return _answer(
        StreamStatus(
            **worker_state(request).model_dump(),
            client_active=bool(streams),
            client_running=bool(streams),
            fps=_fps(shown),
            current_params=CurrentParams(
                subscribe_url=shown.subscribe_url,
                publish_url=shown.publish_url,
                gateway_request_id=shown.request_id,
            )
            if shown
            else None,
            processing_active=any(d.pipeline_ready for d in details.values()),
            stream_count=len(details),
            message=f"{len(details)} stream(s) running",
            current_stream=shown,
            all_streams=details,
        )
    )


@describes(Operation((StreamDetails,), errors=(404,)))
@worker_call
async def one_stream_status(request: web.Request) -> web.StreamResponse:
    """One stream, also some minutes after it has ended."""
    return _answer(_details(request.app[STREAMS].get(request.match_info["stream_id"])))


@describes(Operation((StreamList,)))
@worker_call
async def list_streams(request: web.Request) -> web.StreamResponse:
    """The streams that run, by their names."""
    streams = {s.request_id: _details(s) for s in request.app[STREAMS].running()}
    return _answer(StreamList(streams=streams, count=len(streams)))


@describes(Operation((AllFpsReports,)))
async def all_stats(request: web.Request) -> web.StreamResponse:
    """Frame rates of every session that runs, as ComfyStream's own route has them."""
    return json_answer({_key(s): s.fps_report() for s in request.app[SESSIONS].list()})


@describes(Operation((FpsReport, NoFpsReport), errors=(404,)))
async def stream_stats(request: web.Request) -> web.StreamResponse:
    """Frame rates of one session; status 200 with an error if there is none, as ComfyStream."""
    name = request.match_info["stream_id"]
    stream = request.app[STREAMS].find(name)
    for session in request.app[SESSIONS].list():
        if name == session.session_id or (stream and stream.session is session):
            return json_answer(session.fps_report())
    return _answer(NoFpsReport())


@describes(Operation((RunnerStatus,), headers=NAMED))
@worker_call
async def runner_status(request: web.Request) -> web.StreamResponse:
    """The stream that runs, as ai-runner's own process shows its one; OFFLINE without any."""
    stream = _current(request)
    if stream is None:
        now_ms = round(time.time() * 1000)
        nothing = StreamView(SessionState.STOPPED, None, 0, 0)
        return json_answer(StreamReporter(None, "", now_ms).status(nothing, now_ms))
    return json_answer(stream.session.stream_status())


@describes(Operation((AppVersion,)))
async def app_version(_request: web.Request) -> web.StreamResponse:
    """The relay's version, as pytrickle tells its application's."""
    return json_answer({"version": __version__})


@describes(Operation((HardwareInfo,)))
async def hardware_info(request: web.Request) -> web.StreamResponse:
    """GPUs of the relay's own machine, of which it uses none: ComfyStream has them."""
    return json_answer(_worker(request) | {"gpu_info": {}})


@describes(Operation((HardwareStats,)))
async def hardware_stats(request: web.Request) -> web.StreamResponse:
    """The same of their load."""
    return json_answer(_worker(request) | {"gpu_stats": {}})


@describes(Operation((WorkerHealth,)))
async def worker_health(request: web.Request) -> web.StreamResponse:
    """One word for the worker: LOADING, IDLE or OK."""
    return json_answer({"status": worker_state(request).status})


def worker_state(request: web.Request) -> StreamState:
    """The worker's state as pytrickle has it: OK is streaming, IDLE is ready for a stream."""
    sessions = request.app[SESSIONS]
    active, warm = len(sessions.list()), sessions.warm
    word = "OK" if active else "IDLE" if warm else "LOADING"
    return StreamState(
        status=word,
        state=word,
        pipeline_ready=warm or bool(active),
        active_streams=active,
        startup_complete=warm or bool(active),
        pipeline_state=word,
    )


def add_routes(router: web.UrlDispatcher) -> None:
    """All of them, with and without the prefix."""
    for prefix in ("", "/api"):
        router.add_post(f"{prefix}/stream/start", start_stream)
        router.add_post(f"{prefix}/live-video-to-video", start_live_video)
        router.add_post(f"{prefix}/stream/stop", stop_stream)
        router.add_post(f"{prefix}/stream/{{stream_id}}/stop", stop_stream)
        router.add_post(f"{prefix}/stream/params", change_stream)
        router.add_post(f"{prefix}/stream/{{stream_id}}/params", change_stream)
        router.add_get(f"{prefix}/stream/status", stream_status)
        router.add_get(f"{prefix}/stream/{{stream_id}}/status", one_stream_status)
        router.add_get(f"{prefix}/streams", list_streams)
    router.add_delete("/stream/{stream_id}", stop_stream)  # ComfyStream's first BYOC server
    # ai-runner's: a trailing slash does no harm, and its inner process has ways of its own.
    router.add_post("/live-video-to-video/", start_live_video)
    router.add_post("/api/params", change_stream)
    router.add_get("/api/status", runner_status)
    router.add_get("/app-version", app_version)
    router.add_get("/hardware/info", hardware_info)
    router.add_get("/hardware/stats", hardware_stats)
    router.add_get("/streams/stats", all_stats)
    router.add_get("/stream/{stream_id}/stats", stream_stats)
    router.add_get("/api/health", worker_health)


async def _start(request: web.Request, model: type[StreamStart]) -> web.StreamResponse:
    body = await read_json_object(request)
    asked = await asyncio.to_thread(
        stream_config_from,
        body,
        _header_name(request),
        lambda session: session_config_from(
            session, request.app[SETTINGS], request.app[PROMPTS], WorkerStart
        ),
        model,
    )
    streams, sessions = request.app[STREAMS], request.app[SESSIONS]
    assert asked.names is not None
    async with streams.lock(asked.names.request_id):
        stream = streams.find(asked.names.request_id)
        if stream is not None and stream.running:
            if stream.state != "stopping":
                return _started(request, _same(stream, asked.names))
            with suppress(RequestError):
                await sessions.stop_session(stream.session.session_id)
        stream = Stream(asked.names, await sessions.start_session(asked))
    return _started(request, stream)


def _same(stream: Stream, asked: StreamNames) -> Stream:
    if stream.names.digest != asked.digest:
        raise RequestError(
            f"stream {stream.request_id[:100]} runs already, and was started with something else;"
            " stop it first, or use another gateway_request_id",
            code="stream_exists",
            http_status=409,
        )
    return stream


def _started(request: web.Request, stream: Stream) -> web.Response:
    request[SESSION_ID] = stream.session.session_id
    config = stream.config
    return _answer(
        StreamStarted(
            request_id=stream.request_id,
            session_id=stream.session.session_id,
            current_state=worker_state(request),
            config=StreamConfig(
                subscribe_url=_shown(config.input_stream_url),
                publish_url=_shown(config.output_stream_url),
                width=config.width,
                height=config.height,
            ),
            warnings=list(config.warnings),
            manifest_id=stream.names.manifest_id or stream.request_id,
            input_stream_url=_shown(config.input_stream_url),
            output_stream_url=_shown(config.output_stream_url),
        )
    )


def _stream_of(request: web.Request, verb: str) -> Stream:
    """The stream that a request means.

    Raises:
        RequestError: 404 `stream_not_found`; 400 `no_active_stream`, `stream_not_named`.
    """
    streams = request.app[STREAMS]
    name = request.match_info.get("stream_id") or request.headers.get(STREAM_ID_HEADER)
    if name:
        return streams.get(name)
    running = streams.running()
    if not running:
        raise RequestError(f"No active stream to {verb}", code="no_active_stream")
    if len(running) > 1:
        raise RequestError(
            f"{len(running)} streams run; name the one to {verb} with {STREAM_ID_HEADER}",
            code="stream_not_named",
        )
    return running[0]


def _current(request: web.Request) -> Stream | None:
    """The one that the header names, or else the youngest that runs."""
    streams = request.app[STREAMS]
    header = request.headers.get(STREAM_ID_HEADER)
    named = streams.find(header) if header else None
    return named or next(reversed(streams.running()), None)


def _worker(request: web.Request) -> dict[str, object]:
    return {"pipeline": PIPELINE, "model_id": request.app[SETTINGS].capability_name}


def _key(session: SessionView) -> str:
    return session.config.names.request_id if session.config.names else session.session_id


def _details(stream: Stream) -> StreamDetails:
    session, config = stream.session.status(), stream.config
    return StreamDetails(
        request_id=stream.request_id,
        session_id=stream.session.session_id,
        running=stream.running,
        state=stream.state,
        health=session.get("health"),
        subscribe_url=_shown(config.input_stream_url),
        publish_url=_shown(config.output_stream_url),
        control_url=_shown(config.control_url),
        events_url=_shown(config.events_url),
        events_available=config.events_url is not None,
        width=session["width"],
        height=session["height"],
        frame_count=session.get("output", {}).get("frames", 0),
        fps_in=session.get("fps_in", 0.0),
        fps_out=session.get("fps_out", 0.0),
        stats_monitoring_active=config.events_url is not None and stream.running,
        pipeline_ready=stream.state == "active",
        error=session.get("error") or session.get("processing", {}).get("error"),
        end_reason=session.get("end_reason"),
    )


def _shown(url: str | None) -> str | None:
    return mask_credentials(url) if url else None


def _fps(stream: StreamDetails | None) -> dict[str, float]:
    """pytrickle's names."""
    return {
        "ingress_video_fps": stream.fps_in if stream else 0.0,
        "egress_video_fps": stream.fps_out if stream else 0.0,
    }


def _header_name(request: web.Request) -> str | None:
    name = request.headers.get(STREAM_ID_HEADER, "").strip()
    if len(name) > LONGEST_NAME:
        raise RequestError(f"{STREAM_ID_HEADER} is longer than {LONGEST_NAME} characters")
    return name or None


def _answer(model: BaseModel) -> web.Response:
    return json_answer(model.model_dump(mode="json"))


def _refusal(request: web.Request, error: RelayError) -> web.Response:
    """Our error, with pytrickle's fields beside it and the statuses that it would give."""
    busy = isinstance(error, BusyError) or error.code in _BUSY_CODES
    status = 503 if busy else 400 if error.http_status in (415, 422) else error.http_status
    extra: dict[str, object] = {"status": "error", "message": _message(error, busy)}
    if busy:
        extra["current_state"] = worker_state(request).model_dump()
    response = error_answer(request, status, error.code, error.message, {**error.details, **extra})
    if isinstance(error, RequestError):
        response.headers.update(error.headers)
    if busy:
        wait_s = error.retry_after_s if isinstance(error, BusyError) else RETRY_AFTER_S
        response.headers["Retry-After"] = str(wait_s)
    return response


def _message(error: RelayError, busy: bool) -> str:
    if error.code == "warming_up":
        return "Pipeline is still initializing. Please wait for IDLE status."
    return f"Pipeline is still in use: {error.message}" if busy else error.message
