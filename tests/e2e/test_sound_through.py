"""Sound that goes through the server: in its place to the millisecond, unbroken, of one format."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.media.access_unit import CLOCK_RATE
from tests.e2e.stack import INVERT, Stack, Viewer, in_background, running_stack
from tests.sound_listener import hear
from tests.sound_source import LEFT_HZ, RIGHT_HZ, live_chunks, tone_units

SOUND: list[dict[str, Any]] = [
    {
        "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500.0}},
        "2": {"class_type": "SaveAudioTensor", "inputs": {"audio": ["1", 0]}},
    }
]
"""Gives the sound back as it is, but as ComfyStream does: half a second at a time, in mono."""
OPTIONS = PatternOptions(frames=240, plain=True)
PLACED_WITHIN = 5 * CLOCK_RATE / 1000
"""5 ms: of a beep's onset, found by its level."""
PROCESSED_LEAST = 40
"""Blocks of 20 ms, of 400: on a busy machine much of the server's sound comes too late."""


async def relayed(stack: Stack, chunks: Any, viewer: Viewer, **request: Any) -> dict[str, Any]:
    """A session on `chunks` to its end; its status then."""
    async with in_background(publish_live(stack.channel("camera"), chunks)) as (source,):
        session = await stack.start("camera", **request)
        async with in_background(viewer.watch(stack.channel("camera-processed"))):
            await source
            await viewer.wait_for(lambda v: v.ended)
    return await stack.status(session)


def assert_unbroken(viewer: Viewer, ticks: int = 1920) -> None:
    """Every unit follows the one before to the tick."""
    assert {b.pts - a.pts for a, b in pairwise(viewer.audio)} == {ticks}


def assert_beeps_in_place(viewer: Viewer) -> None:
    """The pattern beeps on every whole second of its time; the first may have begun unheard."""
    onsets = hear(viewer.audio).onsets()[1:]
    assert len(onsets) >= 3
    for onset in onsets:
        off = (onset - OPTIONS.start_pts + CLOCK_RATE / 2) % CLOCK_RATE - CLOCK_RATE / 2
        assert abs(off) < PLACED_WITHIN, f"{off / 90:.2f} ms"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("codec", "ticks", "returned"), [("aac", 1920, "aac"), ("opus", 1800, "opus")]
)
async def test_sound_that_the_server_passes_on_stays_in_place(
    codec: str, ticks: int, returned: str
) -> None:
    """Without prompts and with `process`: both channels, unbroken, each beep at its time."""
    viewer = Viewer()
    async with running_stack() as stack:
        status = await relayed(
            stack, generate(OPTIONS), viewer, prompts=[], audio="process", audio_codec=codec
        )
    assert viewer.audio[0].stream.codec == returned
    assert_unbroken(viewer, ticks)
    assert_beeps_in_place(viewer)
    heard = hear(viewer.audio)
    beep = OPTIONS.start_pts + 4 * CLOCK_RATE
    assert abs(heard.tone(0, beep + 900, 0.08) - 1000) < 15
    assert abs(heard.tone(1, beep + 900, 0.08) - 1500) < 15
    out = status["audio"]["server"]["blocks_out"]
    assert out["processed"] > PROCESSED_LEAST, out
    assert status["audio"]["server"]["placed_anew"] == 0


@pytest.mark.timeout(60)
async def test_a_workflow_with_sound_has_its_sound_on_the_output() -> None:
    """`auto` means the server's sound: mono in half-second bursts, on the output unbroken and
    each beep at its time; the pictures are the source's."""
    viewer = Viewer()
    async with running_stack() as stack:
        status = await relayed(stack, generate(OPTIONS), viewer, prompts=SOUND)
    assert status["audio"]["mode"] == "process"
    assert_unbroken(viewer)
    assert_beeps_in_place(viewer)
    heard = hear(viewer.audio)
    beeps = [heard.at(onset, 0.09) for onset in heard.onsets()[1:]]
    mixed = [abs(b[0] - b[1]).max() < 0.2 * abs(b[0]).max() for b in beeps]
    assert any(mixed), "both channels are the mix, where the sound is the server's"
    assert not any(frame.inverted for frame in viewer.frames)
    out = status["audio"]["server"]["blocks_out"]
    assert out["processed"] > PROCESSED_LEAST, out


