"""Which H.264 encoder runs: the first of those wanted that proves itself.

That FFmpeg has an encoder says nothing: whether there is a GPU, its driver, and a free session of
its encoder shows only when one is opened and a picture goes through. So each is tried as sessions
use it, once in the life of the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from relay.errors import MediaError
from relay.media import h264
from relay.media.encoder import VideoEncoder
from relay.media.encoder_open import SOFTWARE
from relay.media.picture import black_picture

log = structlog.get_logger(__name__)

AUTO = "auto"
AUTO_ORDER = ("h264_nvenc", "h264_qsv", "h264_amf", SOFTWARE)
"""Hardware first; the one that is always there last."""
PICTURES = 3
_WIDTH, _HEIGHT = 512, 512
"""Hardware encoders refuse small pictures: NVENC those below 145x49."""


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """What was chosen, and why nothing else was."""

    wanted: str
    name: str
    refused: tuple[tuple[str, str], ...] = ()
    """Those that were tried before, each with what is wrong with it."""


def choose_encoder(wanted: str = SOFTWARE) -> EncoderChoice:
    """Try encoders until one works; blocks for a few milliseconds each.

    Args:
        wanted: FFmpeg's name of one, or `auto`. What does not work gives way to x264, which alone
            needs no proof.

    Raises:
        MediaError: not even x264 works.
    """
    if wanted == SOFTWARE:
        return EncoderChoice(wanted, SOFTWARE)
    refused: list[tuple[str, str]] = []
    for name in _candidates(wanted):
        problem = try_encoder(name)
        if problem is None:
            choice = EncoderChoice(wanted, name, tuple(refused))
            _tell(choice)
            return choice
        refused.append((name, problem))
    raise MediaError(
        f"no H.264 encoder works: {'; '.join(f'{name}: {why}' for name, why in refused)}",
        code="encoder_failed",
    )


def try_encoder(name: str) -> str | None:
    """Encode a few pictures as sessions do; None if they came out as they should, else why not."""
    try:
        encoder = VideoEncoder(_WIDTH, _HEIGHT, delimiters=True, codec=name, falls_back=False)
    except MediaError as error:
        return error.message
    try:
        for number in range(PICTURES):
            picture = black_picture(_WIDTH, _HEIGHT)
            forced = number == PICTURES - 1
            units = encoder.encode(picture, number * 3000, force_keyframe=forced)
            if len(units) != 1:
                return f"it holds pictures back: {len(units)} came out of one"
            starts = h264.is_idr(units[0].data)
            if forced and not starts:
                return "it makes no keyframe when asked for one"
            if starts and not _complete(units[0].data):
                return "its keyframes come without SPS and PPS"
    except MediaError as error:
        return error.message
    finally:
        encoder.close()
    return None


def _candidates(wanted: str) -> Sequence[str]:
    if wanted == AUTO:
        return AUTO_ORDER
    return tuple(dict.fromkeys((wanted, SOFTWARE)))


def _complete(data: bytes) -> bool:
    return {h264.NalType.SPS, h264.NalType.PPS} <= {unit.type for unit in h264.nal_units(data)}


def _tell(choice: EncoderChoice) -> None:
    tell = log.info if choice.wanted in (AUTO, choice.name) else log.warning
    tell("encoder.chosen", encoder=choice.name, wanted=choice.wanted, refused=dict(choice.refused))
