"""The command line tools as people run them: processes, pipes, signals, real media."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from tests.peers.quick import subscriber
from tests.peers.raw_client import ask
from tests.peers.ts_media import decode_count, make_ts
from tests.peers.waiting import until

ROOMY = ServerOptions(window_segments=100)
PIPE = asyncio.subprocess.PIPE

pytestmark = pytest.mark.timeout(60, method="signal")


@contextlib.asynccontextmanager
async def tool(*arguments: str, **streams: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m relay.trickle ...`, killed if the test leaves it running."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay.trickle", *arguments),
        **{"stderr": PIPE, **streams},
        # Whoever runs the tests in the background has SIGINT ignored, and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def run(*arguments: str, stdin: bytes | None = None) -> tuple[int | None, bytes, str]:
    """The exit status, standard output and standard error of a tool."""
    streams = {"stdout": PIPE} if stdin is None else {"stdout": PIPE, "stdin": PIPE}
    async with tool(*arguments, **streams) as process:
        out, err = await process.communicate(stdin)
        return process.returncode, out, err.decode()


async def test_a_file_is_published_in_real_time_and_recorded_as_it_was(tmp_path: Path) -> None:
    """Every picture arrives; the recorder ends with the channel."""
    film = make_ts(2.0, audio=True)
    (tmp_path / "film.ts").write_bytes(film)
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "camera"
        server.create_channel("camera")
        async with tool("record", url, "-", stdout=PIPE) as recorder:
            recording = asyncio.create_task(recorder.communicate())
            await until(lambda: server.stats.readers)
            begun_at = asyncio.get_running_loop().time()
            status, _, progress = await run("publish", str(tmp_path / "film.ts"), url)
            took_s = asyncio.get_running_loop().time() - begun_at
            recorded, last_words = await recording
            assert (status, recorder.returncode) == (0, 0)
        assert decode_count(recorded) == 50
        assert took_s > 1.8
        assert "2 segments" in progress
        assert "end of input" in progress
        assert "the channel was closed" in last_words.decode()
        assert server.stats.channels == 0


async def test_a_pipe_is_published_as_fast_as_it_goes_and_recorded_segment_by_segment(
    tmp_path: Path,
) -> None:
    """Each file begins with a keyframe and can be played by itself."""
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "camera"
        status, _, _ = await run(
            "publish", "--fast", "--keep-channel", "-", url, stdin=make_ts(3.0)
        )
        assert status == 0
        async with tool("record", "--split", "--start", "0", url, str(tmp_path)) as recorder:
            await until(lambda: len(list(tmp_path.iterdir())) == 3 and server.stats.readers)
            await ask(server.url, "DELETE", "/camera")
            await recorder.communicate()
        files = sorted(tmp_path.iterdir())  # noqa: ASYNC240
        assert [file.name for file in files] == ["00000000.ts", "00000001.ts", "00000002.ts"]
        assert [decode_count(file.read_bytes()) for file in files] == [25, 25, 25]


async def test_a_player_takes_the_recording_from_a_pipe() -> None:
    """`record URL - | ffmpeg -i -` decodes what was published."""
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "camera"
        await run("publish", "--fast", "--keep-channel", "-", url, stdin=make_ts(1.0))
        reading, writing = os.pipe()
        player = await asyncio.create_subprocess_exec(
            *("ffmpeg", "-v", "error", "-progress", "-", "-i", "-", "-f", "null", "-"),
            stdin=reading,
            stdout=PIPE,
        )
        os.close(reading)
        async with tool("record", "--start", "0", url, "-", stdout=writing) as recorder:
            os.close(writing)
            await until(lambda: server.stats.bytes_out)
            await ask(server.url, "DELETE", "/camera")
            await recorder.communicate()
        out, _ = await player.communicate()
        assert b"frame=25\n" in out


async def test_the_recorder_ends_when_its_player_is_closed() -> None:
    """Quietly: closing the window is not an error."""
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "camera"
        await run("publish", "--fast", "--keep-channel", "-", url, stdin=make_ts(4.0))
        reading, writing = os.pipe()
        async with tool("record", "--start", "0", url, "-", stdout=writing) as recorder:
            os.close(writing)
            await asyncio.to_thread(os.read, reading, 100)
            os.close(reading)
            await run("publish", "--fast", "--keep-channel", "-", url, stdin=make_ts(20.0))
            _, err = await recorder.communicate()
            assert (recorder.returncode, "the player was closed" in err.decode()) == (0, True)


async def test_messages_are_published_line_by_line() -> None:
    """One segment each, with the type of JSON; blank lines are nothing."""
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "control"
        lines = b'{"a": 1}\n\n{"b": 2}\r\n{"last": true}'
        status, _, _ = await run("publish", "--lines", "--keep-channel", "-", url, stdin=lines)
        assert status == 0
        source = subscriber(url, start=0)
        messages = []
        async for message in source.messages():
            messages.append(message.strip())
            if len(messages) == 3:
                break
        await source.aclose()
        assert messages == [b'{"a": 1}', b'{"b": 2}', b'{"last": true}']
        channel = server.registry.get("control")
        assert channel is not None
        assert channel.content_type == "application/json"


async def test_a_film_can_be_played_again_and_again(tmp_path: Path) -> None:
    """With --loop it goes on until it is stopped; Ctrl-C closes the channel."""
    (tmp_path / "film.ts").write_bytes(make_ts(1.0))
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "camera"
        async with tool("publish", "--loop", "--fast", str(tmp_path / "film.ts"), url) as publisher:
            await until(lambda: server.stats.segments >= 3)
            publisher.send_signal(signal.SIGINT)
            await publisher.communicate()
            assert publisher.returncode == 130
        assert server.stats.channels == 0


async def test_a_terminated_publisher_closes_its_channel(tmp_path: Path) -> None:
    """As a container's stop does it."""
    (tmp_path / "film.ts").write_bytes(make_ts(30.0))
    async with TrickleServer(options=ROOMY) as server:
        async with tool("publish", str(tmp_path / "film.ts"), server.url + "camera") as publisher:
            await until(lambda: server.stats.segments)
            publisher.send_signal(signal.SIGTERM)
            await publisher.communicate()
            assert publisher.returncode == 143
        assert server.stats.channels == 0