@pytest.mark.timeout(60)
async def test_a_video_workflow_lets_sound_through() -> None:
    """`process` beside a picture workflow: sound in place, pictures inverted."""
    viewer = Viewer()
    async with running_stack() as stack:
        await relayed(stack, generate(OPTIONS), viewer, prompts=INVERT, audio="process")
    assert_unbroken(viewer)
    assert_beeps_in_place(viewer)
    assert sum(frame.inverted for frame in viewer.frames) > 20


@pytest.mark.timeout(60)
async def test_sound_goes_on_while_the_server_is_away() -> None:
    """The server is killed in the middle: the source's own sound takes over, in the same format,
    without a gap; and the server's again when it is back."""
    sound = tone_units(9.0, start_pts=900_000)
    viewer = Viewer()
    async with running_stack(reconnect_first_wait_s=0.3) as stack:
        chunks = live_chunks(sound, audio=sound[0].stream)
        async with in_background(publish_live(stack.channel("radio"), chunks)) as (source,):
            session = await stack.start("radio", prompts=[], audio="process")
            async with in_background(viewer.watch(stack.channel("radio-processed"))):
                await stack.wait_for_status(
                    session, lambda s: s["audio"]["server"]["blocks_out"]["processed"] > 50
                )
                stack.comfystream.kill()
                await stack.wait_for_status(
                    session, lambda s: s["audio"]["server"]["blocks_out"]["source"] > 60
                )
                await source
                await viewer.wait_for(lambda v: v.ended)
    assert_unbroken(viewer)
    heard = hear(viewer.audio)
    first, last = viewer.audio[2].pts, sound[-1].pts - 4 * 1920
    assert heard.quiet_spans(first, last) == []
    for second in range(1, 7):
        pts = first + second * CLOCK_RATE
        assert abs(heard.tone(0, pts) - LEFT_HZ) < 10
        assert abs(heard.tone(1, pts) - RIGHT_HZ) < 10


@pytest.mark.timeout(60)
async def test_no_sound_on_request() -> None:
    """`off`: the output lists none and has none."""
    viewer = Viewer()
    async with running_stack() as stack:
        status = await relayed(
            stack, generate(PatternOptions(frames=60, plain=True)), viewer, prompts=[], audio="off"
        )
    assert viewer.audio == []
    assert len(viewer.frames) > 20
    assert status["audio"]["codec_out"] is None
    assert status["audio"]["dropped"]["off"] == status["audio"]["units_in"] > 0


@pytest.mark.timeout(60)
async def test_sound_that_died_in_the_server_is_brought_back() -> None:
    """The server's sender of sound ends while all else goes on: the source's own sound fills in,
    and a new connection brings the server's again, in one unbroken row."""
    options = PatternOptions(frames=450, plain=True)
    viewer = Viewer()
    async with running_stack(reconnect_first_wait_s=0.2) as stack:
        await stack.comfystream.set_faults(audio_sender_dies_after=60)
        async with in_background(publish_live(stack.channel("camera"), generate(options))) as (
            source,
        ):
            session = await stack.start("camera", prompts=[], audio="process")
            async with in_background(viewer.watch(stack.channel("camera-processed"))):
                status = await stack.wait_for_status(
                    session, lambda s: s["processing"]["error_code"] == "media_timeout"
                )
                assert "no sound" in status["processing"]["error"]
                await stack.comfystream.clear_faults()
                processed = status["audio"]["server"]["blocks_out"]["processed"]
                await stack.wait_for_status(
                    session,
                    lambda s: s["audio"]["server"]["blocks_out"]["processed"] > processed + 40,
                )
                await source
                await viewer.wait_for(lambda v: v.ended)
    assert_unbroken(viewer)
    assert_beeps_in_place(viewer)
