"""A file as a live source: copied or encoded again, looped without a seam, refused in words."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from demo.file_source import FileSourceError, generate, inspect

FRAME_TICKS = 3600
AUDIO_TICKS = 1920


def make_file(path: Path, *arguments: str, seconds: float = 2) -> Path:
    """A clip by the ffmpeg command line: a moving picture at 25 fps, a tone, as `arguments` say."""
    command = ["ffmpeg", "-v", "error", "-y"]
    command += ["-f", "lavfi", "-i", f"testsrc2=s=160x120:r=25:d={seconds}"]
    command += ["-f", "lavfi", "-i", "sine=f=440:d=1.4", *arguments, str(path)]
    subprocess.run(command, check=True)
    return path


def read_live(path: Path, loops: int) -> tuple[list[int], list[int], np.ndarray]:
    """Play a file; returns the pts of its pictures, those of its sound, and the sound."""
    data = b"".join(chunk.data for chunk in generate(path, loops=loops))
    with av.open(io.BytesIO(data)) as container:
        pictures = [frame.pts for frame in container.decode(video=0)]
    sound_pts, samples = [], []
    with av.open(io.BytesIO(data)) as container:
        if container.streams.audio:
            for frame in container.decode(audio=0):
                sound_pts.append(frame.pts)
                samples.append(frame.to_ndarray())
    return pictures, sound_pts, np.concatenate(samples, axis=1) if samples else np.zeros((2, 0))


@pytest.mark.parametrize(
    ("arguments", "copied"),
    [
        (("-c:v", "libx264", "-bf", "0", "-g", "25", "-c:a", "aac"), True),
        (("-c:v", "libx264", "-bf", "2", "-g", "25", "-c:a", "aac"), False),
        (("-c:v", "libx264", "-bf", "0", "-g", "250", "-pix_fmt", "yuv444p"), False),
        (("-c:v", "mpeg4", "-c:a", "libmp3lame"), False),
    ],
)
def test_loops_follow_each_other_without_a_seam(
    tmp_path: Path, arguments: tuple[str, ...], copied: bool
) -> None:
    """Played twice, picture and sound go on at an even pace; B-frames and the like are gone."""
    path = make_file(tmp_path / "clip.mkv", *arguments)
    assert inspect(path).copy_video is copied
    pictures, sound_pts, sound = read_live(path, loops=2)
    assert len(pictures) == 100
    assert set(np.diff(pictures)) == {FRAME_TICKS}
    assert set(np.diff(sound_pts)) == {AUDIO_TICKS}
    assert abs(sound_pts[-1] - pictures[-1]) < 2 * FRAME_TICKS
    # The tone, the silence after its end, and the tone again when the second loop begins.
    start = (pictures[0] - sound_pts[0]) * 48_000 // 90_000
    loudness = [
        float(np.abs(sound[0, start + int(at * 48_000) :][:4800]).mean())
        for at in (0.2, 1.7, 2.2, 3.7)
    ]
    assert min(loudness[0], loudness[2]) > 20 * max(loudness[1], loudness[3])


def test_a_long_gop_is_encoded_again(tmp_path: Path) -> None:
    """A file with one keyframe in three seconds would keep every viewer waiting."""
    path = make_file(tmp_path / "clip.mp4", "-c:v", "libx264", "-bf", "0", "-g", "250", seconds=3)
    facts = inspect(path)
    assert not facts.copy_video
    assert "keyframe" in (facts.why_not_copied or "")
    segments = {chunk.segment for chunk in generate(path, loops=1)}
    assert len(segments) == 3


def test_a_sound_track_longer_than_the_picture_ends_with_it(tmp_path: Path) -> None:
    """The second loop's sound begins with the second loop's picture."""
    path = make_file(tmp_path / "clip.mp4", "-c:v", "libx264", "-bf", "0", "-g", "25", seconds=1)
    pictures, sound_pts, _ = read_live(path, loops=3)
    assert len(pictures) == 75
    assert abs(sound_pts[-1] - pictures[-1]) < 2 * FRAME_TICKS


def test_a_file_without_sound_has_none(tmp_path: Path) -> None:
    """No silent track is made up."""
    path = make_file(tmp_path / "clip.mp4", "-an", "-c:v", "libx264", "-bf", "0", "-g", "25")
    pictures, sound_pts, _ = read_live(path, loops=1)
    assert (len(pictures), sound_pts) == (50, [])


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    """Whatever is wrong with it, the message names the file and says what."""
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    sound = make_file(tmp_path / "sound.mka", "-vn")
    clip = make_file(tmp_path / "clip.mkv", "-c:v", "libx264")
    (tmp_path / "cut.mkv").write_bytes(clip.read_bytes()[:2000])
    for path in (
        tmp_path / "text.mp4",
        tmp_path / "empty.mp4",
        tmp_path / "missing.mp4",
        tmp_path / "cut.mkv",
        tmp_path,
        sound,
    ):
        with pytest.raises(FileSourceError) as refusal:
            inspect(path)
        assert str(refusal.value).startswith(f"{path}: ")
        assert "\n" not in str(refusal.value)
