"""Pictures and the output's stream for people who have neither WebRTC nor a trickle client."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass

from aiohttp import web

from relay.api.describe import Operation, describes
from relay.api.keys import SESSIONS, session_of
from relay.errors import BusyError, RequestError, ValidationFailed
from relay.pipeline.previews import Jpeg, PicturePreview
from relay.pipeline.viewing import Viewing
from relay.queues import QueueClosed

routes = web.RouteTableDef()

MOST_STREAMS = 64
"""Streams of pictures or bytes that go out to people at once, of all sessions."""
STREAMS_NOW: web.AppKey[set[asyncio.Task[object] | None]] = web.AppKey("streams_now")
PICTURES_PER_SECOND = 10
AGAIN_AFTER_S = 10.0
"""A picture that stands is sent again: proxies cut connections that are silent, and who has gone is
noticed only by writing."""
WRITE_TIMEOUT_S = 10.0
SEND_BUFFER_BYTES = 256 << 10
"""What is live does not wait in the system's buffers, which grow to megabytes: half a second at
4 Mbit/s. Linux doubles it."""
WIDEST = 4096
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
BOUNDARY = "picture"
NO_PICTURE_RETRY_S = 1
RESTING_RETRY_S = 10

PICTURE_ERRORS = (404, 410, 422, 503)
WIDTH = {
    "width": "At least so many pixels wide, if the picture is: the next of 160, 320, 480, 640,"
    " 960, 1280, 1920, or its own width, which is also what goes without.",
}
JPEG = Operation(content_type="image/jpeg", errors=PICTURE_ERRORS, numbers=WIDTH)
MJPEG = Operation(content_type="multipart/x-mixed-replace", errors=PICTURE_ERRORS, numbers=WIDTH)


@dataclass(frozen=True, slots=True)
class View:
    """One picture that somebody looks at."""

    session_id: str
    end: str
    """``input`` or ``output``."""
    preview: PicturePreview
    viewing: Viewing


@routes.get("/session/{session_id}/preview/input.jpg")
@describes(JPEG)
async def input_jpg(request: web.Request) -> web.StreamResponse:
    """The newest picture of the input, in the session's size; half a second old at the most, or
    the last one where none come."""
    return await _jpg(request, "input")


@routes.get("/session/{session_id}/preview/output.jpg")
@describes(JPEG)
async def output_jpg(request: web.Request) -> web.StreamResponse:
    """The newest picture of the output; half a second old at the most, or the last one where none
    come."""
    return await _jpg(request, "output")


@routes.get("/session/{session_id}/preview/input.mjpeg", allow_head=False)
@describes(MJPEG)
async def input_mjpeg(request: web.Request) -> web.StreamResponse:
    """The input as a stream of JPEGs, ten a second at the most, until the session ends."""
    return await _mjpeg(request, "input")


@routes.get("/session/{session_id}/preview/output.mjpeg", allow_head=False)
@describes(MJPEG)
async def output_mjpeg(request: web.Request) -> web.StreamResponse:
    """The output as a stream of JPEGs, ten a second at the most, until the session ends."""
    return await _mjpeg(request, "output")


@routes.get("/previews", allow_head=False)
@describes(
    Operation(
        content_type="multipart/x-mixed-replace",
        errors=(404, 422, 503),
        numbers=WIDTH,
        texts={"session": "Id of a session; may be given several times."},
    )
)
async def many_pictures(request: web.Request) -> web.StreamResponse:
    """Input and output of several sessions as one stream of JPEGs. Each part says with its headers
    `X-Session-ID` and `X-Picture` which it is: browsers have six connections to a host, and so a
    page needs one for all pictures."""
    width = _width(request)
    sessions = {s.session_id: s for s in request.app[SESSIONS].list()}
    views = [
        View(session_id, end, preview, sessions[session_id].viewing)
        for session_id in dict.fromkeys(request.query.getall("session", []))
        if session_id in sessions
        for end, preview in _ends(sessions[session_id].viewing)
    ]
    if not views:
        raise RequestError(
            "none of these sessions runs; GET /sessions lists those that do",
            code="session_not_found",
            http_status=404,
        )
    return await _send_pictures(request, views, width)


@routes.get("/session/{session_id}/output.ts", allow_head=False)
@describes(Operation(content_type="video/mp2t", errors=(404, 410, 503)))
async def output_ts(request: web.Request) -> web.StreamResponse:
    """What is published, from the next segment on until the session ends, for players:
    `ffplay http://relay:8890/session/ID/output.ts`. Who does not keep up is let go of."""
    viewing = session_of(request).viewing
    _require_open(viewing)
    tee = viewing.stream
    if not tee.begun:
        raise BusyError(
            "nothing is published yet; ask again when fps_out in the session's status is above 0",
            code="no_output_yet",
            retry_after_s=NO_PICTURE_RETRY_S,
        )
    with _stream(request), viewing.viewer():
        viewer = tee.listen()
        try:
            response = await _open(request, "video/mp2t")
            while not _gone(request):
                try:
                    async with asyncio.timeout(AGAIN_AFTER_S):
                        data = await viewer.read()
                except TimeoutError:
                    continue
                if not await _write(response, data):
                    tee.dropped += not viewer.behind and not _gone(request)
                    _cut(request)
        except QueueClosed:
            if viewer.behind:
                _cut(request)
        finally:
            tee.leave(viewer)
    return response


async def _jpg(request: web.Request, end: str) -> web.StreamResponse:
    viewing = session_of(request).viewing
    width = _width(request)
    _require_open(viewing)
    preview = dict(_ends(viewing))[end]
    with viewing.viewer():
        jpeg = await preview.jpeg(width)
    if jpeg is None:
        _require_open(viewing)
        raise _resting() if preview.resting else _no_picture(end)
    return web.Response(
        body=jpeg.data,
        content_type="image/jpeg",
        headers={
            "Cache-Control": "no-store",
            "X-Picture-Number": str(jpeg.number),
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _mjpeg(request: web.Request, end: str) -> web.StreamResponse:
    session = session_of(request)
    width = _width(request)
    _require_open(session.viewing)
    preview = dict(_ends(session.viewing))[end]
    if not preview.number:
        raise _no_picture(end)
    view = View(session.session_id, end, preview, session.viewing)
    return await _send_pictures(request, [view], width)


async def _send_pictures(
    request: web.Request, views: Sequence[View], width: int | None
) -> web.StreamResponse:
    """Each new picture of each view, at `PICTURES_PER_SECOND`, until all their sessions ended."""
    with ExitStack() as seats:
        seats.enter_context(_stream(request))
        for viewing in {id(view.viewing): view.viewing for view in views}.values():
            seats.enter_context(viewing.viewer())
        response = await _open(request, f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        async with aclosing(_new_pictures(views, width)) as pictures:
            async for view, jpeg in pictures:
                if not await _write(response, _part(view, jpeg)):
                    view.viewing.slow_viewers += not _gone(request)
                    _cut(request)
                    return response
        await _write(response, f"--{BOUNDARY}--\r\n".encode())
        return response


async def _new_pictures(
    views: Sequence[View], width: int | None
) -> AsyncGenerator[tuple[View, Jpeg], None]:
    """Pictures that were not sent yet, and after `AGAIN_AFTER_S` without any the last ones again;
    ends when no session is left."""
    interval_s = 1 / PICTURES_PER_SECOND
    changed = asyncio.Event()
    sent: dict[int, int] = {}
    for view in views:
        view.preview.watchers.add(changed)
    try:
        while any(not view.preview.closed for view in views):
            began = time.monotonic()
            changed.clear()
            for index, view in enumerate(views):
                if view.preview.number == sent.get(index, 0):
                    continue
                jpeg = await view.preview.jpeg(width, max_age_s=interval_s / 2)
                if jpeg is not None and jpeg.number != sent.get(index):
                    sent[index] = jpeg.number
                    yield view, jpeg
            await asyncio.sleep(max(0.0, began + interval_s - time.monotonic()))
            try:
                async with asyncio.timeout(AGAIN_AFTER_S):
                    await changed.wait()
            except TimeoutError:
                sent.clear()
    finally:
        for view in views:
            view.preview.watchers.discard(changed)


def _part(view: View, jpeg: Jpeg) -> bytes:
    head = (
        f"--{BOUNDARY}\r\n"
        "Content-Type: image/jpeg\r\n"
        f"Content-Length: {len(jpeg.data)}\r\n"
        f"X-Session-ID: {view.session_id}\r\n"
        f"X-Picture: {view.end}\r\n"
        f"X-Picture-Number: {jpeg.number}\r\n\r\n"
    )
    return b"".join((head.encode(), jpeg.data, b"\r\n"))


async def _open(request: web.Request, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            # nginx would collect what is to be seen now.
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    connection = request.transport and request.transport.get_extra_info("socket")
    if connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return response


async def _write(response: web.StreamResponse, data: bytes) -> bool:
    """False if the viewer has gone, or does not read."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(data)
    except (ConnectionError, TimeoutError):
        return False
    return True


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut(request: web.Request) -> None:
    """End the connection here and now: what waits in it would wait for the viewer."""
    if request.transport is not None:
        request.transport.abort()


