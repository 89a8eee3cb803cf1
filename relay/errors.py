"""Every error the relay raises on purpose, in one tree.

    RelayError
    +-- RequestError            a client asked for something we refuse (HTTP 4xx)
    |   +-- ValidationFailed    with every fault of what it sent
    +-- BusyError               we can't take more just now (503, Retry-After)
    +-- TrickleError            the trickle side
    +-- MediaError              bytes that are not the media they claim to be
    +-- ProcessingError         ComfyStream, or the connection to it

Stages raise, the session decides, the HTTP border translates. Each class says whether the
same call may succeed later (`retryable`), which stable word names it (`code`) and which HTTP
status a client sees if it gets that far (`http_status`). Messages say what happened and what
to do about it; they never hold prompt text or credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

MOST_FAULTS = 50
"""Of one request, that are told."""


class RelayError(Exception):
    """Base of all deliberate errors.

    Args:
        message: what happened and what to do, in one sentence a person can act on.
        code: a more specific stable word than the class's own.
        details: further fields for the HTTP answer; plain JSON values.
    """

    code: str = "relay_error"
    retryable: ClassVar[bool] = False
    http_status: int = 500

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.details = details

    @property
    def message(self) -> str:
        return str(self.args[0])


class RequestError(RelayError):
    """What a client sent can't be served as it is.

    Args:
        http_status: the 4xx status that fits; 400 when nothing closer does.
        headers: of the answer, where the status wants some.
    """

    code = "bad_request"
    http_status = 400

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        http_status: int = 400,
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, code=code, **details)
        self.http_status = http_status
        self.headers = dict(headers or {})


class ValidationFailed(RequestError):
    """A request, or a message, with faults.

    Args:
        faults: ``{"field", "problem"}`` each, perhaps with more. Three are named in the message,
            fifty in the details.
    """

    def __init__(self, faults: list[dict[str, str]]) -> None:
        shown = "; ".join(f"{fault['field']} {fault['problem']}" for fault in faults[:3])
        more = f"; and {len(faults) - 3} more, see details" if len(faults) > 3 else ""
        super().__init__(
            f"{shown}{more}",
            code="validation_failed",
            http_status=422,
            details=faults[:MOST_FAULTS],
        )


class BusyError(RelayError):
    """The relay is full, starting or draining.

    Args:
        retry_after_s: whole seconds after which asking again makes sense.
    """

    code = "busy"
    retryable = True
    http_status = 503

    def __init__(
        self, message: str, *, retry_after_s: int = 5, code: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, code=code, **details)
        self.retry_after_s = retry_after_s


class TrickleError(RelayError):
    """A trickle channel did not do what we need of it."""

    code = "trickle_error"
    http_status = 502


class MediaError(RelayError):
    """Media that can't be demuxed, decoded, encoded or muxed."""

    code = "media_error"
    http_status = 502


class ProcessingError(RelayError):
    """ComfyStream, or the WebRTC connection to it, failed. A new connection may work."""

    code = "processing_error"
    retryable = True
    http_status = 502
