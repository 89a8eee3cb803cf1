"""Audio through the stand-in: echoed, processed in bursts, and lost for good after a gap."""

from __future__ import annotations

import asyncio
import itertools
from statistics import median

import numpy as np

from demo.standin import ComfyStreamStandIn, StandInSettings
from tests.integration.standin_client import AUDIO, INVERT, STEP, Client, connect, until

QUICK_GAP = StandInSettings(port=0, audio_timeout_s=0.5)
SPEECH = {
    "1": AUDIO["1"],
    "2": {"class_type": "AudioTranscriptionNode", "inputs": {"audio": ["1", 0]}},
    "3": {"class_type": "SaveTextTensor", "inputs": {"data": ["2", 0]}},
}


def levels(peer: Client, count: int) -> tuple[float, float]:
    """Root mean square of the left and right channel over the last `count` audio frames."""
    samples = np.concatenate([f.to_ndarray().reshape(-1, 2) for _, f in peer.sounds[-count:]])
    left, right = np.sqrt((samples.astype(float) ** 2).mean(axis=0))
    return float(left), float(right)


def pts_steps(peer: Client) -> set[int]:
    """Differences between the timestamps of returned audio."""
    return {b.pts - a.pts for (_, a), (_, b) in itertools.pairwise(peer.sounds)}


async def test_without_prompts_audio_returns_as_it_was() -> None:
    """Stereo stays stereo, 960 samples a frame, continuous from 0."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, audio=True) as peer:
        await peer.wait_sounds(40)
        assert peer.sounds[0][1].pts == 0
        assert pts_steps(peer) == {960}
        frame = peer.sounds[-1][1]
        assert (frame.sample_rate, frame.layout.name, frame.samples) == (48_000, "stereo", 960)
        left, right = levels(peer, 20)
        assert left > 3 * right


async def test_a_video_workflow_passes_audio_through() -> None:
    """Audio is untouched by a workflow without audio nodes, and video is processed."""
    async with (
        ComfyStreamStandIn() as standin,
        connect(standin.url, [INVERT], audio=True) as peer,
    ):
        await peer.send_in_step(range(5), [n * STEP for n in range(5)])
        await peer.wait_sounds(30)
        assert peer.pictures[-1].inverted
        left, right = levels(peer, 15)
        assert left > 3 * right


async def test_an_audio_workflow_returns_mono_in_bursts() -> None:
    """Half a second at a time, the mean of both channels in both, video untouched."""
    async with ComfyStreamStandIn() as standin, connect(standin.url, AUDIO, audio=True) as peer:
        await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        assert not peer.pictures[0].inverted
        await peer.wait_sounds(60)
        assert pts_steps(peer) == {960}
        left, right = levels(peer, 30)
        assert abs(left - right) < 0.1 * left
        mean = (peer.audio.LEFT + peer.audio.RIGHT) / 2 / 2**0.5
        assert abs(left - mean) < 0.3 * mean
        gaps = [b - a for (a, _), (b, _) in itertools.pairwise(peer.sounds)]
        assert sum(gap > 0.25 for gap in gaps) >= 2
        assert median(gaps) < 0.01, "20 ms each, were they sent as they are played"


async def test_a_gap_in_prompt_mode_ends_returned_audio_for_good() -> None:
    """Silence without a timestamp breaks the sender; nothing but the audio stops."""
    async with (
        ComfyStreamStandIn(QUICK_GAP) as standin,
        connect(standin.url, [INVERT], audio=True) as peer,
    ):
        await peer.wait_sounds(10)
        peer.audio.gate.clear()
        await until(standin, lambda s: s["connections"][0]["tracks"]["audio"]["sender"] == "ended")
        peer.audio.gate.set()
        before = len(peer.sounds)
        received = standin.state()["connections"][0]["tracks"]["audio"]["received"]
        await until(
            standin,
            lambda s: s["connections"][0]["tracks"]["audio"]["received"] > received + 15,
        )
        assert len(peer.sounds) <= before + 1
        await peer.send_in_step(range(4), [n * STEP for n in range(4)])
        assert peer.pc.connectionState == "connected"


async def test_audio_that_starts_late_in_prompt_mode_never_returns() -> None:
    """The sender has sent silence by then, and can't take stereo any more."""
    async with (
        ComfyStreamStandIn(QUICK_GAP) as standin,
        connect(standin.url, [INVERT], audio=True) as peer,
    ):
        peer.audio.gate.clear()
        await until(standin, lambda s: s["connections"][0]["tracks"]["audio"]["sender"] == "ended")


async def test_a_gap_without_prompts_below_five_seconds_is_survived() -> None:
    """The noop time-out is its own; the gap shows in the timestamps."""
    async with ComfyStreamStandIn(QUICK_GAP) as standin, connect(standin.url, audio=True) as peer:
        await peer.wait_sounds(10)
        peer.audio.gate.clear()
        # Longer than the time-out of prompt mode, which must not apply here.
        await asyncio.sleep(1.5 * QUICK_GAP.audio_timeout_s)
        before = len(peer.sounds)
        peer.audio.gate.set()
        await peer.wait_sounds(before + 15)


async def test_text_of_an_audio_workflow_begins_with_the_warm_up() -> None:
    """The first five messages are about noise that no client sent."""
    async with (
        ComfyStreamStandIn() as standin,
        connect(standin.url, SPEECH, audio=True, channels=["control", "data"]) as peer,
    ):
        await peer.wait_texts(6)
        loudness = [float(text["data"].rsplit(" ", 1)[1]) for text in peer.texts[:6]]
        assert min(loudness[:5]) > 15_000
        assert loudness[5] < 8_000
