"""Masks credentials in text that people will read: logs, messages, printed settings."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"

_USERINFO = re.compile(r"(?<=://)[^/?#\s\"'<>\\]*@")
_PARAMETER = re.compile(r"([?&;])([^=&;#?\s\"'<>]{1,200})=([^&;#\s\"'<>]*)")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~:-]+", re.IGNORECASE)
_SECRET_WORD = re.compile(
    r"token|key|sig|secret|passw|pwd|pass$|auth|cred|jwt|policy|bearer|^code$|^k$|^p$",
    re.IGNORECASE,
)


def mask_credentials(text: str) -> str:
    """`text` with the user names, passwords and secret query values of its URLs, and the
    tokens of Authorization headers, replaced by ``***``. Anything else stays.
    """
    if "://" in text:
        text = _USERINFO.sub(f"{MASK}@", text)
    if "=" in text:
        text = _PARAMETER.sub(_mask_parameter, text)
    if " " in text:
        text = _BEARER.sub(rf"\1 {MASK}", text)
    return text


def _mask_parameter(match: re.Match[str]) -> str:
    separator, name, _ = match.groups()
    if _SECRET_WORD.search(unquote(name)):
        return f"{separator}{name}={MASK}"
    return match.group()
