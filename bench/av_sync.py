"""Sound against picture through the whole stack: is it in step, does it drift, does it break?

    python -m bench.av_sync --minutes 10 --jitter-ms 40 --audio process

Source, trickle server, relay and ComfyStream stand-in are processes of their own. The source's
test pattern flashes and beeps together on every whole second; on the output both are decoded,
and the beep's first sample is held against the first bright picture's pts. `bypass` runs the
inverting workflow, `process` one that has sound in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp

from bench.av_sync_probe import SyncProbe
from bench.process_cost import cpu_seconds, peak_memory_mb
from bench.session_run import NOT_HELD_BACK, free_port
from demo.child_process import Child, ChildError
from demo.start_session import INVERT
from demo.test_pattern import picture_size
from relay.config.settings import LogLevel
from relay.observe.log import configure_logging
from relay.tasks import cancel_and_wait

SOUND: list[dict[str, Any]] = [
    {
        "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500.0}},
        "2": {"class_type": "SaveAudioTensor", "inputs": {"audio": ["1", 0]}},
    }
]
PROMPTS: dict[str, list[dict[str, Any]]] = {"none": [], "invert": INVERT, "sound": SOUND}
START_TIMEOUT_S = 60.0
LIMIT_MS = 10.0
"""What the worst second may be off."""
_SETTLE_S = 1.0
_REPORT_EVERY_S = 60.0


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start everything, look and listen, end everything.

    Raises:
        ChildError: a process did not start or ended on its own; its log is quoted.
    """
    async with AsyncExitStack() as cleanup:
        logs = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="relay-av-sync-")))
        http = await cleanup.enter_async_context(aiohttp.ClientSession())

        async def start(name: str, *command: str, **environment: str) -> Child:
            child = Child(name, *command, log_directory=logs, environment=environment)
            await child.start()
            cleanup.push_async_callback(child.stop)
            return child

        trickle_port, relay_port = free_port(), free_port()
        trickle = f"http://127.0.0.1:{trickle_port}"
        api = f"http://127.0.0.1:{relay_port}"
        width, height = arguments.size
        async with asyncio.timeout(START_TIMEOUT_S):
            await start("trickle", "-m", "relay.trickle.server", "--port", str(trickle_port))
            await _answering(http, trickle)
            server = await start("stand-in", "-m", "demo.comfystream_standin", "--port", "0")
            comfystream_url = (await server.event())["url"]
            relay = await start(
                "relay",
                *("trickle_relay_service.py", "--host", "127.0.0.1", "--port", str(relay_port)),
                RELAY_AUDIO_CODEC=arguments.codec,
                **NOT_HELD_BACK,
            )
            await _answering(http, f"{api}/health")
            source = await start(
                "source",
                *("-m", "demo.test_pattern", f"{trickle}/live"),
                *("--jitter-ms", f"{arguments.jitter_ms:g}"),
                *("--size", f"{width}x{height}", "--fps", str(arguments.fps)),
            )
            await source.event()
        await asyncio.sleep(_SETTLE_S)
        prompts = arguments.prompts or ("sound" if arguments.audio == "process" else "invert")
        body = {
            "input_stream_url": f"{trickle}/live",
            "comfystream_url": comfystream_url,
            "prompts": PROMPTS[prompts],
            "width": width,
            "height": height,
            "audio": arguments.audio,
        }
        async with http.post(f"{api}/session/start", json=body) as response:
            answer = await response.json()
        if not answer["success"]:
            raise ChildError(f"the relay refuses the session: {answer['error']}")
        status_url = f"{api}/session/{answer['session_id']}/status"
        probe = SyncProbe(f"{trickle}/live-processed", width, height, arguments.fps)
        watching = asyncio.create_task(probe.run())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await probe.first_picture.wait()
            cpu_before, began = cpu_seconds(relay.pid), time.monotonic()
            memory_before = peak_memory_mb(relay.pid)
            ends_at = began + arguments.minutes * 60
            while (remaining_s := ends_at - time.monotonic()) > 0:
                await asyncio.wait({watching}, timeout=min(_REPORT_EVERY_S, remaining_s))
                if watching.done():
                    await watching
                    raise ChildError("the output ended while it was measured")
                if arguments.minutes > 1:
                    _progress(time.monotonic() - began, probe)
            cpu_s = cpu_seconds(relay.pid) - cpu_before
            elapsed_s = time.monotonic() - began
            async with http.get(status_url) as response:
                session = (await response.json())["session"]
        finally:
            await cancel_and_wait([watching])
        return {
            "minutes": round(elapsed_s / 60, 2),
            "audio": arguments.audio,
            "codec": session["audio"]["codec_out"],
            "prompts": prompts,
            "jitter_ms": arguments.jitter_ms,
            "size": f"{width}x{height}",
            "fps": str(arguments.fps),
            **probe.figures.summary(),
            "relay_cpu_percent": round(100 * cpu_s / elapsed_s, 1),
            "relay_peak_memory_mb": [round(memory_before, 1), round(peak_memory_mb(relay.pid), 1)],
            "status": {
                "audio": session["audio"],
                "frames_dropped": session["frames_dropped"],
                "reconnects": session["processing"]["reconnects"],
                "delay_ms": session["delay_ms"],
            },
        }


async def _answering(http: aiohttp.ClientSession, url: str) -> None:
    while True:
        try:
            async with http.get(url):
                return
        except aiohttp.ClientConnectionError:
            # Another process can only be asked again.
            await asyncio.sleep(0.05)


def _progress(elapsed_s: float, probe: SyncProbe) -> None:
    summary = probe.figures.summary()
    print(
        f"  {elapsed_s / 60:5.1f} min: {summary['pairs']} pairs, offset {summary['offset_ms']},"
        f" gaps {summary['audio_gaps']}",
        file=sys.stderr,
        flush=True,
    )


async def run(arguments: argparse.Namespace) -> bool:
    """Measure, print; whether sound was in step all the time."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    result = await measure(arguments)
    print(json.dumps(result, indent=1))
    worst = result["offset_ms"].get("worst_abs")
    return worst is not None and worst <= LIMIT_MS and not result["audio_gaps"]


def main() -> None:
    """The command line; exits with 1 if sound was more than 10 ms off, or had a gap."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.av_sync", description="Measure sound against picture on the output."
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--jitter-ms", type=float, default=40.0, help="of the source's chunks")
    parser.add_argument("--size", type=picture_size, default=(512, 512), metavar="WIDTHxHEIGHT")
    parser.add_argument("--fps", type=Fraction, default=Fraction(30))
    parser.add_argument("--audio", choices=["bypass", "process"], default="bypass")
    parser.add_argument("--codec", choices=["aac", "opus"], default="aac", help="processed sound")
    parser.add_argument(
        "--prompts", choices=PROMPTS, help="default: invert for bypass, sound for process"
    )
    configure_logging(LogLevel.WARNING)
    try:
        sys.exit(not asyncio.run(run(parser.parse_args())))
    except (ChildError, TimeoutError) as error:
        sys.exit(f"av_sync: {str(error) or 'nothing came out in time'}")


if __name__ == "__main__":
    main()
