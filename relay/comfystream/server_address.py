"""Which addresses name the same ComfyStream server."""

from __future__ import annotations

import ipaddress

from yarl import URL

ALIAS = "/live"
"""ComfyStream serves each route under this prefix too."""


def server_key(base_url: str) -> str:
    """One name for all addresses of a server: ``host:port``, with a path if it has one.

    Names are not resolved: two host names of one machine are two servers here, except for those
    of this machine itself.

    Args:
        base_url: http:// or https://, checked.
    """
    url = URL(base_url)
    path = url.path.rstrip("/").removesuffix(ALIAS).rstrip("/")
    return f"{_host(url.host or '')}:{url.port}{path}"


def _host(name: str) -> str:
    plain = name.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(plain.partition("%")[0])
    except ValueError:
        return plain
    if address.is_loopback or address.is_unspecified:
        return "localhost"
    return f"[{address}]" if address.version == 6 else str(address)
