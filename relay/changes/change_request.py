"""A request to change a session, from HTTP or from a control channel, as a checked change.

What clients of our own API send is taken literally and refused with every fault. What gateways
send on a control channel is params of many writers: numbers as text, `prompt` for `prompts`,
keys that are not for us.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from relay.changes.session_change import SessionChange
from relay.comfystream.workflow_check import quoted, takes_sound
from relay.comfystream.workflows import NormalizedPrompts, PromptsError
from relay.errors import MOST_FAULTS, ValidationFailed
from relay.session_config import Coding
from relay.validation import LARGEST_SIZE, SMALLEST_SIZE, even_size

CODING_FIELDS = ("ingest", "egress")
CHANGE_FIELDS = ("prompts", "width", "height", "paused", *CODING_FIELDS)
PARAMETERS = frozenset({*CHANGE_FIELDS, "max_framerate"})
"""What a control channel's message can change."""
HIGHEST_FRAMERATE = 60
"""pytrickle's."""
_WHOLE_NUMBER = re.compile(r"\s*([0-9]{1,9})\s*")


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """What was understood."""

    change: SessionChange
    warnings: tuple[str, ...] = ()


def read_change(
    params: Mapping[str, object],
    normalize: Callable[[object], NormalizedPrompts],
    *,
    has_sound: bool,
    lenient: bool = False,
) -> ChangeRequest:
    """Check `params`. A field that is null counts as not given.

    Args:
        normalize: makes workflows of prompts in any shape.
        has_sound: whether the session sends sound to ComfyStream, which is settled when it starts.
        lenient: read it as a control channel's message; one without anything for us is an empty
            change.

    Raises:
        ValidationFailed: with every fault.
    """
    reader = _Reader(normalize, has_sound, lenient)
    given = {name: value for name, value in params.items() if value is not None}
    if lenient:
        given = _plain(given)
    sizes = {name: reader.size(name, given[name]) for name in ("width", "height") if name in given}
    prompts = reader.prompts(given["prompts"]) if "prompts" in given else None
    paused = reader.paused(given["paused"]) if "paused" in given else None
    coding = {name: reader.coding(name, given[name]) for name in CODING_FIELDS if name in given}
    wants_rate = lenient and "max_framerate" in given
    max_fps = reader.framerate(given["max_framerate"]) if wants_rate else None
    if not lenient:
        reader.refuse_unknown(params)
        if not given and not reader.faults:
            reader.fault("the body", f"changes nothing; give one of {', '.join(CHANGE_FIELDS)}")
    if reader.faults:
        raise ValidationFailed(reader.faults)
    change = SessionChange(
        prompts,
        sizes.get("width"),
        sizes.get("height"),
        paused,
        max_fps,
        **coding,
        params=given if lenient and set(given) & PARAMETERS else None,
    )
    return ChangeRequest(change, tuple(reader.warnings))


def _plain(params: dict[str, object]) -> dict[str, object]:
    """A control message's fields by our names."""
    inner = params.get("params")
    if isinstance(inner, dict) and not set(params) & PARAMETERS:
        params = {name: value for name, value in inner.items() if value is not None}
    if "prompts" not in params and "prompt" in params:
        prompt = params["prompt"]
        is_words = isinstance(prompt, str) and not prompt.lstrip().startswith(("{", "["))
        params["prompts"] = {"text": prompt} if is_words else prompt
    return params


class _Reader:
    """Collects faults and warnings."""

    def __init__(
        self, normalize: Callable[[object], NormalizedPrompts], has_sound: bool, lenient: bool
    ) -> None:
        self.faults: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self._normalize = normalize
        self._has_sound = has_sound
        self._lenient = lenient

    def fault(self, name: str, problem: str) -> None:
        self.faults.append({"field": name, "problem": problem})

    def prompts(self, value: object) -> list[dict[str, Any]]:
        try:
            normalized = self._normalize(value)
        except PromptsError as error:
            self.faults.extend(fault.to_dict() for fault in error.faults)
            return []
        self.warnings.extend(normalized.warnings)
        if takes_sound(normalized.workflows) and not self._has_sound:
            self.fault(
                "prompts",
                "take sound, and this session sends none to ComfyStream, which is settled when it"
                " starts; start a session with this workflow",
            )
        return normalized.workflows

    def framerate(self, value: object) -> int | None:
        number = self._whole(value)
        if number is not None and 1 <= number <= HIGHEST_FRAMERATE:
            return number
        self.fault("max_framerate", f"must be a whole number from 1 to {HIGHEST_FRAMERATE}")
        return None

    def _whole(self, value: object) -> int | None:
        number = value
        if self._lenient and isinstance(number, str) and (text := _WHOLE_NUMBER.fullmatch(number)):
            number = int(text[1])
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        return number if isinstance(number, int) and not isinstance(number, bool) else None

    def size(self, name: str, value: object) -> int | None:
        number = self._whole(value)
        if number is None:
            self.fault(name, "must be a whole number")
        elif not SMALLEST_SIZE <= number <= LARGEST_SIZE:
            self.fault(name, f"must be from {SMALLEST_SIZE} to {LARGEST_SIZE}")
        else:
            return even_size(name, number, self.warnings)
        return None

    def paused(self, value: object) -> bool | None:
        if isinstance(value, bool):
            return value
        self.fault("paused", "must be true or false")
        return None

    def coding(self, name: str, value: object) -> Coding | None:
        try:
            return Coding(str(value))
        except ValueError:
            self.fault(name, f"must be one of {', '.join(Coding)}")
            return None

    def refuse_unknown(self, params: Mapping[str, object]) -> None:
        for name in list(params)[:MOST_FAULTS]:
            if name not in CHANGE_FIELDS:
                close = difflib.get_close_matches(name[:40], CHANGE_FIELDS, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self.fault(quoted(name), f"is not a field that can be changed{hint}")
