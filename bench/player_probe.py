"""Two libav players, one on the input and one on the output channel, as viewers would run them.

Each is a plain `av.open` on a pipe, with libavformat's own probing, parsing and buffering. For
every frame that both have decoded, the difference of the two moments is what a viewer of the
output is behind a viewer of the input; it is negative when the output's stream is easier on
the player than the input's is. Prints JSON lines: ``ready``, and ``result`` after SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from contextlib import suppress

import av

from bench.latency_probe import say
from demo.frame_tally import PTS_MODULUS, percentile_ms
from relay.config.settings import LogLevel
from relay.errors import RelayError
from relay.observe.log import configure_logging
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

_WARM_UP_FRAMES = 60
"""A player that has just opened works off what its probing held back."""


class Player:
    """Plays one channel on a thread; `shown` has the moment each pts was decoded."""

    def __init__(self, url: str) -> None:
        self.shown: dict[int, float] = {}
        self._url = url
        read_end, write_end = os.pipe()
        self._source = os.fdopen(read_end, "rb", buffering=0)
        self._sink = os.fdopen(write_end, "wb", buffering=0)
        threading.Thread(target=self._download, daemon=True).start()
        threading.Thread(target=self._play, daemon=True).start()

    def _download(self) -> None:
        # A loop of its own: a player that is slow to read holds up only itself.
        with suppress(RelayError, BrokenPipeError):
            asyncio.run(self._copy())

    async def _copy(self) -> None:
        options = SubscriberOptions(wait_for_channel_s=120)
        async with TrickleSubscriber(self._url, options=options) as subscriber:
            async for segment in subscriber:
                async for data in segment:
                    self._sink.write(data)

    def _play(self) -> None:
        with suppress(av.FFmpegError), av.open(self._source, format="mpegts") as container:
            for frame in container.decode(video=0):
                if frame.pts is not None:
                    self.shown[frame.pts % PTS_MODULUS] = time.monotonic()


async def run(input_url: str, output_url: str) -> None:
    """Play until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    players = Player(input_url), Player(output_url)
    say("ready")
    await stop.wait()
    on_input, on_output = (dict(player.shown) for player in players)
    both = [pts for pts in on_output if pts in on_input][_WARM_UP_FRAMES:]
    behind_s = [on_output[pts] - on_input[pts] for pts in both]
    say(
        "result",
        frames=len(both),
        behind_ms={f"p{percent}": percentile_ms(behind_s, percent) for percent in (50, 95, 99)},
    )


def main() -> None:
    """The command line; `bench.latency` uses it."""
    parser = argparse.ArgumentParser(description="Compare players of two channels.")
    parser.add_argument("input_url")
    parser.add_argument("output_url")
    arguments = parser.parse_args()
    configure_logging(LogLevel.ERROR)
    asyncio.run(run(arguments.input_url, arguments.output_url))
    # The players' threads may sit in a read; nothing of theirs needs an orderly end.
    os._exit(0)


if __name__ == "__main__":
    main()
