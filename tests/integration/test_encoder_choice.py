"""Encoders of graphics cards are tried, and x264 takes their place; here there is no card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import pytest
import structlog

from relay.config.settings import Settings, VideoEncoderName
from relay.errors import MediaError
from relay.media import encoder_choice, encoder_open
from relay.media.decoder import VideoDecoder
from relay.media.encoder import VideoEncoder
from relay.media.encoder_choice import AUTO, AUTO_ORDER, choose_encoder, try_encoder
from relay.media.encoder_open import SOFTWARE, EncoderSettings, open_encoder
from relay.media.picture import black_picture
from relay.media.segment_encoder import TrickleSegmentEncoder
from relay.session.manager import SessionManager

CARDS = [name for name in AUTO_ORDER if name != SOFTWARE]


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def fake_card(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """A card of which x264 plays the part, with other options."""

    def options(settings: EncoderSettings) -> dict[str, str]:
        return encoder_open._x264(settings) | changes

    monkeypatch.setitem(encoder_open._ENCODERS, "h264_nvenc", ("nv12", options))
    create = av.CodecContext.create

    def created(name: str, mode: str) -> Any:
        return create(SOFTWARE if name == "h264_nvenc" else name, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder_open.av.CodecContext, "create", created)


def test_what_is_always_there_is_not_tried(
    lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """x264 costs the start nothing, and says nothing."""
    monkeypatch.setattr(encoder_choice, "try_encoder", lambda _: pytest.fail("tried"))
    assert choose_encoder(SOFTWARE).name == SOFTWARE
    assert lines == []


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_is_not_there_gives_way(name: str, lines: list[Any]) -> None:
    """Really tried; one line says why."""
    choice = choose_encoder(name)
    assert (choice.wanted, choice.name) == (name, SOFTWARE)
    [(refused, why)] = choice.refused
    assert refused == name
    assert "does not open for" in why
    [line] = lines
    assert (line["event"], line["log_level"]) == ("encoder.chosen", "warning")
    assert list(line["refused"]) == [name]


def test_auto_tries_every_card_first(lines: list[Any]) -> None:
    """And is content with x264, in one line."""
    choice = choose_encoder(AUTO)
    assert choice.name == SOFTWARE
    assert [name for name, _ in choice.refused] == CARDS
    [line] = lines
    assert line["log_level"] == "info"


def test_the_proof_is_what_sessions_need() -> None:
    """x264 passes it."""
    assert try_encoder(SOFTWARE) is None


def test_a_card_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures go through in the format that it wants, and come out to the tick."""
    fake_card(monkeypatch)
    assert choose_encoder(AUTO).name == "h264_nvenc"
    encoder, decoder = VideoEncoder(64, 48, codec="h264_nvenc"), VideoDecoder("h264")
    pictures = []
    for number in range(5):
        [unit] = encoder.encode(black_picture(64, 48), 7 + 3000 * number)
        pictures += decoder.decode(unit)
    assert encoder.codec == "h264_nvenc"
    encoder.close()
    decoder.close()
    assert [picture.pts for picture in pictures] == [7 + 3000 * number for number in range(5)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"preset": "medium", "tune": "film", "x264-params": "threads=3:bframes=0"},
            "holds pictures back",
        ),
        ({"x264-params": "repeat-headers=0"}, "without SPS and PPS"),
    ],
)
def test_one_that_is_of_no_use_is_not_taken(
    changes: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens, and holds pictures back, or makes keyframes that do not stand alone."""
    fake_card(monkeypatch, **changes)
    choice = choose_encoder("h264_nvenc")
    assert choice.name == SOFTWARE
    assert problem in choice.refused[0][1]


def test_a_card_that_has_no_session_left_gives_way(lines: list[Any]) -> None:
    """It worked at the start, and does not open for this session: x264 does its work."""
    encoder = TrickleSegmentEncoder(64, 48, codec="h264_nvenc")
    assert encoder.codec == SOFTWARE
    encoder.finish()
    assert [line["event"] for line in lines] == ["encoder.fell_back"]


def test_a_card_that_fails_in_the_middle_gives_way(
    monkeypatch: pytest.MonkeyPatch, lines: list[Any]
) -> None:
    """No picture is lost, and decoding goes on with a keyframe."""
    fake_card(monkeypatch)
    encoder = VideoEncoder(64, 48, codec="h264_nvenc")
    [first] = encoder.encode(black_picture(64, 48), 0)

    class Broken:
        pix_fmt = "nv12"
        time_base = 1

        def encode(self, _: object) -> None:
            raise av.ExternalError(1, "the card is gone")

    encoder._context = Broken()  # type: ignore[assignment]
    [second] = encoder.encode(black_picture(64, 48), 3000)
    [third] = encoder.encode(black_picture(64, 48), 6000)
    assert encoder.codec == SOFTWARE
    encoder.close()
    assert [unit.keyframe for unit in (first, second, third)] == [True, True, False]
    assert [line["event"] for line in lines] == ["encoder.fell_back"]
    strict = VideoEncoder(64, 48, codec="h264_nvenc", falls_back=False)
    strict._context = Broken()  # type: ignore[assignment]
    with pytest.raises(MediaError, match="h264_nvenc failed"):
        strict.encode(black_picture(64, 48), 0)


def test_an_encoder_that_nobody_knows_is_refused() -> None:
    """By name, not by a KeyError."""
    settings = EncoderSettings(64, 48, 30.0, 200_000, 10.0, False, "high", "superfast", 1)
    with pytest.raises(MediaError, match="mpeg2video does not open"):
        open_encoder("mpeg2video", settings)


async def test_the_relay_s_sessions_get_what_was_chosen() -> None:
    """Chosen once, at the start, and told by the metrics."""
    manager = SessionManager(Settings(video_encoder=VideoEncoderName.AUTO))
    await manager.start()
    try:
        [(_, own)] = await manager.tallies()
        assert own.gauges["video_encoder", (SOFTWARE,)] == 1
        assert manager._resources is not None
        encoder = manager._resources.make_uplink_encoder(64, 48)
        assert encoder.codec == SOFTWARE
        encoder.close()
    finally:
        await manager.aclose(timeout_s=1.0)
