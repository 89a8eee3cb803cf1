"""The node classes a workflow can use, as functions on numpy arrays.

Images are uint8 RGB arrays of shape (height, width, 3); audio is an `Audio` of mono int16
samples; text is `str`. A function gets the run it is part of, the dictionary that its node keeps
from run to run, and its inputs by name; it returns its outputs as a tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from demo import barcode

if TYPE_CHECKING:
    from demo.standin.engine import Run

Image = np.ndarray
NodeFunction = Callable[..., tuple[Any, ...]]


class NodeFailed(Exception):
    """A node can't do what the workflow asks of it."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Mono samples and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int


@dataclass(frozen=True, slots=True)
class InputType:
    """One input of a node class, as ``get_nodes`` describes it."""

    type: str
    required: bool = True
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class NodeClass:
    name: str
    inputs: dict[str, InputType]
    function: NodeFunction
    is_output: bool = False


@dataclass(slots=True)
class _Registry:
    classes: dict[str, NodeClass] = field(default_factory=dict)

    def node(
        self, name: str, *, is_output: bool = False, **inputs: InputType
    ) -> Callable[[NodeFunction], NodeFunction]:
        def register(function: NodeFunction) -> NodeFunction:
            self.classes[name] = NodeClass(name, inputs, function, is_output)
            return function

        return register


_registry = _Registry()
NODE_CLASSES = _registry.classes
_node = _registry.node

_IMAGE = InputType("IMAGE")
_AUDIO = InputType("AUDIO")
_STRING = InputType("STRING")
_TIMEOUT = InputType("FLOAT", required=False, min=0.1, max=30.0)


@_node("LoadTensor", timeout_seconds=_TIMEOUT)
def load_tensor(run: Run, _memory: dict[str, Any], timeout_seconds: float = 1.0) -> tuple[Image]:
    """The newest frame of the stream; a wait of up to `timeout_seconds` if there is none."""
    return (run.take_image(timeout_seconds),)


@_node("SaveTensor", is_output=True, images=_IMAGE)
def save_tensor(run: Run, _memory: dict[str, Any], images: Image) -> tuple[()]:
    """Give a picture back to the stream."""
    run.give_image(images)
    return ()


@_node("LoadAudioTensor", buffer_size=InputType("FLOAT"), timeout_seconds=_TIMEOUT)
def load_audio_tensor(
    run: Run, memory: dict[str, Any], buffer_size: float, timeout_seconds: float = 3.0
) -> tuple[Audio]:
    """`buffer_size` milliseconds of audio.

    The first `buffer_size` a node sees stays in force as long as the node is in the workflow,
    whatever later workflows say. Samples gathered before a time-out are lost.
    """
    if "buffer_samples" not in memory:
        first = run.take_audio(timeout_seconds)
        memory["sample_rate"] = first.sample_rate
        memory["buffer_samples"] = int(first.sample_rate * buffer_size / 1000)
        memory["left_over"] = first.samples
    wanted: int = memory["buffer_samples"]
    chunks = [memory["left_over"]]
    held = len(chunks[0])
    while held < wanted:
        chunk = run.take_audio(timeout_seconds)
        if chunk.sample_rate != memory["sample_rate"]:
            raise NodeFailed(
                f"Sample rate mismatch: expected {memory['sample_rate']}Hz, "
                f"got {chunk.sample_rate}Hz"
            )
        chunks.append(chunk.samples)
        held += len(chunk.samples)
    samples = np.concatenate(chunks)
    memory["left_over"] = samples[wanted:]
    return (Audio(samples[:wanted], memory["sample_rate"]),)


@_node("SaveAudioTensor", is_output=True, audio=_AUDIO)
def save_audio_tensor(run: Run, _memory: dict[str, Any], audio: Audio) -> tuple[()]:
    """Give audio back to the stream."""
    run.give_audio(audio.samples)
    return ()


