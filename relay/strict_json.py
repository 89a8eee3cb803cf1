"""JSON from people we don't know: RFC 8259 to the letter, bounded in depth."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

DEEPEST = 64
"""Levels of objects and lists; a ComfyUI workflow has 4 to 6."""
MOST_BRACKETS = 100_000
"""Opening ones. A workflow of 1 MiB has some 40 000; a MiB of nothing but `[]` would keep the
event loop, and with it every session's frames, for a third of a second."""


def parse_json(text: str | bytes) -> Any:
    """The value that `text` writes.

    Numbers that are not JSON (NaN, Infinity) or don't fit a double are refused, and so is
    nesting beyond `DEEPEST`: what is accepted can be walked and written again without surprises.

    Raises:
        ValueError: why it can't be read, in words that follow "the body" or a field's name.
            The text itself is not repeated.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError(f"holds more than {MOST_BRACKETS} lists and objects")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError(f"is nested deeper than {DEEPEST} levels") from None
    except _NumberError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        # CPython refuses to read integers of more than 4300 digits.
        raise ValueError("holds a number with thousands of digits") from None
    if _is_deeper_than(value, DEEPEST):
        raise ValueError(f"is nested deeper than {DEEPEST} levels")
    if _SURROGATE.search(text) and not _is_text(value):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return value


_CONTAINERS = (dict, list)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _NumberError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NumberError(f"holds {name}, which JSON does not have")


def _parse_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NumberError("holds a number beyond the range of a double")
    return value


def _is_text(value: object) -> bool:
    """Whether every string of it can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_deeper_than(value: object, levels: int) -> bool:
    """Level by level, so that no input makes it recurse."""
    layer = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(levels):
        if not layer:
            return False
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, _CONTAINERS)
        ]
    return bool(layer)
