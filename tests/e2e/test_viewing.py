"""People look at a session that runs: its pictures, its stream, and what that costs it."""

from __future__ import annotations

import asyncio
import io
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import av
import pytest

from demo import barcode
from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.api import preview_routes
from relay.pipeline import stream_tee
from relay.pipeline.viewing import MOST_VIEWERS
from tests.e2e.stack import DEADLINE_S, Stack, in_background, running_stack

PATTERN = PatternOptions(plain=True)
PART = re.compile(
    rb"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: (\d+)\r\n"
    rb"X-Session-ID: (\S+)\r\nX-Picture: (\w+)\r\nX-Picture-Number: (\d+)\r\n\r\n"
)

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def running_session() -> AsyncIterator[tuple[Stack, str]]:
    """A session on an endless pattern, with pictures at both ends."""
    async with running_stack() as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(PATTERN))):
            # Without a fallback whatever goes out is processed, however busy the machine is.
            session_id = await stack.start("camera", fallback="none")
            await stack.wait_for_status(session_id, lambda status: status["output"]["segments"] > 0)
            yield stack, session_id


def read_jpeg(data: bytes) -> tuple[int, bool]:
    """The number drawn in a picture, and whether it is inverted."""
    with av.open(io.BytesIO(data), format="mjpeg") as container:
        reading = barcode.read(next(container.decode(video=0)).reformat(format="yuv420p"))
    assert reading is not None
    return reading.number, reading.inverted


async def jpeg_of(stack: Stack, session_id: str, end: str, query: str = "") -> bytes:
    url = f"{stack.relay_url}/session/{session_id}/preview/{end}.jpg{query}"
    async with stack.http.get(url) as response:
        assert (response.status, response.content_type) == (200, "image/jpeg")
        assert response.headers["Cache-Control"] == "no-store"
        return await response.read()


async def parts_of(
    response: aiohttp.ClientResponse,
) -> AsyncIterator[tuple[str, str, tuple[int, bool]]]:
    """Session, end and content of each picture of a stream."""
    while (head := await response.content.readuntil(b"\r\n\r\n")).startswith(b"--picture\r\n"):
        match = PART.fullmatch(head)
        assert match is not None, head
        data = await response.content.readexactly(int(match[1]))
        assert await response.content.readexactly(2) == b"\r\n"
        yield match[2].decode(), match[3].decode(), read_jpeg(data)


async def test_the_newest_pictures_are_there_to_see() -> None:
    """The input as it came, the output inverted, both of now; smaller where that is wanted."""
    async with running_session() as (stack, session_id):
        number, inverted = read_jpeg(await jpeg_of(stack, session_id, "input"))
        assert not inverted
        out_number, out_inverted = read_jpeg(await jpeg_of(stack, session_id, "output"))
        assert out_inverted
        assert abs(out_number - number) < 30 * DEADLINE_S
        small = await jpeg_of(stack, session_id, "output", "?width=320")
        with av.open(io.BytesIO(small), format="mjpeg") as container:
            assert container.streams.video[0].width == 320
        code, answer = await stack.call(
            "GET", f"/session/{session_id}/preview/input.jpg?width=many"
        )
        assert (code, answer["details"][0]["field"]) == (422, "width")
        status = await stack.status(session_id)
        assert status["viewers"] == {"now": 0, "dropped": 0}


async def test_before_there_is_a_picture_and_after_the_end() -> None:
    """503 with a time to ask again; then 410; and 404 for a session that never was."""
    paths = ("preview/input.jpg", "preview/output.jpg", "preview/input.mjpeg", "output.ts")
    async with running_stack() as stack:
        session_id = await stack.start("nothing-yet")
        for path in paths:
            async with stack.http.get(f"{stack.relay_url}/session/{session_id}/{path}") as response:
                answer = await response.json()
                assert (response.status, response.headers["Retry-After"]) == (503, "1"), path
                assert answer["code"] in ("no_picture_yet", "no_output_yet")
        await stack.call("DELETE", f"/session/{session_id}")
        for path in paths:
            code, answer = await stack.call("GET", f"/session/{session_id}/{path}")
            assert (code, answer["code"]) == (410, "session_ended"), path
            code, answer = await stack.call("GET", f"/session/unknown/{path}")
            assert (code, answer["code"]) == (404, "session_not_found"), path


