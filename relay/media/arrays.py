"""The part of numpy that sound needs, loaded when sound is first worked on.

numpy takes 11 MB of a process; a relay whose sound goes around the server never needs it. Used as
`from relay.media import arrays as np`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import (
        arange,
        ascontiguousarray,
        concatenate,
        float32,
        full,
        int16,
        interp,
        linspace,
        pad,
        repeat,
        stack,
        zeros,
    )

__all__ = [
    "arange",
    "ascontiguousarray",
    "concatenate",
    "float32",
    "full",
    "int16",
    "interp",
    "linspace",
    "pad",
    "repeat",
    "stack",
    "zeros",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np

    globals().update({wanted: getattr(np, wanted) for wanted in __all__})
    return globals()[name]
