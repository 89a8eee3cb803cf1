"""Whose TLS certificates are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path


def tls_trust(ca_file: Path | None, *, insecure: bool = False) -> ssl.SSLContext | bool:
    """What an aiohttp connector takes as `ssl`.

    Args:
        ca_file: authorities trusted beside the system's, PEM.
        insecure: any certificate will do.

    Raises:
        ValueError: the file can't be used, in words that follow a setting's name.
    """
    if insecure:
        return False
    if ca_file is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError:
        raise ValueError(f"names {ca_file}, which holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(f"names {ca_file}, which can't be read: {error.strerror}") from None
    return context
