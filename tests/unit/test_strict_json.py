"""JSON of strangers: what is taken, what is refused, and that nothing gets through to hurt."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.strict_json import DEEPEST, parse_json

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_reads_what_json_writes(value: object) -> None:
    """Every value within the bounds comes back as it was."""
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=True).encode()) == value


@given(st.binary(max_size=200))
def test_bytes_are_a_value_or_a_value_error(raw: bytes) -> None:
    """No bytes raise anything else."""
    with contextlib.suppress(ValueError):
        parse_json(raw)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "line 1, column 1"),
        ('{"a": 1,\n "b": }', "line 2, column 7"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("[1e999]", "double"),
        ("9" * 5000, "digits"),
        (b"\xff", "UTF-8"),
        ("[" * 50_000, "nested"),
        ('{"a":' * 50_000, "nested"),
        ("[" + "[]," * 150_000 + "[]]", "lists and objects"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested"),
    ],
)
def test_refuses_with_a_reason(text: str | bytes, word: str) -> None:
    """The reason is in words, without the text."""
    with pytest.raises(ValueError, match=word):
        parse_json(text)


def test_takes_nesting_up_to_the_bound() -> None:
    """The bound itself is inside."""
    value = parse_json("[" * DEEPEST + "]" * DEEPEST)
    for _ in range(DEEPEST - 1):
        [value] = value
    assert value == []


def test_takes_a_byte_order_mark_and_repeated_keys() -> None:
    """Both are common and harmless; the last of repeated keys counts."""
    assert parse_json(b'\xef\xbb\xbf{"a": 1, "a": 2}') == {"a": 2}


def test_large_numbers_stay_exact() -> None:
    """Seeds of a workflow are integers of up to 64 bits; they keep every digit."""
    assert parse_json("18446744073709551615") == 2**64 - 1
    assert math.isclose(parse_json("1e308"), 1e308)


@pytest.mark.parametrize("text", [r'{"\ud800": 1}', r'["\udC00\ud83d"]', r'"\\\uDBFF"'])
def test_half_a_character_is_refused(text: str) -> None:
    """What can't be written as UTF-8 again; whole pairs and written-out backslashes can."""
    with pytest.raises(ValueError, match="surrogate"):
        parse_json(text)
    assert parse_json(r'["\ud83d\ude00", "\\ud800"]') == ["\U0001f600", r"\ud800"]
