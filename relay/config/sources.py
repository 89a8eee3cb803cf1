"""Where settings come from: flags, environment, `.env`; and what is wrong with them, in words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from relay.config.settings import (
    OWN_NAMES,
    PREFIX,
    EventLoop,
    LogFormat,
    LogLevel,
    Settings,
    variable_name,
)
from relay.errors import RelayError
from relay.redaction import mask_credentials
from relay.session_config import Fit
from relay.validation import problem_in_words


class SettingsError(RelayError):
    """The settings can't be used.

    Args:
        faults: each names its setting and says what to do.
    """

    code = "invalid_settings"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By setting: ``flag``, ``env``, ``.env`` or ``default``."""
    warnings: tuple[str, ...]
    """What was found but is not a setting."""


def load_settings(
    flags: Mapping[str, Any] | None = None, env_file: Path = Path(".env")
) -> LoadedSettings:
    """Read every source and validate the result once.

    Args:
        flags: what the command line gave, by setting; None stands for not given.

    Raises:
        SettingsError: with every fault.
    """
    given: dict[str, Any] = {k: v for k, v in (flags or {}).items() if v is not None}
    origins = dict.fromkeys(given, "flag")
    from_file = _read_env_file(env_file)
    for origin, values in (
        ("env", _values_in(EnvSettingsSource(Settings))),
        (".env", {name: from_file[name] for name in from_file if name in Settings.model_fields}),
    ):
        for name, value in values.items():
            if name not in given:
                given[name] = value
                origins[name] = origin
    try:
        settings = Settings(**given)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise SettingsError([_fault(fault, given, origins) for fault in faults]) from None
    full = {name: origins.get(name, "default") for name in Settings.model_fields}
    return LoadedSettings(settings, full, tuple(_unknown_variables(from_file)))


def _read_env_file(path: Path) -> dict[str, Any]:
    """What a `.env` file sets, under setting names where they are settings."""
    if not path.is_file():
        return {}
    try:
        return _values_in(DotEnvSettingsSource(Settings, env_file=path, env_file_encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError([f"{path} can't be read: {reason}"]) from None


def _values_in(source: EnvSettingsSource) -> dict[str, Any]:
    values = {name: value for name, value in source().items() if name not in OWN_NAMES}
    for name, variable in OWN_NAMES.items():
        value = source.env_vars.get(variable.lower())
        if value:
            values[name] = value
    return values


def _fault(error: Mapping[str, Any], given: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    problem = problem_in_words(error)
    if not error["loc"]:
        return problem
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        return f"{name} is not a setting"
    inner = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"][1:])
    match origins[name]:
        case "flag":
            where = f"--{name.replace('_', '-')}"
        case ".env":
            where = f"{variable_name(name)}{inner} in .env"
        case _:
            where = f"{variable_name(name)}{inner} in the environment"
    value = given[name]
    if _shows_input(Settings.model_fields[name]) and isinstance(value, str | int | float):
        problem += f", not {mask_credentials(str(value))[:60]!r}"
    if isinstance(value, str) and value.startswith("tcp://"):
        problem += (
            " (Kubernetes sets this for a Service named relay:"
            " rename it, or set enableServiceLinks: false)"
        )
    return f"{where} {problem}"


def _shows_input(field: FieldInfo) -> bool:
    """Lists of servers hold credentials, and long problems speak for themselves."""
    return field.annotation in (int, float, bool, LogLevel, LogFormat, EventLoop, Fit)


_OTHERS_VARIABLES = re.compile(
    r"RELAY_((PORT|SERVICE)_.*"  # Kubernetes links to a Service named relay
    r"|IMAGE|CONTAINER)"  # docker-build.sh and docker-compose.yml
)


def _unknown_variables(from_file: Mapping[str, Any]) -> list[str]:
    known = {variable_name(name) for name in Settings.model_fields}
    found = {name.upper(): "the environment" for name in os.environ}
    found |= {name.upper(): ".env" for name in from_file}
    warnings = []
    for name, where in sorted(found.items()):
        if not name.startswith(PREFIX) or name in known or _OTHERS_VARIABLES.fullmatch(name):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        warnings.append(f"{name} in {where} is not a setting{hint}")
    return warnings
