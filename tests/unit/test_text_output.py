"""Text output: which picture a text belongs to, and bounds for everything."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relay.channels.text_output import (
    BURST_S,
    LINES_FOR_A_LISTENER,
    MOST_LISTENERS,
    MOST_MESSAGE_BYTES,
    TextOutput,
    TextPairing,
)
from tests.peers.waiting import until


def test_texts_are_paired_with_the_pictures_of_their_runs() -> None:
    """One text a picture, in bursts; a picture more or less on its way does not shift them."""
    pairing = TextPairing()
    told: list[int | None] = []
    pictures = 0
    for late in (0, 0, 0, 1, 0, 0, 0):
        for _ in range(8 - late):
            pairing.see_picture(pictures)
            pictures += 1
        when_they_came = pictures
        for _ in range(late):
            pairing.see_picture(pictures)
            pictures += 1
        told += pairing.pair(8, when_they_came)
    assert told == list(range(56))


def test_a_run_without_text_shifts_no_later_ones_for_long() -> None:
    """Blank texts are not sent: the constant is found anew."""
    pairing = TextPairing()
    for number in range(200):
        pairing.see_picture(number)
        if number % 8 == 7:
            texts = 5 if number == 63 else 8
            told = pairing.pair(texts, number + 1)
    assert told == list(range(192, 200))


def test_without_pictures_there_is_no_time() -> None:
    """Of a workflow from sound to text, for instance, before the first picture."""
    assert TextPairing().pair(2, 0) == [None, None]


class Sink:
    """A text output and what it published."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.output = TextOutput(self.lines.append)

    def say(self, text: str) -> None:
        self.output.receive(json.dumps({"type": "text", "data": text}))


async def test_lines_have_the_recorded_shape() -> None:
    """What ComfyStream sends, with the picture's time beside it."""
    sink = Sink()
    sink.output.see_picture(9000)
    sink.output.receive('{"type": "text", "data": "two words"}')
    await until(lambda: sink.lines)
    [line] = sink.lines
    assert line.pop("timestamp") > 1.6e12
    assert line == {"type": "text", "data": "two words", "pts": 9000}


@pytest.mark.parametrize(
    "message",
    [
        *(b"\xff", "", "[]", "7", '{"type": "text"}', '{"type": "text", "data": 7}'),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param(json.dumps({"type": "text", "data": "x" * MOST_MESSAGE_BYTES}), id="long"),
    ],
)
async def test_what_is_no_text_is_counted(message: str | bytes) -> None:
    """And passed on to nobody."""
    sink = Sink()
    sink.output.receive(message)
    sink.output.close()
    assert sink.lines == []
    assert sink.output.status()["unreadable"] == 1


async def test_a_long_text_takes_several_lines() -> None:
    """Each below the 64 KiB at which readers of lines give up, together the whole."""
    sink = Sink()
    text = "é\n\x01" * 20_000
    sink.say(text)
    sink.say("half a character: \ud800")
    sink.output.close()
    parts = [line for line in sink.lines if "part" in line]
    assert "".join(line["data"] for line in parts) == text
    assert [line["part"] for line in parts] == list(range(1, parts[0]["parts"] + 1))
    for line in sink.lines:
        assert len(json.dumps(line, ensure_ascii=False).encode()) < 60 * 1024


async def test_warm_up_texts_are_not_passed_on() -> None:
    """The first five of a workflow from sound to text are made of noise."""
    sink = Sink()
    sink.output.new_connection(skip=5)
    for number in range(7):
        sink.say(str(number))
    sink.output.close()
    assert [line["data"] for line in sink.lines] == ["5", "6"]


async def test_a_listener_that_does_not_read_costs_only_its_own_lines() -> None:
    """Its queue is bounded, others have everything, and the end reaches all."""
    sink = Sink()
    slow = sink.output.listen()
    assert slow is not None
    for number in range(LINES_FOR_A_LISTENER + 10):
        sink.say(str(number))
    await asyncio.sleep(BURST_S)
    await until(lambda: len(sink.lines) == LINES_FOR_A_LISTENER + 10)
    assert len(slow) == LINES_FOR_A_LISTENER
    assert slow.dropped["overflow"] == 10
    sink.output.close()
    assert slow.closed
    sink.output.leave(slow)
    listeners = [sink.output.listen() for _ in range(MOST_LISTENERS + 1)]
    assert listeners[-1] is None
    assert listeners[0] is not None
    assert listeners[0].closed
