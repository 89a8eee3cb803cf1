"""What becomes of the input's sound: around the server, through it, or nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from relay.media.access_unit import AccessUnit, ElementaryStream
from relay.session_config import AudioMode
from relay.sound.output_audio import OutputAudio
from relay.sound.server_sound import ServerSound


class Sound:
    """The one who is given the input's sound, and knows what the output announces.

    Args:
        mode: bypass, process or off.
        output: where sound joins the pictures.
        input_stream: tells the audio stream that the input lists now, None while there is none.
        server: the way through the server, if sound goes there; needed for `process`.
    """

    def __init__(
        self,
        mode: AudioMode,
        output: OutputAudio,
        input_stream: Callable[[], ElementaryStream | None],
        server: ServerSound | None,
    ) -> None:
        self.mode = mode
        self.units_in = 0
        self._output = output
        self._input_stream = input_stream
        self._server = server
        self._dropped: Counter[str] = Counter()
        if server is not None:
            processed = mode is AudioMode.PROCESS
            if processed:
                output.expect_end()
            server.bind(output.add if processed else _ignore, lambda: input_stream() is not None)

    def take(self, unit: AccessUnit) -> None:
        """Take the next audio unit of the input."""
        self.units_in += 1
        if self._server is not None:
            self._server.take(unit)
        if self.mode is AudioMode.BYPASS:
            self._output.add(unit)
        elif self.mode is AudioMode.OFF:
            self._dropped["off"] += 1

    def video_time(self, dts: int) -> None:
        """The input's pictures have come to this time."""
        if self._server is not None:
            self._server.video_time(dts)

    def end_input(self) -> None:
        """Nothing more will come. Idempotent."""
        if self._server is not None:
            self._server.end_input()

    async def run(self) -> None:
        """Work until all sound is out.

        Raises:
            MediaError: the encoder can't go on.
        """
        try:
            if self._server is not None:
                await self._server.run()
        finally:
            self._output.end()

    def output_stream(self) -> ElementaryStream | None:
        """What the output announces."""
        match self.mode:
            case AudioMode.OFF:
                return None
            case AudioMode.PROCESS if self._server is not None:
                return self._server.stream
            case _:
                return self._input_stream()

    @property
    def dropped(self) -> Counter[str]:
        """Sound that is not on the output as it came, by reason."""
        dropped = self._dropped + self._output.dropped
        return dropped + self._server.dropped if self._server is not None else dropped

    def status(self) -> dict[str, Any]:
        """The `audio` object of the session status."""
        source, output = self._input_stream(), self.output_stream()
        silence_ms = 0
        if self._server is not None:
            silence_ms = 20 * self._server.timeline.blocks["silence"]
        return {
            "mode": self.mode.value,
            "codec_in": source.codec if source else None,
            "codec_out": output.codec if output else None,
            "units_in": self.units_in,
            "units_out": self._output.units,
            "silence_ms": silence_ms,
            "dropped": dict(self.dropped),
            "server": self._server.status() if self._server else None,
        }


def _ignore(_unit: AccessUnit) -> None:
    """Sound that is not for the output."""
