"""Settings that work and that an operator should know about."""

from __future__ import annotations

import ipaddress

from relay.config.settings import Settings


def security_warnings(settings: Settings) -> list[str]:
    """What leaves the relay more open than it need be; a sentence each, with the cure."""
    warnings = []
    if settings.api_token is None and not _only_this_machine(settings.host):
        warnings.append(
            f"anyone who reaches {settings.host} port {settings.port} may start sessions and stop"
            " those of others: set RELAY_API_TOKEN, or listen on 127.0.0.1"
        )
    if settings.tls_insecure:
        warnings.append(
            "RELAY_TLS_INSECURE: https:// protects against nobody who can stand in between; give"
            " RELAY_TLS_CA_FILE the authority of your servers instead"
        )
    return warnings


def _only_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
