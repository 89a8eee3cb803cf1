"""How the demo and the benchmarks call the relay that they start."""

from __future__ import annotations

from relay.config.sources import SettingsError, load_settings


def api_headers() -> dict[str, str]:
    """The Authorization header, where the relay's settings ask for one."""
    try:
        token = load_settings().settings.api_token
    except SettingsError:
        return {}  # the relay itself will not start, and says why
    return {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
