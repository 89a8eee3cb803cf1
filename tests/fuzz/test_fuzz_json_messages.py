"""Bytes on a control channel: values or what is wrong with them, and nothing is raised or kept."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.channels.json_messages import BadMessage, JsonMessages
from tests.fuzz.examples import examples

LIMIT = 200

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
pieces = st.lists(
    st.one_of(
        json_values.map(lambda value: json.dumps(value).encode()),
        json_values.map(lambda value: json.dumps(value, indent=1).encode()),
        st.binary(max_size=30),
        st.sampled_from([b"\n", b"{", b"]", b"{\n", b"NaN", b"\xff", b"[" * 300, b'"\\ud800"']),
    ),
    max_size=6,
)


def read(chunks: list[bytes]) -> tuple[list[Any], int]:
    """What comes out of a segment of these chunks, and the most that was held meanwhile."""
    reader = JsonMessages(LIMIT)
    values: list[Any] = []
    held = 0
    for chunk in chunks:
        values += reader.feed(chunk)
        held = max(held, len(reader._held))
    values += reader.end()
    return values, held


@examples(200)
@given(parts=pieces, separator=st.sampled_from([b"\n", b"", b"\r\n"]), size=st.integers(1, 40))
def test_any_bytes_in_any_chunks(parts: list[bytes], separator: bytes, size: int) -> None:
    """No more is held than the limit, and there is no more output than input."""
    data = separator.join(parts)
    values, held = read([data[at : at + size] for at in range(0, len(data), size)])
    assert held <= LIMIT
    assert len(values) <= data.count(b"\n") + 2
    assert all(value.problem for value in values if isinstance(value, BadMessage))


@examples(100)
@given(values=st.lists(json_values, max_size=5), size=st.integers(1, 40))
def test_lines_of_json_come_out_whatever_the_chunks(values: list[Any], size: int) -> None:
    """Each value once, in order."""
    reader = JsonMessages()
    data = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    found: list[Any] = []
    for at in range(0, len(data), size):
        found += reader.feed(data[at : at + size])
    assert found + reader.end() == values