@contextmanager
def _stream(request: web.Request) -> Iterator[None]:
    """One of the streams that may go out at once.

    Raises:
        BusyError: `too_many_viewers`.
    """
    streams = request.app[STREAMS_NOW]
    if len(streams) >= MOST_STREAMS:
        raise BusyError(
            f"{MOST_STREAMS} streams go out to viewers already; ask again when one has ended",
            code="too_many_viewers",
        )
    task = asyncio.current_task()
    streams.add(task)
    try:
        yield
    finally:
        streams.discard(task)


def _ends(viewing: Viewing) -> tuple[tuple[str, PicturePreview], ...]:
    return ("input", viewing.input), ("output", viewing.output)


def _width(request: web.Request) -> int | None:
    given = request.query.get("width")
    if given is None:
        return None
    if not _WHOLE_NUMBER.fullmatch(given) or not 1 <= int(given) <= WIDEST:
        problem = f"must be a whole number from 1 to {WIDEST}"
        raise ValidationFailed([{"field": "width", "problem": problem}])
    return int(given)


def _require_open(viewing: Viewing) -> None:
    if viewing.closed:
        raise RequestError(
            "the session has ended, and its pictures with it", code="session_ended", http_status=410
        )


def _no_picture(end: str) -> BusyError:
    return BusyError(
        f"there is no picture of the {end} yet; the session's status says what it waits for",
        code="no_picture_yet",
        retry_after_s=NO_PICTURE_RETRY_S,
    )


def _resting() -> BusyError:
    return BusyError(
        "the relay has too much to do to make pictures for people; GET /capacity tells of its load",
        code="overloaded",
        retry_after_s=RESTING_RETRY_S,
    )
