"""What live streams do to a demuxer and a decoder, done to real ones."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from relay.media.access_unit import DecodedFrame, MediaKind
from relay.media.demuxer import TsDemuxer
from relay.media.stream_decoder import TrickleStreamDecoder
from tests.integration.media_samples import sample

NAMES = ["baseline", "high_b_pyramid", "multi_slice"]


class Viewer:
    """Decodes segments to 320x240 and keeps what was shown."""

    def __init__(self, *, drop_damaged: bool = False) -> None:
        self.decoder = TrickleStreamDecoder(320, 240, drop_damaged=drop_damaged)
        self.shown: list[int] = []
        self.damaged = 0

    def watch(self, *segments: bytes, end: bool = True) -> list[int]:
        """Timestamps of the pictures that came out of these segments."""
        before = len(self.shown)
        for segment in segments:
            for begin in range(0, len(segment), 1000):
                self._show(self.decoder.feed(segment[begin : begin + 1000], 0.0))
            self._show(self.decoder.end_segment(0.0))
        if end:
            self._show(list(self.decoder.flush()))
        return self.shown[before:]

    def _show(self, items: list[object]) -> None:
        for item in items:
            if isinstance(item, DecodedFrame):
                assert (item.frame.width, item.frame.height) == (320, 240)
                assert item.frame.format.name == "yuv420p"
                self.shown.append(item.pts)

    def close(self) -> None:
        self.decoder.close()


def packets(data: bytes) -> list[bytes]:
    return [data[i : i + 188] for i in range(0, len(data), 188)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lost_packets_cost_little(name: str, seed: int) -> None:
    """0.2 % loss: the decoder goes on and shows nine pictures of ten, in order."""
    dice = random.Random(seed)
    clean = packets(sample(name))
    damaged = b"".join(p for p in clean if dice.random() > 0.002)
    viewer = Viewer()
    shown = viewer.watch(damaged * 3)
    assert viewer.decoder.stats.damaged_units > 0
    assert len(shown) >= 0.9 * 180
    assert len(viewer.watch(sample(name))) >= 59
    viewer.close()


def test_dropping_damage_freezes_until_the_next_keyframe() -> None:
    """Instead of showing artefacts, if asked."""
    clean = packets(sample("baseline"))
    third = [n for n, p in enumerate(clean) if p[1] == 0x41][2]
    viewer = Viewer(drop_damaged=True)
    shown = viewer.watch(b"".join(clean[: third + 1] + clean[third + 2 :]))
    first = 127_920
    assert shown[:4] == [first, first + 3600, first + 24 * 3600, first + 25 * 3600]
    viewer.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_flipped_bytes_are_survived(name: str, seed: int) -> None:
    """Sixty of them: no exception, most pictures shown, and the next clean segment is clean."""
    dice = random.Random(seed)
    data = bytearray(sample(name))
    for _ in range(60):
        data[dice.randrange(564, len(data))] ^= 1 << dice.randrange(8)
    viewer = Viewer()
    assert len(viewer.watch(bytes(data))) > 20
    clean = viewer.watch(sample(name))
    assert len(clean) == 60
    viewer.close()


@pytest.mark.parametrize("name", NAMES)
def test_segments_muxed_one_by_one_are_one_stream(name: str) -> None:
    """Counters and tables begin anew with each; no picture is lost or doubled."""
    viewer = Viewer()
    shown = viewer.watch(*[sample(name)] * 3)
    assert len(shown) == 180
    assert viewer.decoder.stats.continuity_errors == 0
    assert viewer.decoder.stats.damaged_units == 0
    viewer.close()


@pytest.mark.parametrize("cut", [100, 188 * 31, 188 * 40 + 77, 5000])
def test_a_truncated_segment_costs_only_its_own_end(cut: int) -> None:
    """The next segment is whole, whatever the cut."""
    data = sample("baseline")
    viewer = Viewer()
    viewer.watch(data[:-cut], end=False)
    assert len(viewer.watch(data)) == 60
    viewer.close()


def test_the_size_of_the_picture_may_change() -> None:
    """From segment to segment, and back; the output size stays, as does every picture."""
    viewer = Viewer()
    shown = viewer.watch(
        sample("baseline"), sample("baseline", size="256x144"), sample("baseline", size="128x256")
    )
    assert len(shown) == 180
    viewer.close()


def test_the_codec_may_change() -> None:
    """H.264, then H.265, then MPEG-2, each announced by its own PMT."""
    viewer = Viewer()
    shown = viewer.watch(sample("baseline"), sample("hevc"), sample("mpeg2video"))
    assert len(shown) == 180
    viewer.close()


def test_times_may_jump() -> None:
    """A file that starts over: the pictures go back in time with it, each once."""
    demuxer = TsDemuxer()
    data = sample("baseline")
    times = []
    for _ in range(2):
        units = demuxer.feed(data, 0.0) + demuxer.segment_boundary(0.0)
        times += [u.pts for u in units if u.stream.kind is MediaKind.VIDEO]
    assert sum(b < a for a, b in pairwise(times)) == 1
    viewer = Viewer()
    assert viewer.watch(data, data) == times
    viewer.close()


def test_audio_alone_and_then_video() -> None:
    """A PMT without video first: libav's demuxer gives nothing then; ours takes both up."""
    viewer = Viewer()
    assert viewer.watch(sample("audio_only"), end=False) == []
    assert viewer.decoder.audio is not None
    assert viewer.decoder.video is None
    assert len(viewer.watch(sample("baseline"))) == 60
    viewer.close()


@pytest.mark.parametrize("name", ["baseline", "hevc", "high_b_pyramid"])
def test_pictures_without_end_are_not_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take hundreds of megabytes. It is said why; smaller ones are shown again."""
    monkeypatch.setattr("relay.media.decoder.MOST_PIXELS", 192 * 144)
    viewer = Viewer()
    assert viewer.watch(sample(name, size="320x240")) == []
    assert viewer.decoder.decode_errors > 0
    assert viewer.decoder.problem == "pictures of 320x240 are larger than 27648 pixels"
    assert len(viewer.watch(sample(name, size="176x144"))) >= 59
    assert viewer.decoder.problem is None
    viewer.close()


def test_a_decoder_is_of_no_use_once_closed() -> None:
    """It says so, and closing twice is fine."""
    from relay.errors import MediaError

    viewer = Viewer()
    viewer.watch(sample("baseline"), end=False)
    viewer.close()
    viewer.close()
    with pytest.raises(MediaError):
        viewer.watch(sample("baseline"))
