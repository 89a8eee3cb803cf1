"""What a handler takes and answers, written where the handler is; `relay.api.openapi` collects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

Described = TypeVar("Described", bound=Callable[..., Any])

FROM_ANY = (400, 401, 403, 429)
"""What any call may be answered before it is looked at."""
FROM_A_BODY = (408, 413, 415)


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. What it does is the handler's docstring."""

    answers: tuple[type[BaseModel], ...] = ()
    """With status 200; none: some JSON object."""
    body: type[BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    """Of the body."""
    any_body: bool = False
    """There may be one, and it does not matter."""
    may_be_held: bool = False
    """Answered 202, in the same shape, where the change waits."""
    errors: tuple[int, ...] = ()
    """Beside those that any call may be answered."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters that are true or false, with what they mean."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Parameters that are positive whole numbers, likewise."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Parameters that may be given several times, likewise."""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


UNDESCRIBED = Operation(errors=(404, 408, 409, 413, 415, 422, 503))


def describes(operation: Operation) -> Callable[[Described], Described]:
    """Attach `operation` to a handler."""

    def attach(handler: Described) -> Described:
        handler.operation = operation  # type: ignore[attr-defined]
        return handler

    return attach


def operation_of(handler: object) -> Operation:
    """What is attached to `handler`."""
    operation = getattr(handler, "operation", UNDESCRIBED)
    assert isinstance(operation, Operation)
    return operation
