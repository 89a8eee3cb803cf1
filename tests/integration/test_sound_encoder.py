"""Blocks of sound to units of the output: exact times, and players that read them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from relay.media.audio_decoder import OpusDecoder
from relay.media.audio_encoder import AudioEncoder, OpusEncoder
from relay.media.audio_grid import BLOCK_SAMPLES, BLOCK_TICKS, SoundBlock
from relay.media.segment_muxer import SegmentMuxer
from relay.session_config import AudioCodec
from tests.integration.media_samples import ffmpeg, ffprobe
from tests.sound_listener import hear
from tests.sound_source import tone

START = 1 << 33
"""Past the wrap, where the muxer takes it modulo 2^33."""
UNIT_TICKS = {AudioCodec.AAC: 1920, AudioCodec.OPUS: 1800}


def blocks(seconds: float, start: int = START, quiet_s: float = 0.0) -> list[SoundBlock]:
    """Silence, then a tone."""
    sound = tone(48_000, seconds - quiet_s)
    row = np.concatenate([np.zeros((2, round(quiet_s * 48_000))), sound], axis=1)
    samples = np.round(row.T * 32767).astype(np.int16)
    return [
        SoundBlock(start + n * BLOCK_TICKS, samples[n * BLOCK_SAMPLES : (n + 1) * BLOCK_SAMPLES])
        for n in range(len(samples) // BLOCK_SAMPLES)
    ]


@pytest.mark.parametrize("codec", AudioCodec)
def test_each_sample_is_heard_at_its_time(codec: AudioCodec) -> None:
    """A tone that begins after a second begins there within a millisecond; units are contiguous."""
    encoder = AudioEncoder(codec)
    units = [u for block in blocks(3.0, quiet_s=1.0) for u in encoder.encode(block)]
    units += encoder.flush()
    assert {b.pts - a.pts for a, b in pairwise(units)} == {UNIT_TICKS[codec]}
    heard = hear(units)
    (onset,) = heard.onsets()
    assert abs(onset - (START + 90_000)) < 90
    assert abs(heard.tone(0, START + 150_000) - 1000) < 10
    assert abs(heard.tone(1, START + 150_000) - 1500) < 10


@pytest.mark.parametrize("codec", AudioCodec)
def test_players_read_it(codec: AudioCodec, tmp_path: Path) -> None:
    """ffprobe names the codec, 48 kHz and two channels; ffmpeg decodes it without a word."""
    encoder = AudioEncoder(codec)
    muxer = SegmentMuxer(None, encoder.stream, 0.5)
    units = [u for b in blocks(2.0, 900_000) for u in encoder.encode(b)] + encoder.flush()
    path = tmp_path / "sound.ts"
    path.write_bytes(b"".join(chunk.data for unit in units for chunk in muxer.add(unit)))
    shown = json.loads(ffprobe("-show_streams", "-of", "json", path))["streams"][0]
    assert (shown["codec_name"], shown["sample_rate"], shown["channels"]) == (
        codec.value,
        "48000",
        2,
    )
    assert ffmpeg("-i", path, "-f", "null", "-") == ""


@pytest.mark.parametrize("codec", AudioCodec)
def test_a_jump_begins_a_new_stream_that_never_overlaps(codec: AudioCodec) -> None:
    """After a jump forward by a little, by an hour, or backward: times to the tick, each unit
    later than the one before on its time line, and the tone in its place."""
    encoder = AudioEncoder(codec)
    jumps = [START, START + 90_000 + 5 * BLOCK_TICKS, START + 3600 * 90_000, START - 90_000 * 100]
    units = [u for start in jumps for b in blocks(1.0, start) for u in encoder.encode(b)]
    times = [unit.pts for unit in units + encoder.flush()]
    assert sum(b <= a for a, b in pairwise(times)) == 1, "only the jump backward goes back"
    for start in jumps:
        on_its_grid = {start + n * UNIT_TICKS[codec] - lead for n in (0, 1) for lead in (0, 585)}
        assert on_its_grid & set(times), f"nothing at the jump to {start}"


def test_opus_on_the_wire_is_late_by_its_lookahead_alone() -> None:
    """One packet a block, at once; decoded, the tone is 312 samples behind."""
    encoder, decoder = OpusEncoder(), OpusDecoder()
    decoded = []
    for block in blocks(2.0, quiet_s=1.0):
        samples = decoder.decode(encoder.encode(block.samples))
        assert samples is not None
        assert samples.shape == (BLOCK_SAMPLES, 2)
        decoded.append(samples)
    row = np.concatenate(decoded)[:, 0]
    late = int(np.argmax(np.abs(row) > 1500)) - 48_000
    assert abs(late - OpusEncoder.LOOKAHEAD_SAMPLES) < 48
    assert decoder.decode(b"\xff\xff\xff") is None
