"""How fast this machine is just now: what the two codecs of the path cost by themselves."""

from __future__ import annotations

import time
from datetime import datetime
from fractions import Fraction

import av

from demo.live_encoder import LiveEncoder, VideoSettings
from demo.picture import TestCard

_FRAMES = 60


def codec_cpu_ms(width: int, height: int) -> float:
    """CPU milliseconds to decode a picture and encode it with x264 superfast, nothing else, by this
    thread's own clock.

    A relay that transcodes both ways can't cost less than twice this a frame. Blocks for about
    half a second.
    """
    card = TestCard(width, height)
    settings = VideoSettings(width, height, Fraction(30), preset="superfast")
    pictures = [
        card.draw(number, number / 30, datetime.min, flash=False) for number in range(_FRAMES)
    ]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    with LiveEncoder(settings, audio=False) as encoder:
        began = time.thread_time()
        for number, picture in enumerate(pictures):
            for packet in encoder.encode(picture, number * 3000):
                decoder.decode(packet)
        return (time.thread_time() - began) * 1000 / _FRAMES
