"""Does the server run what it was given?

A ComfyStream that does not know a node's class, or whose node fails at run time, drops the
workflow without a word and passes the pictures through by one of its own (LoadTensor to
SaveTensor). Only the list of its nodes tells (measured; it costs about 11 ms).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from relay.errors import ProcessingError

_OF_THE_STREAM = frozenset(
    {
        *("LoadTensor", "SaveTensor", "PrimaryInputLoadImage", "LoadImage"),
        *("PreviewImage", "SaveImage"),
    }
)
"""The server puts its own for any of these, and its own workflow consists of them."""


def processing_classes(workflows: Iterable[Any]) -> frozenset[str]:
    """The node classes that do something to the picture.

    Args:
        workflows: nodes by id each, with `class_type`; anything else is passed over.
    """
    nodes = [n for flow in workflows if isinstance(flow, dict) for n in flow.values()]
    classes = {str(node.get("class_type")) for node in nodes if isinstance(node, dict)}
    return frozenset(classes - _OF_THE_STREAM)


def check_running(
    requested: Sequence[dict[str, Any]], running: Sequence[dict[str, Any]]
) -> ProcessingError | None:
    """What is wrong, or None. A workflow that changes nothing can't be told from the server's own.

    Args:
        requested: the workflows of the offer.
        running: `ControlClient.get_nodes`.
    """
    wanted = processing_classes(requested)
    if not wanted or wanted & processing_classes(running):
        return None
    return ProcessingError(
        "ComfyStream does not run the workflow it was given, but passes the pictures through: it"
        f" does not have one of {', '.join(sorted(wanted))[:200]}, or a node failed; its log has"
        " the cause",
        code="workflow_not_running",
        nodes=", ".join(sorted(wanted))[:200],
    )
