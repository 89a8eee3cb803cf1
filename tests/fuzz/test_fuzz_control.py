"""Messages on ComfyStream's data channel: whatever they hold, who waits gets an answer or an
error of ours, and nobody else hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from relay.comfystream.control import MAX_MESSAGE_BYTES, REPLIES, ControlClient
from relay.comfystream.running_workflow import check_running
from relay.errors import ProcessingError
from tests.fuzz.examples import examples

REQUESTED = [{"1": {"class_type": "Blur", "inputs": {}}}]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "nodes", "success", "error", "class_type", "0"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
replies = st.fixed_dictionaries(
    {"type": st.sampled_from([*REPLIES.values(), *REPLIES]) | json_values},
    optional={
        "nodes": json_values | st.dictionaries(st.text(max_size=2), json_values, max_size=3),
        "success": st.booleans() | json_values,
        "error": json_values,
    },
)
messages = st.one_of(
    replies.map(json.dumps),
    replies.map(lambda value: json.dumps(value).encode()),
    json_values.map(json.dumps),
    st.text(max_size=50),
    st.binary(max_size=50),
    st.sampled_from(["[" * 5000, "1" * 5000, '{"type":' * 2000, " " * (MAX_MESSAGE_BYTES + 1)]),
)


@examples(150)
@given(batch=st.lists(messages, max_size=5))
async def test_any_messages(batch: list[str | bytes]) -> None:
    """A request under way ends with them, or with the true reply that follows."""
    sent: list[str] = []
    control = ControlClient(sent.append)
    control.opened()
    waiting = asyncio.ensure_future(control.get_nodes())
    await asyncio.sleep(0)
    assert [json.loads(message) for message in sent] == [{"type": "get_nodes"}]
    for message in batch:
        control.receive(message)
    control.receive('{"type": "nodes_info", "nodes": {}}')
    async with asyncio.timeout(5):
        with contextlib.suppress(ProcessingError):
            problem = check_running(REQUESTED, await waiting)
            assert problem is None or problem.code == "workflow_not_running"
    control.close()
    for message in batch:
        control.receive(message)