async def test_a_recording_may_last_a_given_time(tmp_path: Path) -> None:
    """Then it ends by itself, whatever the channel does."""
    async with TrickleServer(options=ROOMY) as server:
        server.create_channel("camera")
        target = tmp_path / "out.ts"
        status, _, err = await run(
            "record", "--duration", "0.2", server.url + "camera", str(target)
        )
        assert (status, "0.2 s are over" in err, target.exists()) == (0, True, True)


async def test_mistakes_are_explained_in_one_line(tmp_path: Path) -> None:
    """What is wrong and what to do, no trace of the program."""
    (tmp_path / "text").write_text("not a film" * 100)
    async with TrickleServer(options=ROOMY) as server:
        url = server.url + "camera"
        cases = {
            ("publish", str(tmp_path / "missing.ts"), url): "No such file",
            ("publish", str(tmp_path / "text"), url): "convert it first",
            ("publish", str(tmp_path / "text"), "nonsense"): "is not a trickle channel",
            ("record", server.url + "nothing", "-"): "--wait waits for one",
            ("record", "--start", "soon", url, "-"): "current, next or a segment number",
            ("record", "--ca-file", str(tmp_path / "no.pem"), url, "-"): "can't use",
        }
        results = await asyncio.gather(*(run(*arguments) for arguments in cases))
        for (status, _, err), expected in zip(results, cases.values(), strict=True):
            assert status == 1
            assert expected in err
            assert "Traceback" not in err
            assert err.count("\n") == 1


async def test_a_recording_is_not_written_to_a_terminal() -> None:
    """It would be garbage there; the message says what was meant."""
    async with TrickleServer() as server:
        server.create_channel("camera")
        ours, terminal = pty.openpty()
        try:
            async with tool("record", server.url + "camera", "-", stdout=terminal) as recorder:
                _, err = await recorder.communicate()
                assert (recorder.returncode, "ffplay" in err.decode()) == (1, True)
        finally:
            os.close(ours)
            os.close(terminal)


async def test_progress_is_shown_on_a_terminal() -> None:
    """One line that is rewritten, with segments, bytes and rate."""
    async with TrickleServer(options=ROOMY) as server:
        server.create_channel("camera")
        ours, terminal = pty.openpty()
        try:
            async with tool(
                "record", "--duration", "1", server.url + "camera", "/dev/null", stderr=terminal
            ) as recorder:
                await recorder.communicate()
            shown = os.read(ours, 10_000).decode()
        finally:
            os.close(ours)
            os.close(terminal)
        assert shown.count("\r") >= 2
        assert "0 segments  0.0 MB  0.00 Mbit/s" in shown


async def test_the_server_runs_from_the_command_line() -> None:
    """Says where it listens, serves, and stops on a signal."""
    async with tool("serve", "--port", "0", stdout=PIPE) as process:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = line.split("url=")[1].split("\x1b")[0].strip()
        assert (await ask(url, "POST", "/camera/0", body=b"x")).status == 200
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0
