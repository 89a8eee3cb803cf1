"""Checks that settings and requests share, and their faults in plain words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from yarl import URL

SMALLEST_SIZE = 16
LARGEST_SIZE = 4096
"""Of a side of the picture, in pixels. Below, H.264 macroblocks are not filled; above, no
level that the server's decoder announces allows it."""

LONGEST_URL = 4096
"""Characters; longer ones are refused by most servers as a request line."""

_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

_ICE_URL = re.compile(
    r"stun:[^\s@/?:]+(:[0-9]{1,5})?|turns?:[^\s@/?:]+(:[0-9]{1,5})?(\?transport=(udp|tcp))?"
)


def check_http_url(value: str) -> str:
    """`value` itself, if an HTTP client can fetch it as it stands.

    Raises:
        ValueError: what is wrong with it, in words that follow the field's name. The address
            itself is not repeated: it may hold credentials.
    """
    if not value:
        raise ValueError("must not be empty")
    if len(value) > LONGEST_URL:
        raise ValueError(f"must not be longer than {LONGEST_URL} characters")
    if any(c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn") for c in value):
        raise ValueError("must not contain spaces, line breaks or invisible characters")
    if "\\" in value:
        raise ValueError("must not contain a backslash")
    if _PERCENT.search(value):
        raise ValueError("has a % that no two hexadecimal digits follow; write it as %25")
    scheme, separator, _ = value.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if "#" in value:
        raise ValueError("must not have a fragment (#...)")
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        raise ValueError("is not a valid address") from None
    if not host:
        raise ValueError("names no host")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has a port that is not a number from 1 to 65535")
    try:
        name = URL(value).raw_host or ""
        # The codec that name resolution uses: it refuses empty and overlong labels.
        usable = bool(name.encode("idna")) and len(name) <= 253
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("names a host that is not valid")
    return value


def check_server_url(value: str) -> str:
    """The address of a server to which routes are appended, without trailing slashes.

    Raises:
        ValueError: as `check_http_url`, or because it has a query.
    """
    check_http_url(value)
    if "?" in value:
        raise ValueError("must not have a query (?...): paths are appended to it")
    return value.rstrip("/")


def channel_key(url: str) -> tuple[str, str | None, int | None, str]:
    """What makes two valid addresses the same channel: not their credentials, query or writing."""
    parsed = URL(url)
    return (parsed.scheme, parsed.host, parsed.port, parsed.path.rstrip("/"))


def is_ice_url(value: str) -> bool:
    """Whether it is a STUN or TURN address (RFC 7064, RFC 7065) that aiortc can use: it knows
    neither `stuns:` nor addresses in brackets."""
    return _ICE_URL.fullmatch(value) is not None


def even_size(name: str, size: int, warnings: list[str]) -> int:
    """A side of the picture as H.264 can carry it; one that had to be changed is told of."""
    if size % 2:
        warnings.append(f"{name} {size} is odd, which H.264 can't carry; {size - 1} is used")
    return size - size % 2


def problem_in_words(error: Mapping[str, Any]) -> str:
    """One error of pydantic's as words that follow the field's name, without the input.

    Args:
        error: an entry of `ValidationError.errors()`.
    """
    context: Mapping[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field we know"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "finite_number":
            return "must be a finite number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type" | "string_unicode":
            return "must be a string"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be an object"
        case "greater_than_equal":
            return f"must be at least {_number(context['ge'])}"
        case "less_than_equal":
            return f"must be at most {_number(context['le'])}"
        case "greater_than":
            return f"must be more than {_number(context['gt'])}"
        case "enum" | "literal_error":
            return f"must be one of {context['expected']}"
        case "value_error":
            return str(context["error"])
        case _:
            message = str(error["msg"])
            return message[:1].lower() + message[1:]


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
