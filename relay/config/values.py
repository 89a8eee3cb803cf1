"""What a setting may look like: the types of its values, and how text becomes one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
)
from pydantic_settings import NoDecode
from yarl import URL

from relay.host_rules import HostRule
from relay.tls import tls_trust
from relay.validation import LARGEST_SIZE, SMALLEST_SIZE, check_server_url, is_ice_url


class IceServer(BaseModel):
    """A STUN or TURN server, as W3C's RTCIceServer writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: Annotated[tuple[str, ...], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
    username: str | None = None
    credential: SecretStr | None = None

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(map(is_ice_url, value)):
            raise ValueError(
                "must be stun:host:port, turn:host:port, turn:host:port?transport=tcp or"
                " turns:host:port, one or a list of them"
            )
        return value

    def to_dict(self) -> dict[str, Any]:
        """The plain form, secrets included, without the fields that are not set."""
        plain = self.model_dump(exclude_none=True)
        if self.credential is not None:
            plain["credential"] = self.credential.get_secret_value()
        return plain | {"urls": list(self.urls)}


def split_list(value: object) -> object:
    """A list from JSON or from text separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return decode_json(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def decode_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("must be a list in JSON") from None


def _check_origin(value: str) -> str:
    if value == "*":
        raise ValueError("must not be '*': name the origins, as in https://app.example.com")
    try:
        url = URL(value)
        origin = url.origin()
    except ValueError:
        raise ValueError("must be origins, as in https://app.example.com:8443") from None
    if url.scheme not in ("http", "https") or url != origin or url.raw_user is not None:
        raise ValueError("must be origins: http:// or https://, a host, perhaps a port, no path")
    return str(origin)  # as browsers write it: without the scheme's own port


def _check_even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even: H.264 pictures have half as many chroma samples a side")
    return value


def _check_host_rule(value: str) -> str:
    HostRule.parse(value)
    return value


def _check_ca_file(value: Path) -> Path:
    tls_trust(value)
    return value


def parse_ports(value: str) -> range:
    """The ports of `FIRST-LAST`, or of one port.

    Raises:
        ValueError: it is neither, in words that follow a setting's name.
    """
    numbers = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", value)
    first = int(numbers[1]) if numbers else 0
    last = int(numbers[2] or first) if numbers else 0
    if not 0 < first <= last < 65536:
        raise ValueError("must be a range of ports, as in 40000-40100")
    return range(first, last + 1)


def _check_ports(value: str) -> str:
    ports = parse_ports(value)
    return f"{ports[0]}-{ports[-1]}"


def _check_token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII characters without spaces")
    return value


Size = Annotated[int, Field(ge=SMALLEST_SIZE, le=LARGEST_SIZE), AfterValidator(_check_even)]
Capacity = Annotated[int, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
ServerUrl = Annotated[str, AfterValidator(check_server_url)]
ServerUrls = Annotated[tuple[ServerUrl, ...], NoDecode, BeforeValidator(split_list)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_check_origin)], ...], NoDecode, BeforeValidator(split_list)
]
IceServers = Annotated[tuple[IceServer, ...], NoDecode, BeforeValidator(decode_json)]
Hosts = Annotated[
    tuple[Annotated[str, AfterValidator(_check_host_rule)], ...],
    NoDecode,
    BeforeValidator(split_list),
]
CaFile = Annotated[Path, AfterValidator(_check_ca_file)]
Token = Annotated[SecretStr, AfterValidator(_check_token)]
Ports = Annotated[str, AfterValidator(_check_ports)]


def _check_output_fps(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("must be 0, or from 1 to 120")
    return value


OutputFps = Annotated[
    float, Field(ge=0, le=120, allow_inf_nan=False), AfterValidator(_check_output_fps)
]
