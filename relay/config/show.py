"""Settings as people read them: values and origins, the table of the manual."""

from __future__ import annotations

import json

from relay.config.settings import Settings, variable_name
from relay.config.sources import LoadedSettings
from relay.config.values import IceServer
from relay.redaction import mask_credentials


def print_lines(loaded: LoadedSettings) -> list[str]:
    """One line for each setting: variable, value with secrets masked, origin."""
    rows = [
        (variable_name(name), shown_value(getattr(loaded.settings, name)), loaded.origins[name])
        for name in Settings.model_fields
    ]
    name_width = max(len(row[0]) for row in rows)
    value_width = min(48, max(len(row[1]) for row in rows))
    return [f"{n:<{name_width}}  {v:<{value_width}}  {origin}" for n, v, origin in rows]


def settings_table() -> str:
    """The settings as a Markdown table; README.md holds it between its settings markers."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = shown_value(field.default)
        shown = f"`{default}`" if default else "none"
        lines.append(f"| `{variable_name(name)}` | {shown} | {field.description} |")
    return "\n".join(lines)


def shown_value(value: object) -> str:
    """A setting's value as one would write it in `.env`, secrets masked."""
    match value:
        case None | ():
            return ""
        case bool():
            return str(value).lower()
        case (IceServer(), *_):
            assert isinstance(value, tuple)
            return json.dumps([s.model_dump(mode="json", exclude_none=True) for s in value])
        case tuple():
            return ",".join(str(part) for part in value)
        case float():
            return f"{value:g}" if value != int(value) else f"{value:.1f}"
        case _:
            return mask_credentials(str(value))
