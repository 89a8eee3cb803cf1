"""JSON messages of a segment: one object, lines, cut anywhere, and what is no JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.channels.json_messages import BadMessage, JsonMessages


def read(*chunks: bytes, limit: int = 1 << 20) -> list[Any]:
    """All messages of a segment that comes in these chunks."""
    reader = JsonMessages(limit)
    messages = [message for chunk in chunks for message in reader.feed(chunk)]
    return messages + reader.end()


def test_one_object_a_segment() -> None:
    """With or without a line break at the end, also written over several lines."""
    value = {"prompts": [{"1": {"class_type": "LoadTensor", "inputs": {}}}], "width": 512}
    for text in (json.dumps(value), json.dumps(value) + "\n", json.dumps(value, indent=2)):
        assert read(text.encode()) == [value]


def test_lines_are_messages_as_soon_as_they_are_complete() -> None:
    """A segment that stays open gives its lines away; blank lines are nothing."""
    reader = JsonMessages()
    assert reader.feed(b'{"a":1}\n\n{"b"') == [{"a": 1}]
    assert reader.feed(b":2}\n") == [{"b": 2}]
    assert reader.end() == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 200), max_size=6))
def test_where_it_is_cut_does_not_matter(cuts: list[int]) -> None:
    """UTF-8 cut in the middle of a character, a line in its middle: the same messages."""
    values = [{"text": "ünïcödé 日本"}, {"n": 1}, {"deep": {"a": [1, 2]}}]
    data = b"".join(json.dumps(v, ensure_ascii=False).encode() + b"\n" for v in values)
    places = sorted({0, len(data), *(min(c, len(data)) for c in cuts)})
    assert read(*(data[a:b] for a, b in pairwise(places))) == values


@pytest.mark.parametrize("bad", [b"not json", b'{"a": }', b"\xff\xfe", b'{"a": "cut', b"]"])
def test_a_bad_line_does_not_cost_the_others(bad: bytes) -> None:
    """It is told apart in its place, and what follows is read."""
    messages = read(b'{"a":1}\n' + bad + b'\n{"b":2}\n')
    assert [m for m in messages if not isinstance(m, BadMessage)] == [{"a": 1}, {"b": 2}]
    assert sum(isinstance(m, BadMessage) for m in messages) == 1


def test_rubbish_over_several_lines_is_one_bad_message() -> None:
    """Not one a line."""
    [message] = read(b'{\n "a": \n nothing\n')
    assert isinstance(message, BadMessage)


def test_a_message_that_is_too_long_is_given_up() -> None:
    """Nothing is held beyond the limit, whatever else the segment brings."""
    reader = JsonMessages(limit=100)
    assert reader.feed(b'{"a":1}\n') == [{"a": 1}]
    [message] = reader.feed(b'"' + b"x" * 200)
    assert message == BadMessage("is longer than 100 bytes")
    assert reader.feed(b"x" * 1000) == []
    assert reader.end() == []


def test_a_large_message_in_small_reads() -> None:
    """Half a megabyte of base64, 32 KiB at a time (gateways send such pictures)."""
    value = {"prompts": "x" * 500_000}
    data = json.dumps(value).encode()
    assert read(*(data[i : i + 32768] for i in range(0, len(data), 32768))) == [value]