@_node(
    "SaveTextTensor", is_output=True, data=_STRING, remove_linebreaks=InputType("BOOLEAN", False)
)
def save_text_tensor(
    run: Run, _memory: dict[str, Any], data: str, remove_linebreaks: bool = True
) -> tuple[str]:
    """Give text back on the data channel."""
    text = data.replace("\n", "").replace("\r", "") if remove_linebreaks else data
    run.give_text(text)
    return (text,)


@_node("LoadImage", image=_STRING)
def load_image(_run: Run, _memory: dict[str, Any], image: str) -> tuple[Image]:
    """A second picture beside the stream's: a grey ramp, whatever file is named."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return (np.repeat(np.tile(ramp, (64, 1))[:, :, None], 3, axis=2),)


@_node("ImageInvert", image=_IMAGE)
def image_invert(_run: Run, _memory: dict[str, Any], image: Image) -> tuple[Image]:
    """The negative."""
    return (255 - image,)


@_node(
    "ImageScale",
    image=_IMAGE,
    upscale_method=InputType("COMBO", required=False),
    width=InputType("INT", min=0, max=16384),
    height=InputType("INT", min=0, max=16384),
    crop=InputType("COMBO", required=False),
)
def image_scale(
    _run: Run,
    _memory: dict[str, Any],
    image: Image,
    width: int,
    height: int,
    upscale_method: str = "bilinear",
    crop: str = "disabled",
) -> tuple[Image]:
    """Another size; an odd one ends the server's video sender."""
    return (resize(image, int(width), int(height)),)


@_node(
    "ImageBlend",
    image1=_IMAGE,
    image2=_IMAGE,
    blend_factor=InputType("FLOAT", min=0.0, max=1.0),
    blend_mode=InputType("COMBO", required=False),
)
def image_blend(
    _run: Run,
    _memory: dict[str, Any],
    image1: Image,
    image2: Image,
    blend_factor: float,
    blend_mode: str = "normal",
) -> tuple[Image]:
    """A mix of two pictures, at the size of the first."""
    other = resize(image2, image1.shape[1], image1.shape[0])
    mixed = image1 * (1.0 - blend_factor) + other * float(blend_factor)
    return (mixed.astype(np.uint8),)


@_node("PitchShifter", audio=_AUDIO, pitch_shift=InputType("FLOAT", min=-12.0, max=12.0))
def pitch_shifter(
    _run: Run, _memory: dict[str, Any], audio: Audio, pitch_shift: float
) -> tuple[Audio]:
    """Each buffer played faster or slower by `pitch_shift` semitones, its length kept."""
    count = len(audio.samples)
    positions = (np.arange(count) * 2.0 ** (float(pitch_shift) / 12.0)) % max(count - 1, 1)
    shifted = np.interp(positions, np.arange(count), audio.samples)
    return (Audio(shifted.astype(np.int16), audio.sample_rate),)


@_node("AudioTranscriptionNode", audio=_AUDIO)
def audio_transcription(_run: Run, _memory: dict[str, Any], audio: Audio) -> tuple[str]:
    """What can be told of a buffer without a speech model: its length and loudness."""
    seconds = len(audio.samples) / audio.sample_rate
    level = float(np.sqrt(np.mean(audio.samples.astype(np.float64) ** 2))) if seconds else 0.0
    return (f"{seconds:.2f} s at level {level:.0f}",)


@_node("PrimitiveString", value=_STRING)
def primitive_string(_run: Run, _memory: dict[str, Any], value: str) -> tuple[str]:
    """A constant text."""
    return (value,)


@_node("FrameNumber", image=_IMAGE)
def frame_number(_run: Run, _memory: dict[str, Any], image: Image) -> tuple[str]:
    """The number in a picture of the test pattern, as text."""
    reading = barcode.read(image)
    return (str(reading.number) if reading else "none",)


def resize(image: Image, width: int, height: int) -> Image:
    """Scale to `width` x `height` pixels, aspect not kept."""
    if image.shape[:2] == (height, width):
        return image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=width, height=height).to_ndarray(format="rgb24")