async def test_pictures_move_until_the_session_ends() -> None:
    """Each later than the one before, and the stream ends with the session."""
    async with running_session() as (stack, session_id):
        url = f"{stack.relay_url}/session/{session_id}/preview/output.mjpeg"
        numbers: list[int] = []
        async with asyncio.timeout(DEADLINE_S), stack.http.get(url) as response:
            assert response.content_type == "multipart/x-mixed-replace"
            async for name, end, (number, inverted) in parts_of(response):
                assert (name, end, inverted) == (session_id, "output", True)
                numbers.append(number)
                if len(numbers) == 5:
                    assert (await stack.status(session_id))["viewers"]["now"] == 1
                    await stack.call("DELETE", f"/session/{session_id}")
        assert len(numbers) >= 5
        assert numbers == sorted(set(numbers))


async def test_one_stream_has_the_pictures_of_several_sessions() -> None:
    """Both ends of each, named; what does not run is left out."""
    async with running_session() as (stack, first):
        second = await stack.start("camera", output_stream_url=stack.channel("two"), prompts=[])
        url = f"{stack.relay_url}/previews?session={first}&session={second}&session=gone&width=160"
        seen: dict[tuple[str, str], bool] = {}
        async with asyncio.timeout(DEADLINE_S), stack.http.get(url) as response:
            parts = parts_of(response)
            while len(seen) < 4:
                name, end, (_, inverted) = await anext(parts)
                seen[name, end] = inverted
        assert seen == {
            (first, "input"): False,
            (first, "output"): True,
            (second, "input"): False,
            (second, "output"): False,
        }
        code, answer = await stack.call("GET", "/previews?session=gone")
        assert (code, answer["code"]) == (404, "session_not_found")
        await stack.wait_for_status(first, lambda status: status["viewers"]["now"] == 0)


async def test_a_player_plays_the_output() -> None:
    """FFmpeg, as ffplay does, from a plain HTTP address: whole pictures and sound, to the end."""
    async with running_session() as (stack, session_id):
        player = await asyncio.create_subprocess_exec(
            *["ffmpeg", "-hide_banner", "-nostdin", "-xerror", "-err_detect", "explode"],
            *["-analyzeduration", "500000"],
            *["-i", f"{stack.relay_url}/session/{session_id}/output.ts", "-frames:v", "60"],
            *["-f", "null", "-"],
            stderr=asyncio.subprocess.PIPE,
        )
        _, log = await asyncio.wait_for(player.communicate(), DEADLINE_S)
        assert player.returncode == 0, log.decode()
        assert b"Video: h264" in log
        assert b"Audio: aac" in log
        await stack.wait_for_status(session_id, lambda status: status["viewers"]["now"] == 0)


async def test_the_stream_is_what_was_published() -> None:
    """Byte for byte, from the first packet of a segment to the last byte of the session."""
    async with running_session() as (stack, session_id):
        url = f"{stack.relay_url}/session/{session_id}/output.ts"
        async with asyncio.timeout(DEADLINE_S), stack.http.get(url) as response:
            assert (response.status, response.content_type) == (200, "video/mp2t")
            data = await response.content.readexactly(188 * 100)
            await stack.call("DELETE", f"/session/{session_id}")
            data += await response.content.read()
        assert len(data) % 188 == 0
        assert set(data[::188]) == {0x47}
        assert data[1] & 0x1F == data[2] == 0  # the PAT's PID


async def test_a_viewer_that_does_not_read_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is cut and counted; the session goes on, and loses nothing to it."""
    monkeypatch.setattr(stream_tee, "MOST_BYTES", 20_000)
    monkeypatch.setattr(preview_routes, "SEND_BUFFER_BYTES", 4096)
    monkeypatch.setattr(preview_routes, "WRITE_TIMEOUT_S", 0.2)
    async with running_session() as (stack, session_id):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        host, port = stack.relay_url.removeprefix("http://").split(":")
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=connection)
        writer.write(f"GET /session/{session_id}/output.ts HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        status = await stack.wait_for_status(
            session_id, lambda status: status["viewers"]["dropped"] == 1
        )
        await stack.wait_for_status(session_id, lambda status: status["viewers"]["now"] == 0)
        writer.transport.abort()
        frames = status["output"]["frames"]
        status = await stack.wait_for_status(session_id, lambda s: s["output"]["frames"] > frames)
        assert status["output"]["segments_lost"] == 0
        assert status["frames_dropped"].keys() <= {"decoded_frames"}, "nothing waits behind it"


async def test_so_many_and_no_more() -> None:
    """Who comes when all places are taken is told so, and another goes on looking."""
    async with running_session() as (stack, session_id):
        url = f"{stack.relay_url}/session/{session_id}/preview/input.mjpeg"
        async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as http:
            looking = [await http.get(url) for _ in range(MOST_VIEWERS)]
            async with http.get(url) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "5")
                assert (await response.json())["code"] == "too_many_viewers"
            for response in looking:
                response.close()
        await stack.wait_for_status(session_id, lambda status: status["viewers"]["now"] == 0)
